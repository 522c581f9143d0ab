"""Hooks see exactly what the answer says of itself, change nothing, and cost nothing where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.edits.conftest import forced, said, sequence_of, state_of
from tests.inside import hooks_of
from vila_lab.edits import AttentionEvent, HiddenEvent
from vila_lab.errors import NoEffect, OptionError
from vila_lab.hooks.call import ACTING
from vila_lab.hooks.edited_layer import EditedLayer
from vila_lab.hooks.sites import SHADOW_OF
from vila_lab.upstream import attention_name

# -- attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edited", [False, True], ids=["clean", "under edits"])
@pytest.mark.parametrize(
    ("layers", "heads", "columns"),
    [(4, None, "images"), ([0, 5], [3, 1], "image_2"), (None, "routing", ["image_1", "answer"]), (2, 0, [0, 40, 101])],
)
def test_weights_are_those_of_the_answer(layers, heads, columns, edited, lab, question):
    seen: list[AttentionEvent] = []
    edits = [lab.knockout("image_1 -> answer", heads=[0, 2]), lab.steer("image_2", 1.5)] if edited else []
    with lab.on_attention(seen.append, layers, heads, columns=columns):
        edits += [lab.scale_heads([(3, 0)], 0.2)] if edited else []  # after the hook: it sees all edits all the same
        answer = lab.ask(question)
    for handle in edits:
        handle.remove()
    weights = answer.attention()
    start = answer.token_map.prompt_length
    if isinstance(columns, list):
        wanted = {p for c in columns for p in ([c] if isinstance(c, int) else answer.token_map.positions(c).tolist())}
    else:
        wanted = set(answer.token_map.positions(columns).tolist())
    for event in seen:
        (row,) = event.rows.tolist()
        assert event.step == row - start + 1
        assert event.phase == ("decode" if event.step else "prefill")
        assert set(event.columns.tolist()) == {c for c in wanted if c <= row}
        assert len(event.token_map) == row + 1
        expected = weights.sel(token=event.step, layer=event.layer, head=list(event.heads))
        np.testing.assert_allclose(event.weights[:, 0], expected.values[:, event.columns], rtol=0, atol=1e-6)
    if heads == "routing":
        assert {(event.layer, head) for event in seen for head in event.heads} == set(lab.head_sets["routing"])
    routing = sorted({layer for layer, _ in lab.head_sets["routing"]})
    chosen = {"routing": routing}.get(str(heads), [layers] if isinstance(layers, int) else layers)
    assert [(event.step, event.layer) for event in seen] == [(k, n) for k in range(len(answer.tokens)) for n in chosen]


@pytest.mark.parametrize("rows", ["question", "all", "image_2", [20, 80]])
def test_rows_of_the_prompt_are_those_of_eager_attention(rows, lab, eager, question, plain):
    seen: list[AttentionEvent] = []
    with lab.on_attention(seen.append, layers=[1, 5], rows=rows, columns="all"):
        answer = lab.ask(question)
    _, attentions = forced(eager, sequence_of(plain, eager), said(answer)[0])
    last = plain.token_map.prompt_length - 1
    named = {"question": "text"}.get(str(rows), rows)
    wanted = plain.token_map.positions(named).tolist() if isinstance(named, str) else named
    prompt_rows = [p for p in wanted if p <= last]
    assert [event.rows.tolist() for event in seen if event.step == 0] == [prompt_rows] * 2
    assert len(seen) == 2 * (len(answer.tokens) if rows == "all" else 1)
    for event in seen:
        expected = attentions[event.layer][0][:, event.rows][..., : event.columns[-1] + 1]
        torch.testing.assert_close(event.weights, expected, rtol=0, atol=1e-5)
        assert not attentions[event.layer][0][:, event.rows][..., event.columns[-1] + 1 :].any()


def test_hooks_come_in_order_and_change_no_bit(lab, question, plain):
    order: list[str] = []
    with (
        lab.on_attention(lambda event: order.append("a"), layers=3),
        lab.on_attention(lambda event: order.append("b"), layers=3, rows="all", columns="all"),
        lab.on_hidden(lambda event: order.append("c"), layers=3),
        lab.on_attention(lambda event: order.append("d"), layers=4),
    ):
        answer = lab.ask(question)
    assert order == ["a", "b", "c", "d"] * len(answer.tokens)
    assert said(answer) == said(plain)
    np.testing.assert_array_equal(answer.attention().values, plain.attention().values)


# -- the residual stream -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["answer", "all", "image_1", [0, 50]])
def test_hidden_is_the_output_of_the_layer(positions, lab, eager, question, plain):
    seen: list[HiddenEvent] = []
    with lab.on_hidden(seen.append, layers=[0, 4], positions=positions):
        answer = lab.ask(question)
    prompt, ids = sequence_of(plain, eager), said(answer)[0]
    sequence = torch.cat([prompt, eager.model.get_input_embeddings()(torch.tensor(ids[:-1]))]).detach()
    with torch.no_grad():
        # Of the other session: transformers leaves hooks of its own behind on a model that was asked for hidden states.
        out = eager.model.language_model(inputs_embeds=sequence[None], output_hidden_states=True)
    rows: list[int] = []
    for event in seen:
        torch.testing.assert_close(
            event.vectors, out.hidden_states[event.layer + 1][0, event.rows], atol=1e-4, rtol=1e-4
        )
        rows += event.rows.tolist() if event.layer == 4 else []
    wanted = {
        "answer": list(range(len(prompt) - 1, len(sequence))),
        "all": list(range(len(sequence))),
        "image_1": plain.token_map.positions("image_1").tolist(),
    }
    assert rows == wanted.get(str(positions), positions)


# -- what a hook may not do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["on_attention", "on_hidden"])
def test_a_hook_that_returns_something_is_refused(kind, lab, question, plain):
    with getattr(lab, kind)(lambda event: event), pytest.raises(OptionError, match="let it return None, and edit"):
        lab.ask(question)
    assert said(lab.ask(question)) == said(plain)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("kind", ["on_attention", "on_hidden"])
def test_an_exception_in_a_hook_ends_the_answer_with_its_traceback(kind, step, error, lab, question, plain):
    def planted(event: Any) -> None:
        if event.step == step and event.layer == 2:
            raise error("planted")

    before = state_of(lab.model)
    with (
        lab.knockout("image_1 -> answer"),
        getattr(lab, kind)(planted),
        pytest.raises(error, match="planted") as caught,
    ):
        lab.ask(question)
    assert any(entry.name == "planted" for entry in caught.traceback)
    assert lab.edits == ()
    assert state_of(lab.model) == before
    assert said(lab.ask(question)) == said(plain)


@pytest.mark.parametrize("fn", [None, "print", 3])
def test_a_hook_is_a_function(fn, lab):
    for register in (lab.on_attention, lab.on_hidden):
        with pytest.raises(OptionError, match="a hook is a function"):
            register(fn)
    assert lab.edits == ()


@pytest.mark.parametrize(
    ("register", "why"),
    [
        (lambda lab: lab.on_attention(print, columns="image_3"), "no image_3"),
        (lambda lab: lab.on_attention(print, columns="separators", rows='"cat"'), "cat"),
        (lambda lab: lab.on_attention(print, rows=[-1]), "count from 0"),
        (lambda lab: lab.on_hidden(print, positions="image_5"), "no image_5"),
        (lambda lab: lab.on_hidden(print, positions=[]), "at least one is needed"),
    ],
)
def test_a_hook_that_would_never_be_called_is_refused(register, why, lab, question):
    with register(lab), pytest.raises(NoEffect, match=why):
        lab.ask(question)


@pytest.mark.parametrize("kind", ["on_attention", "on_hidden"])
def test_a_group_without_positions_is_refused(kind, lab):
    rows = {"rows": "text"} if kind == "on_attention" else {"positions": "text"}
    with getattr(lab, kind)(print, **rows), pytest.raises(NoEffect, match="'text' has no positions"):
        lab.ask([lab_image()], conv_mode="plain", max_new_tokens=1)


def lab_image() -> Any:
    import vila_lab

    return vila_lab.demo_images() / "g.png"


# -- no hook, no cost ----------------------------------------------------------------------------------------------


def test_without_hooks_generation_runs_the_base_implementation(lab, question, plain, monkeypatch):
    text = lab.model.config.get_text_config()
    looked: list[int] = []

    def look(module: Any, args: Any) -> None:
        held = module.__dict__
        assert held[ACTING].editor is None
        assert held[ACTING].base is sdpa_attention_forward
        assert getattr(module.config, SHADOW_OF) is text
        assert attention_name(module.config) == "vila_lab"
        looked.append(sum(hooks_of(lab.model)))

    def never(*args: Any) -> None:
        raise AssertionError("an edited layer answered")

    monkeypatch.setattr(EditedLayer, "attend", never)
    layers = [layer.self_attn for layer in lab.family.decoder_layers]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    with lab.on_attention(print) as hook:
        hook.remove()
        answer = lab.ask(question)
    for handle in handles:
        handle.remove()
    assert looked == [0] * 6 * len(answer.tokens)
    assert said(answer) == said(plain)
    assert all(layer.config is text for layer in layers)
    assert attention_name(text) == "sdpa"


def test_layers_without_hooks_keep_the_base_implementation(lab, question):
    bases: dict[int, bool] = {}

    def look(module: Any, args: Any) -> None:
        bases[module.layer_idx] = module.__dict__[ACTING].editor is None

    handles = [layer.self_attn.register_forward_pre_hook(look) for layer in lab.family.decoder_layers]
    with lab.on_attention(lambda event: None, layers=[1, 4]):
        lab.ask(question, max_new_tokens=1)
    for handle in handles:
        handle.remove()
    assert bases == {layer: layer not in (1, 4) for layer in range(6)}


def test_the_ids_are_those_of_the_model_alone(lab, plain):
    prepared = plain.replay.prepared
    config = lab.family.generation_config(prepared.options)
    config.max_new_tokens = len(plain.tokens)
    sequence = lab.model.generate(**prepared.inputs, generation_config=config)
    assert sequence[0, plain.token_map.prompt_length :].tolist() == said(plain)[0]


def test_the_tables_name_every_layer(lab, golden_session):
    with lab.on_hidden(print, layers=[2]), lab.on_attention(print, layers=[2, 3]):
        table = lab.cross_modal_layers
    assert table["edits"].tolist() == [0, 0, 2, 1, 0, 0]
    assert table["implementation"].tolist() == ["sdpa"] * 6
    assert table["name"].map(lab.model.get_submodule).map(lambda m: m.layer_idx).tolist() == list(range(6))
    for session in (lab, golden_session("VILA1.5-3b-tiny")):
        vision = session.model.config.vision_config
        assert len(session.vision_layers) == vision.num_hidden_layers
        assert set(session.vision_layers["heads"]) == {vision.num_attention_heads}
        text = session.model.config.get_text_config()
        assert set(session.cross_modal_layers["kv_heads"]) == {text.num_key_value_heads}
        assert set(session.cross_modal_layers["heads"]) == {text.num_attention_heads}
