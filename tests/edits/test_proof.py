"""An edit that changes nothing raises and says why; the two declared no-ops do not; proofs of one prompt share a clean pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.edits.conftest import said
from vila_lab.edits.program import Program
from vila_lab.engine.proof import KEPT
from vila_lab.errors import NoEffect, VilaLabError
from vila_lab.hooks.call import AttentionCall
from vila_lab.hooks.edited_layer import EditedLayer

# -- the two silent no-ops of published tools ----------------------------------------------------------------------


def false_is_zero(self: EditedLayer, view: Any, rows: Any) -> torch.Tensor:
    """A knock-out made for boolean masks: in an additive one its False is 0, which closes nothing."""
    mask = view.own_mask(rows).expand(1, 1, -1, -1).clone()
    for bias in self.biases:
        mask[..., torch.from_numpy(view.edges(bias, rows))] = False
    return mask


def returns_without_a_mask(attend: Any) -> Any:
    """Steering made for eager attention: where the mask is None it returns."""

    def steered(self: EditedLayer, call: AttentionCall):
        return call.plain(call.query, call.key, call.value, None) if call.mask is None else attend(self, call)

    return steered


@pytest.mark.parametrize("edge", ["image_2 -> *", "image_1 -> answer", "images -> question"])
def test_a_knockout_that_writes_false_into_an_additive_mask_is_found_out(edge, lab, eager, question, monkeypatch):
    monkeypatch.setattr(EditedLayer, "mask", false_is_zero)
    monkeypatch.setattr(EditedLayer, "_closed_alike", lambda *given: None)  # every cut by a mask
    for session in (lab, eager):
        with session.knockout(edge), pytest.raises(NoEffect, match=r"knock-out of .* changes nothing: the logits"):
            session.ask(question)


def test_steering_that_returns_where_the_mask_is_none_is_found_out(lab, eager, question, monkeypatch):
    monkeypatch.setattr(EditedLayer, "attend", returns_without_a_mask(EditedLayer.attend))
    with lab.steer("image_1", 5.0), pytest.raises(NoEffect, match=r"steering by \+5 .* changes nothing: the logits"):
        lab.ask(question)
    with eager.steer("image_1", 5.0):
        # Where the mask is written out, the same hook works: that is why its authors did not notice.
        eager.ask(question)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_edit_without_effect_among_others_is_named(position, lab, question):
    """Each edit is proven on top of those before it, so others cannot vouch for it."""
    edits = [lambda: lab.knockout("image_1 -> answer"), lambda: lab.scale_heads([(4, 0)], 0.0)]
    edits.insert(position, lambda: lab.scale_heads([(4, 3)], 1 + 1e-9))
    handles = [edit() for edit in edits]
    with pytest.raises(NoEffect, match=r"scaling by 1 of heads? 3 of layer 4 changes nothing"):
        lab.ask(question)
    for handle in handles:
        handle.remove()


# -- reasons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("image_3 -> answer", "there is no image_3: the prompt has 2 pictures"),
        ("image_2 -> image_1", "image_1 stands before image_2"),
        ('"dinosaur" -> answer', "dinosaur"),
        ("answer -> question", "question stands before answer"),
    ],
)
@pytest.mark.parametrize("kind", ["knockout", "steer"])
def test_edges_that_are_not_there(kind, edge, why, lab, question):
    source, reader = edge.split(" -> ")
    with (
        pytest.raises(NoEffect, match=why),
        lab.knockout(edge) if kind == "knockout" else lab.steer(source, 2.0, reader=reader),
    ):
        lab.ask(question)
    assert lab.edits == ()


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda lab: lab.knockout("image_1 -> *", layers=6), "no layer 6: the decoder has 6"),
        (lambda lab: lab.knockout("image_1 -> *", heads=4), "no head 4"),
        (lambda lab: lab.scale_heads([(4, 0), (9, 0)], 0.0), "no layer 9"),
        (lambda lab: lab.ablate_heads([]), "names no head"),
        (lambda lab: lab.steer("image_1", 0), "steering 'image_1 -> answer' by 0 changes nothing"),
        (lambda lab: lab.on_attention(print, heads=7), "no head 7"),
    ],
)
def test_what_can_be_known_without_a_question_is_said_at_once(edit, why, lab):
    with pytest.raises(NoEffect, match=why) as caught:
        edit(lab)
    assert isinstance(caught.value, VilaLabError)
    assert isinstance(caught.value, ValueError)
    assert lab.edits == ()


@pytest.mark.parametrize(
    ("earlier", "later", "why"),
    [
        (["image_1 -> *"], ("image_1 -> answer", None), "an earlier knock-out has closed these edges already"),
        (["images -> answer"], ("image_2 -> answer", None), "an earlier knock-out"),
        (["image_1 -> answer", "image_2 -> answer"], ("images -> answer", None), "the logits of every row"),
        (["image_1 -> *"], ("image_1 -> answer", 4.0), "an earlier knock-out"),
    ],
    ids=["all", "both pictures", "by two", "steering"],
)
def test_edges_that_are_closed_already(earlier, later, why, lab, question):
    handles = [lab.knockout(edge) for edge in earlier]
    edge, strength = later
    source, reader = edge.split(" -> ")
    handles.append(lab.knockout(edge) if strength is None else lab.steer(source, strength, reader=reader))
    with pytest.raises(NoEffect, match=why):
        lab.ask(question)
    for handle in handles:
        handle.remove()


def test_an_edge_that_is_only_partly_closed_still_bites(lab, question):
    with lab.knockout("image_1 -> answer", layers=[0, 1]), lab.knockout("image_1 -> answer", layers=[1, 2]):
        assert len(lab.ask(question).edits) == 2
    with lab.knockout("image_1 -> answer"), lab.knockout("image_1 -> *"):
        assert len(lab.ask(question).edits) == 2


# -- declared no-ops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [None, "routing", [(0, 0), (5, 3)]])
def test_scaling_by_one_changes_nothing_and_may(heads, lab, question, plain):
    with lab.scale_heads(heads, 1.0):
        answer = lab.ask(question)
    assert said(answer) == said(plain)
    assert len(answer.edits) == 1


@pytest.mark.parametrize("state", ["residual", "attention", "mlp"])
def test_patching_from_the_same_prompt_changes_nothing_and_may(state, lab, question, plain):
    with lab.patch(plain, ["images", "prompt"], state=state):
        answer = lab.ask(question)
    assert said(answer)[0] == said(plain)[0]
    assert said(answer)[1] == pytest.approx(said(plain)[1], abs=1e-5)


# -- later rows ----------------------------------------------------------------------------------------------------


def test_an_edit_on_decoded_rows_alone_is_proven_on_the_answer(lab, question, plain):
    length = plain.token_map.prompt_length
    with lab.ablate_heads(None, layers=[3, 4], rows=[length]):
        answer = lab.ask(question, max_new_tokens=4)
    assert said(answer)[1][0] == said(plain)[1][0]
    assert said(answer)[1][1] != said(plain)[1][1]
    with lab.knockout("answer -> answer"):
        assert lab.ask(question).edits
    for edit in (lab.ablate_heads(None, layers=3, rows=[length + 50]), lab.knockout("answer -> answer")):
        with edit, pytest.raises(NoEffect, match="every row of the answer"):
            lab.ask(question, max_new_tokens=1)


def test_an_edit_that_ends_in_no_number_has_an_effect(lab, question):
    with lab.scale_heads(None, 3e38, layers=[0, 1]):
        answer = lab.ask(question, max_new_tokens=1)
    assert len(answer.edits) == 1
    assert math.isnan(answer.tokens[0].logprob), "the test's factor should break the model"
    assert any("NaN" in note for note in answer.notes)


# -- what the proof costs ------------------------------------------------------------------------------------------


def test_the_edits_of_a_prompt_share_one_clean_pass(lab, question, plain, forwards):
    lab.engine.clean.clear()
    tokens = []
    for edge in ("image_1 -> answer", "image_2 -> answer", "image_1 -> image_2"):
        with lab.knockout(edge):
            tokens.append(len(lab.ask(question).tokens))
    assert len(forwards) == sum(tokens) + 1
    forwards.clear()
    with lab.knockout("image_1 -> answer"), lab.steer("image_2", -1.0), lab.scale_heads([(4, 2)], 0.5):
        count = len(lab.ask(question).tokens)
    assert len(forwards) == count + 2, "one pass under the first edit, one under two"


def test_a_changed_model_or_prompt_gets_a_clean_pass_of_its_own(lab, question, demo, forwards):
    lab.engine.clean.clear()
    with lab.knockout("image_1 -> answer"):
        counts = [len(lab.ask(question, max_new_tokens=1).tokens)]
        with torch.no_grad():
            next(lab.model.parameters()).add_(0)
        counts.append(len(lab.ask(question, max_new_tokens=1).tokens))
        counts.append(len(lab.ask([demo / "m.png", demo / "g.png", question[2]], max_new_tokens=1).tokens))
    assert len(forwards) == sum(counts) + 3


def test_few_clean_passes_are_kept(lab, demo):
    lab.engine.clean.clear()
    with lab.knockout("image_1 -> answer"):
        for number in range(KEPT + 2):
            lab.ask([demo / "g.png", f"{number}?"], max_new_tokens=1)
    assert len(lab.engine.clean) == KEPT


def test_hooks_alone_need_no_proof(lab, question, forwards):
    with lab.on_attention(lambda event: None), lab.on_hidden(lambda event: None):
        answer = lab.ask(question)
    assert len(forwards) == len(answer.tokens)
    assert answer.edits == ()


def test_a_session_begins_without_edits():
    assert len(Program()) == 0
