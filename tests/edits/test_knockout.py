"""Knock-outs and steering by name do to prompt and answer what masks made by hand do, under every implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vila_lab
from tests.edits.conftest import biased, forced, logprobs, said, sequence_of
from vila_lab.engine.question import Question
from vila_lab.errors import OptionError
from vila_lab.hooks.editing import Editing

EXACT = 1e-5
KNOCKOUTS = {
    "a picture out of sight": {"edge": "image_2 -> *"},
    "from the answer": {"edge": "image_2 -> answer"},
    "between pictures": {"edge": "image_1 -> image_2"},
    "a phrase": {"edge": '"image 2" -> answer', "layers": [0, 2, 3]},
    "heads": {"edge": "images -> answer", "heads": [(3, 1), (4, 0), (4, 1), (4, 3)]},
    "routing heads": {"edge": "image_2 -> answer", "heads": "routing"},
    "the answer's own words": {"edge": "answer -> answer"},
}


def reference_mask(plain, edge: str, length: int) -> torch.Tensor:
    """Where an edge closes, from the map alone.  # (T, T)"""
    tokens = plain.token_map
    start = tokens.prompt_length
    source, reader = (part.strip() for part in edge.split("->"))
    if source.startswith('"'):
        columns = [p for p in tokens.positions("text") if tokens.text[slice(*tokens.span[p])].strip() in "image 2"]
    else:
        columns = list(range(start, length)) if source == "answer" else tokens.positions(source).tolist()
    if reader == "*":
        rows = [p for p in range(min(columns), length) if p not in columns]
    elif reader == "answer":
        rows = list(range(start - 1, length))
    else:
        rows = tokens.positions(reader).tolist()
    closed = torch.zeros(length, length)
    for row in rows:
        closed[row, [column for column in columns if column != row]] = -torch.inf
    return closed


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_answer_and_tape_under_a_knockout_are_those_of_a_hand_made_mask(name, lab, eager, question, plain):
    given = KNOCKOUTS[name]
    with lab.knockout(**given) as handle:
        answer = lab.ask(question, max_new_tokens=6)
    assert answer.edits == (handle.label,)
    ids, found = said(answer)
    prompt = sequence_of(plain, eager)
    closed = reference_mask(plain, given["edge"], len(prompt) + len(ids) - 1)
    heads = lab.head_sets["routing"] if given.get("heads") == "routing" else given.get("heads")
    layers = given.get("layers", range(6))

    def matrix(layer: int) -> torch.Tensor:
        chosen = [head for head in range(4) if (layer in layers if heads is None else (layer, head) in heads)]
        values = torch.zeros(1, 4, *closed.shape)
        values[:, chosen] = closed
        return values

    with biased(eager, matrix):
        logits, attentions = forced(eager, prompt, ids)
    assert found == pytest.approx(logprobs(logits, ids), abs=EXACT)
    assert logits.argmax(-1).tolist() == ids
    weights = answer.attention().values  # (token, layer, head, position)
    rows = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
    for layer in range(6):
        expected = attentions[layer][0, :, rows].transpose(0, 1).numpy()
        np.testing.assert_allclose(weights[:, layer, :, : len(closed)], expected, rtol=0, atol=EXACT)
        gone = np.isneginf(matrix(layer)[0][:, rows].transpose(0, 1).numpy())
        assert (weights[:, layer, :, : len(closed)][gone] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("source", ["image_1", "image_2"])
def test_out_of_sight_is_the_deletion_of_columns(source, lab, question, plain):
    with lab.knockout(f"{source} -> *"):
        answer = lab.ask(question)
    ids, found = said(answer)
    prompt = sequence_of(plain, lab)
    mask = torch.ones(1, len(prompt) + len(ids) - 1, dtype=torch.int64)
    mask[:, torch.from_numpy(plain.token_map.positions(source))] = 0
    logits, _ = forced(lab, prompt, ids, mask)
    assert found == pytest.approx(logprobs(logits, ids), abs=EXACT)
    assert (answer.text == plain.text) == (source == "image_1"), "the question is about picture 2"


@pytest.mark.parametrize("name", ["nvila-lite", "nvila-dynamic_s2", "nvila-resize", "VILA1.5-3b-tiny"])
def test_deletion_on_every_way_of_the_family(name, golden_session, golden_image):
    """Tiles, scales, one tile, a Llama decoder; random weights answer with a long tail, so all logits are compared."""
    session = golden_session(name)
    parts = [golden_image("a_land.png"), "What", golden_image("d_wide.png"), "is it?"]
    clean = session.ask(parts, max_new_tokens=4)
    with session.knockout("image_1 -> *"):
        answer = session.ask(parts, max_new_tokens=4)
    ids, found = said(answer)
    prompt = sequence_of(clean, session)
    mask = torch.ones(1, len(prompt) + len(ids) - 1, dtype=torch.int64)
    mask[:, torch.from_numpy(clean.token_map.positions("image_1"))] = 0
    logits, _ = forced(session, prompt, ids, mask)
    assert found == pytest.approx(logprobs(logits, ids), abs=EXACT)
    assert found != pytest.approx(said(clean)[1], abs=EXACT)


@pytest.mark.parametrize(
    "edit",
    [
        lambda lab: lab.knockout("image_2 -> *", layers=[1, 4]),
        lambda lab: lab.steer("image_1", 6.0),
        lambda lab: lab.steer("image_2", -3.0, reader="question", heads=[0, 2]),
        lambda lab: lab.scale_heads([1, 3], 0.3, layers=4, rows="answer"),
        lambda lab: lab.ablate_heads([(4, 0), (2, 1)], "mean"),
    ],
    ids=["knockout", "steer", "steer the question", "scale", "mean"],
)
def test_sdpa_and_eager_do_the_same(edit, lab, eager, question):
    answers = []
    for session in (lab, eager):
        with edit(session):
            answers.append(session.ask(question))
    one, other = answers
    assert said(one)[0] == said(other)[0]
    assert said(one)[1] == pytest.approx(said(other)[1], abs=EXACT)
    np.testing.assert_allclose(one.attention().values, other.attention().values, rtol=0, atol=EXACT)
    assert eager.edits == ()


@pytest.mark.parametrize("strength", [2.0, -2.0])
def test_steering_multiplies_odds_by_the_exponential_of_its_strength(strength, lab, question, plain):
    """In the first layer, whose queries and keys no edit has reached."""
    with lab.steer("image_1", strength, layers=0, heads=2):
        steered = lab.ask(question, max_new_tokens=1)
    mine = plain.token_map.positions("image_1")
    before, after = (each.attention(0).values[0, 0].astype(np.float64) for each in (plain, steered))  # (H, T)
    share = before[2, mine].sum()
    grown = share * np.exp(strength) / (share * np.exp(strength) + 1 - share)
    assert after[2, mine].sum() == pytest.approx(grown, rel=1e-4)
    np.testing.assert_allclose(after[2, mine] / grown, before[2, mine] / share, atol=1e-5)
    seen = slice(0, plain.token_map.prompt_length)
    np.testing.assert_allclose(np.delete(after, 2, 0)[:, seen], np.delete(before, 2, 0)[:, seen], atol=1e-6)


def test_steering_takes_the_routing_heads_where_they_are_known(lab, golden_session):
    with lab.steer("image_1", 1.0) as handle:
        routing = lab.head_sets["routing"]
        assert {(layer, head) for layer, heads in handle.spec.where.items() for head in heads} == set(routing)
        assert "the routing heads" in handle.label
        edited = {layer for layer, _ in routing}
        assert lab.cross_modal_layers["edits"].tolist() == [int(layer in edited) for layer in range(6)]
    with lab.steer("image_1", 1.0, layers=1) as handle:
        assert handle.spec.where == {1: None}
    session = golden_session("nvila-lite")
    with session.steer("image_1", 1.0) as handle:
        assert set(handle.spec.where.values()) == {None}


def test_edits_compose_and_leave_in_any_order(lab, question, plain):
    first = lab.knockout("image_1 -> answer")
    second = lab.scale_heads([(4, 2)], 0.5)
    both = lab.ask(question)
    assert both.edits == (first.label, second.label)
    assert lab.edits == (first, second)
    first.remove()
    first.remove()
    alone = lab.ask(question)
    assert alone.edits == (second.label,)
    assert not first.active
    with pytest.raises(KeyError), second:
        raise KeyError
    assert lab.edits == ()
    assert said(lab.ask(question)) == said(plain)
    assert len({tuple(said(each)[1]) for each in (plain, both, alone)}) == 3


@pytest.mark.parametrize("mode", ["flash_attention_2", "flex_attention"])
def test_kernels_without_an_additive_mask_are_refused(mode, lab, question, plain, monkeypatch):
    """Whether or not such a kernel is installed: it is refused before anything runs."""
    session = vila_lab.Session(lab.family, "refused")
    text = lab.model.config.get_text_config()
    with session.knockout("image_2 -> answer"), monkeypatch.context() as patch:
        patch.setattr(text, "_attn_implementation_internal", mode)
        question_now = Question(lab.family, plain.replay.prepared)
        edits = session.edits[0].spec.resolve(question_now)
        with pytest.raises(Exception, match="attn_implementation='sdpa'") as caught:
            Editing(lab.model, edits).__enter__()
    assert isinstance(caught.value, vila_lab.VilaLabError)


def test_an_edited_answer_is_not_attributed_but_kept(lab, question, tmp_path):
    with lab.knockout("image_2 -> *", layers=[3, 4]):
        answer = lab.ask(question)
    for ask in (
        lambda: answer.attribute("leave_one_out"),
        lambda: answer.replay,
        lambda: answer.flow(),
        lambda: answer.leakage(),
        lambda: lab.patch(answer, "image_1"),
        lambda: lab.redirect(answer, image=0),
    ):
        with pytest.raises(OptionError, match=r"given under edits .*ask without edits") as caught:
            ask()
        assert "\n" not in str(caught.value)
    opened = vila_lab.open(answer.save(tmp_path / "edited.vila"))
    assert opened.edits == answer.edits == ("knock-out of image_2 -> * in all heads of layers 3, 4",)
    np.testing.assert_array_equal(opened.attention().values, answer.attention().values)
    assert lab.ask(question).edits == ()
