"""Edits reach the softmax of every kind of decoder attention, on prompt and answer, and nothing of them stays behind.

The reference is made by hand: the same model under eager attention, each layer's mask changed by a hook of the test.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.inside import hooks_of, name_attention
from vila_lab.errors import CaptureError, NoEffect
from vila_lab.hooks import Capture, edited_layer
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import (
    AttentionLook,
    AttentionRows,
    EdgeBias,
    HeadConstant,
    HeadOutputLook,
    HeadScale,
    StateLook,
    StatePatch,
)
from vila_lab.hooks.spans import EVERYWHERE, Span
from vila_lab.upstream import attention_name

TOKENS = 6
LENGTH = 17 + TOKENS - 1  # rows of a prompt of 17 and its answer
EAGER_ONLY = {"gemma2", "gpt_oss"}  # soft-cap and sinks: sdpa has no such kernel
SLIDING = {"mistral": {0, 1, 2}, "gemma2": {0, 2}, "gemma3": {0, 1}, "gpt_oss": {1}}
FAMILIES = ["qwen2", "llama", "qwen3", "phi3", "mistral", "gemma2", "gemma3", "gpt_oss"]
CASES = [
    pytest.param(family, attn, id=f"{family}-{attn}")
    for family in FAMILIES
    for attn in ("sdpa", "eager")
    if attn == "eager" or family not in EAGER_ONLY
]
# Measured: 1e-6 where weights are computed from queries, 2.4e-4 where they are stored as float16.
EXACT, STORED = 1e-5, 5e-4

ALL = dict.fromkeys(range(3))
SOURCE = Span.of(range(3, 8))
LATER = Span.of(range(8, 17), onward=17)
KNOCKOUT = EdgeBias(SOURCE, LATER, ALL)
PROGRAMS: dict[str, list[EdgeBias]] = {
    "knock-out": [KNOCKOUT],
    "some heads of some layers": [EdgeBias(SOURCE, LATER, {0: (1,), 2: (0, 3)})],
    "answer rows": [EdgeBias(SOURCE, Span(onward=16), ALL)],
    "decoded rows": [EdgeBias(Span.of([14], onward=17), Span(onward=18), {1: None})],
    "steering": [EdgeBias(Span.of([10, 12, 15]), Span(onward=13), ALL, 3.0)],
    "a source among its readers": [EdgeBias(Span.of([2, 9]), EVERYWHERE, ALL)],
    "together": [
        EdgeBias(Span.of([4, 11]), LATER, {0: None, 1: (2,)}, -1.5),
        EdgeBias(SOURCE, Span.of([9, 16]), {1: None, 2: (1, 2)}),
        EdgeBias(Span.of([12]), Span(onward=14), ALL, 2.0),
    ],
}


def bias_matrices(biases: list[EdgeBias], length: int, layers: int = 3, heads: int = 4) -> list[Tensor]:
    """What each layer adds to its scores, by loops.  # (H, T, T)"""
    found = torch.zeros(layers, heads, length, length)

    def belongs(span: Span, position: int) -> bool:
        return position in span.positions or (span.onward is not None and position >= span.onward)

    for bias in biases:
        for layer, some in bias.where.items():
            for row in range(length):
                for column in range(length):
                    if row != column and belongs(bias.reader, row) and belongs(bias.source, column):
                        found[layer, list(range(heads)) if some is None else list(some), row, column] += bias.value
    return list(found)


@contextmanager
def biased(model: Any, matrices: Mapping[int, Tensor]) -> Iterator[None]:
    """The model's eager masks with something added, by hooks."""

    def hook(layer: int) -> Callable[..., Any]:
        def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": kwargs["attention_mask"] + matrices[layer]}

        return add

    handles = [
        layer.self_attn.register_forward_pre_hook(hook(index), with_kwargs=True)
        for index, layer in enumerate(model.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def reference(model: Any, ids: Tensor, biases: list[EdgeBias], mask: Tensor | None = None) -> tuple[Tensor, Any]:
    """Logits (B, T, V) and weights (B, H, T, T) by layer of one eager forward."""
    mask = torch.ones_like(ids) if mask is None else mask
    before = attention_name(model.config)
    model.set_attn_implementation("eager")
    matrices = dict(enumerate(bias_matrices(biases, ids.shape[1])))
    with biased(model, matrices):
        out = model(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            output_attentions=True,
            use_cache=False,
        )
    model.set_attn_implementation(before)
    return out.logits, out.attentions


def traces(model: Any) -> list[Any]:
    """What edits could leave on a model."""
    return [
        (
            name,
            id(getattr(module, "config", None)),
            hooks_of(module),
            [key for key in vars(module) if key.startswith("_vila_lab")],
        )
        for name, module in model.named_modules()
    ]


def close(found: Tensor, expected: Tensor, atol: float = EXACT) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# -- edges ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("family", "attn"), CASES)
def test_a_knockout_everywhere_is_the_deletion_of_columns(family, attn, make, prompt):
    model = make(family, attn)
    plain = model(prompt).logits
    with Editing(model, [KNOCKOUT]):
        edited = model(prompt).logits
    mask = torch.ones_like(prompt)
    mask[:, 3:8] = 0
    deleted = model(prompt, attention_mask=mask, position_ids=torch.arange(17)[None]).logits
    rows = [*range(3), *range(8, 17)]  # the deleted positions' own rows saw each other
    close(edited[:, rows], deleted[:, rows])
    close(edited[:, :8], plain[:, :8])
    assert (edited - plain)[:, 8].abs().max() > 1e-2, "the test's knock-out should be felt"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("family", "attn"), CASES)
def test_generation_and_tape_under_edits_are_those_of_hand_made_masks(family, attn, program, make, generate, prompt):
    model, biases = make(family, attn), PROGRAMS[program]
    before = traces(model)
    with Editing(model, biases), Capture(model) as tape:
        out = generate(model, prompt, TOKENS, return_dict_in_generate=True, output_logits=True)
    assert traces(model) == before
    logits, attentions = reference(model, out.sequences[:, :-1], biases)
    close(torch.stack(out.logits, 1), logits[:, 16:])
    matrices = bias_matrices(biases, LENGTH)
    for layer, expected in enumerate(attentions):
        live = layer in SLIDING.get(family, set())
        weights = tape.weights(layer).transpose(0, 1)  # (H, R, K)
        close(weights, expected[0, :, 16:], STORED if live else EXACT)
        assert (weights[torch.isneginf(matrices[layer][:, 16:])] == 0).all()
        if family != "gpt_oss":
            close(weights.sum(-1), torch.ones(4, TOKENS), 2e-3 if live else 1e-6)


@pytest.mark.parametrize("options", [{"prefill_chunk_size": 5}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("mode", ["auto", "live"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3"])
def test_prompts_in_chunks_static_caches_and_live_weights(family, attn, mode, options, make, generate, prompt):
    model, biases = make(family, attn), PROGRAMS["together"]
    with Editing(model, biases), Capture(model, mode=mode, prompt_length=17) as tape:
        out = generate(model, prompt, TOKENS, return_dict_in_generate=True, output_logits=True, **options)
    logits, attentions = reference(model, out.sequences[:, :-1], biases)
    close(torch.stack(out.logits, 1), logits[:, 16:])
    for layer, expected in enumerate(attentions):
        close(tape.weights(layer).transpose(0, 1), expected[0, :, 16:], STORED)


@pytest.mark.parametrize("program", ["knock-out", "together"])
@pytest.mark.parametrize(("family", "attn"), CASES)
def test_left_padded_batches(family, attn, program, make, generate):
    """Every sequence is edited, at positions counted with the padding."""
    model, biases = make(family, attn), PROGRAMS[program]
    ids = torch.randint(3, 96, (3, 17), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :5], mask[2, :9] = 0, 0
    with Editing(model, biases), Capture(model) as tape:
        out = generate(model, ids, TOKENS, attention_mask=mask, return_dict_in_generate=True, output_logits=True)
    full = torch.cat([mask, mask.new_ones(3, TOKENS - 1)], 1)
    logits, attentions = reference(model, out.sequences[:, :-1], biases, full)
    close(torch.stack(out.logits, 1), logits[:, 16:])
    for item in range(3):
        live = 2 in SLIDING.get(family, set())
        close(tape.weights(2, item=item).transpose(0, 1), attentions[2][item, :, 16:], STORED if live else EXACT)


@torch.no_grad()
@pytest.mark.parametrize(("family", "attn"), CASES)
@pytest.mark.parametrize("at_once", [1, 4])
def test_rows_in_several_parts_are_as_in_one(at_once, family, attn, make, prompt, monkeypatch):
    model, biases = make(family, attn), PROGRAMS["together"]
    expected, attentions = reference(model, prompt, biases)
    monkeypatch.setattr(edited_layer, "ROWS_AT_ONCE", at_once)
    seen: list[AttentionRows] = []
    with Editing(model, [*biases, AttentionLook(seen.append, {2: None}, EVERYWHERE, EVERYWHERE)]):
        close(model(prompt).logits, expected)
    close(seen[0].weights, attentions[2])


@torch.no_grad()
@pytest.mark.parametrize("readers", [LATER, Span.of([9, 10, 14]), Span.of([16])], ids=["later", "scattered", "last"])
@pytest.mark.parametrize(("worth", "left_out"), [(9.0, 3), (0.0, 0)], ids=["left out", "masked"])
def test_a_cut_is_the_same_with_its_columns_left_out_or_masked(worth, left_out, readers, make, prompt, monkeypatch):
    """One cheap way for whole prompts, one for everything else: each layer takes the one that costs less."""
    model, biases = make("llama", "sdpa"), [EdgeBias(SOURCE, readers, ALL), EdgeBias(Span.of([1]), readers, ALL)]
    expected, _ = reference(model, prompt, biases)
    calls, way = [], edited_layer.without_columns
    monkeypatch.setattr(edited_layer, "WORTH_LEAVING_OUT", worth)
    monkeypatch.setattr(edited_layer, "without_columns", lambda *given: calls.append(1) or way(*given))
    with Editing(model, biases):
        close(model(prompt).logits, expected)
    assert len(calls) == left_out


@torch.no_grad()
@pytest.mark.parametrize(
    "biases",
    [
        [EdgeBias(SOURCE, LATER, ALL, -3.0)],
        [EdgeBias(SOURCE, LATER, {0: (1,)})],
        [EdgeBias(SOURCE, LATER, {0: None}), EdgeBias(Span.of([1]), Span.of([16]), {0: None})],
        [EdgeBias(Span.of([4, 12]), LATER, {0: None})],
    ],
    ids=["steering", "some heads", "other readers", "a source that reads"],
)
def test_columns_are_left_out_only_where_that_says_the_same(biases, make, prompt, monkeypatch):
    model = make("llama", "sdpa")
    expected, _ = reference(model, prompt, biases)
    monkeypatch.setattr(edited_layer, "WORTH_LEAVING_OUT", 9.0)
    monkeypatch.setattr(edited_layer, "without_columns", lambda *given: pytest.fail("left out"))
    with Editing(model, biases):
        close(model(prompt).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_the_models_own_mask_shows_of_later_columns_stays_shown(attn, make, prompt):
    """Some families let the tokens of a picture see each other both ways."""
    model = make("llama", attn)
    visible = torch.ones(17, 17).tril().bool()
    visible[5:12, 5:12] = True
    own = torch.zeros(17, 17).masked_fill(~visible, -torch.inf)
    given = visible[None, None] if attn == "sdpa" else own[None, None]
    cut = EdgeBias(Span.of([2]), Span.of(range(9, 17)), ALL)
    matrix = bias_matrices([cut], 17)[0][0]
    expected = model(prompt, attention_mask=(own + matrix)[None, None]).logits
    with Editing(model, [cut]):
        close(model(prompt, attention_mask=given).logits, expected)
    assert (expected - model(prompt, attention_mask=given).logits).abs().max() > 1e-2


@torch.no_grad()
def test_layers_with_masks_of_their_own_do_not_share_one(make, prompt):
    """A mask that lives for one layer leaves its id to the next one's."""
    model = make("llama", "eager")
    later = torch.full((17, 17), -torch.inf).triu(1)
    windows = [later + torch.full((17, 17), -torch.inf).tril(-width) for width in (20, 3, 7)]

    given: list[weakref.ref[Tensor]] = []

    def own(window: Tensor) -> Callable[..., Any]:
        def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = window[None, None].clone()
            given.append(weakref.ref(mask))
            return args, {**kwargs, "attention_mask": mask}

        return swap

    handles = [
        layer.self_attn.register_forward_pre_hook(own(window), with_kwargs=True)
        for layer, window in zip(model.model.layers, windows, strict=True)
    ]
    cut = EdgeBias(Span.of([7]), LATER, ALL)
    alive: list[bool] = []
    look = HeadOutputLook(lambda *event: alive.extend(ref() is not None for ref in given), (2,))
    with Editing(model, [cut, look]):
        found = model(prompt).logits
    for handle in handles:
        handle.remove()
    assert alive == [True] * 3, "a mask that is known by its id must not die before the forward ends"
    matrix = bias_matrices([cut], 17)[0][0]
    with biased(model, {k: window[None, None] + matrix for k, window in enumerate(windows)}):
        close(found, model(prompt).logits)


@torch.no_grad()
def test_only_the_thread_that_entered_is_edited(make, prompt):
    model = make("qwen2")
    plain, found = model(prompt).logits, []

    def run() -> None:
        with torch.no_grad():
            found.append(model(prompt).logits)

    with Editing(model, [KNOCKOUT, HeadScale({0: None}, 0.0), StatePatch("mlp", 1, torch.zeros(1, 32), (3,))]):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert not torch.equal(model(prompt).logits, plain)
    assert torch.equal(found[0], plain)


def test_another_thread_does_not_move_the_positions(make, generate, prompt):
    """It runs a prompt in the middle of every step of the edited generation."""
    model, cut = make("qwen2"), EdgeBias(SOURCE, Span(onward=16), {1: None, 2: None})

    def elsewhere(*event: Any) -> None:
        def run() -> None:
            with torch.no_grad():
                model(prompt)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    options = {"return_dict_in_generate": True, "output_logits": True}
    with Editing(model, [cut]):
        alone = generate(model, prompt, TOKENS, **options)
    with Editing(model, [cut, HeadOutputLook(elsewhere, (0,))]):
        beside = generate(model, prompt, TOKENS, **options)
    assert torch.equal(torch.stack(beside.logits), torch.stack(alone.logits))


# -- looks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "attn"), CASES)
def test_looks_see_the_edited_weights_of_their_rows_and_columns(family, attn, make, generate, prompt):
    model, biases = make(family, attn), PROGRAMS["together"]
    spans = [  # two of them begin alike and have as many rows, and are not the same rows
        (Span.of([9, 12]), Span.of([2, 3, 9])),
        (Span.of([9, 16]), Span.of([2, 3, 9])),
        (Span(onward=15), EVERYWHERE),
        (EVERYWHERE, Span.of([11, 17, 19])),
    ]
    seen: list[list[AttentionRows]] = [[] for _ in spans]
    looks = [AttentionLook(mine.append, {0: None, 2: (3, 1)}, *span) for mine, span in zip(seen, spans, strict=True)]
    with Editing(model, [looks[0], *biases, *looks[1:]]):
        ids = generate(model, prompt, TOKENS)
    _, attentions = reference(model, ids[:, :-1], biases)
    for (reader, source), events in zip(spans, seen, strict=True):
        rows: set[tuple[int, int]] = set()
        for event in events:
            assert event.heads == ((0, 1, 2, 3) if event.layer == 0 else (3, 1))
            expected = attentions[event.layer][:, list(event.heads)]
            close(event.weights, expected[:, :, event.rows][..., event.columns])
            assert source.inside(0, LENGTH)[event.columns].all()
            hidden = expected[:, :, event.rows].clone()
            hidden[..., event.columns] = 0
            unseen = [c for c in range(LENGTH) if source.inside(0, LENGTH)[c] and c not in event.columns]
            assert (hidden[..., unseen] == 0).all(), "a column that was left out held weight"
            rows |= {(event.layer, int(row)) for row in event.rows}
        named = {int(row) for row in reader.inside(0, LENGTH).nonzero()[0]}
        first = source.first or 0
        # A step none of whose columns a sliding cache holds any more shows nothing.
        assert rows <= {(layer, row) for layer in (0, 2) for row in named}
        if not SLIDING.get(family):
            late = {row for row in named if row >= max(first, 17) or (row < 17 and first < 17)}
            assert rows == {(layer, row) for layer in (0, 2) for row in late}


@torch.no_grad()
def test_looks_alone_change_no_bit_and_come_in_order(make, generate, prompt):
    model, order = make("qwen2"), []
    plain = generate(model, prompt, TOKENS, return_dict_in_generate=True, output_logits=True)
    looks = [AttentionLook(lambda event, k=k: order.append(k), {1: None}, EVERYWHERE, EVERYWHERE) for k in range(3)]
    states = [StateLook(lambda *args, k=k: order.append(k), "residual", (1,), EVERYWHERE) for k in (3, 4)]
    with Editing(model, [*looks, *states]):
        watched = generate(model, prompt, TOKENS, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(watched.sequences, plain.sequences)
    assert all(torch.equal(one, other) for one, other in zip(watched.logits, plain.logits, strict=True))
    assert order == [0, 1, 2, 3, 4] * TOKENS


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_oss"])
def test_state_looks_see_the_residual_stream(family, make, prompt):
    model, found = make(family, "eager"), {}
    with Editing(model, [StateLook(lambda *event: found.update({event[0]: event[1:]}), "residual", (0, 1), LATER)]):
        out = model(prompt, output_hidden_states=True)
    for layer in (0, 1):
        positions, vectors = found[layer]
        assert positions.tolist() == list(range(8, 17))
        assert torch.equal(vectors, out.hidden_states[layer + 1][:, 8:])


# -- heads and states ----------------------------------------------------------------------------------------------


@contextmanager
def heads_replaced(model: Any, change: Callable[[int, int, Tensor], Tensor]) -> Iterator[None]:
    """``change(layer, start, heads)``, heads (B, r, H, D), on what each output projection is given."""
    started = [0]

    def hook(layer: int) -> Callable[..., Any]:
        def swap(module: Any, args: tuple[Tensor]) -> Any:
            heads = args[0].unflatten(-1, (4, -1))
            changed = change(layer, started[0], heads.clone())
            if layer == 2:
                started[0] += heads.shape[1]
            return (changed.flatten(-2),)

        return swap

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(hook(index)) for index, layer in enumerate(model.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("rows", [EVERYWHERE, Span(onward=16), Span.of([4, 18])], ids=["all", "answer", "two"])
@pytest.mark.parametrize("mean", [False, True], ids=["scaled", "constant"])
@pytest.mark.parametrize(("family", "attn"), CASES)
def test_heads_are_changed_before_the_output_projection(family, attn, mean, rows, make, generate, prompt):
    model, where = make(family, attn), {0: (1, 2), 2: None}
    constant = {layer: torch.randn(4, 8, generator=torch.Generator().manual_seed(layer)) for layer in where}
    edit = HeadConstant(where, constant, rows) if mean else HeadScale(where, -0.5, rows)

    def change(layer: int, start: int, heads: Tensor) -> Tensor:
        for row in range(heads.shape[1]):
            if layer in where and rows.inside(start + row, start + row + 1)[0]:
                for head in where[layer] or range(4):
                    heads[:, row, head] = constant[layer][head] if mean else heads[:, row, head] * -0.5
        return heads

    options = {"return_dict_in_generate": True, "output_logits": True}
    seen: list[tuple[int, ...]] = []
    with Editing(model, [edit, HeadOutputLook(lambda layer, output: seen.append(tuple(output.shape)), (2,))]):
        found = generate(model, prompt, TOKENS, **options)
    with heads_replaced(model, change):
        expected = generate(model, prompt, TOKENS, **options)
    close(torch.stack(found.logits), torch.stack(expected.logits), 1e-6)
    assert torch.equal(found.sequences, expected.sequences)
    assert seen == [(1, 17, 4, 8)] + [(1, 1, 4, 8)] * (TOKENS - 1)


STATE_MODULES: dict[str, Callable[[Any], Any]] = {
    "residual": lambda layer: layer,
    "attention": lambda layer: layer.self_attn,
    "mlp": lambda layer: layer.mlp,
}


@torch.no_grad()
@pytest.mark.parametrize("items", [None, (1, 0)], ids=["every item", "an item each"])
@pytest.mark.parametrize("state", STATE_MODULES)
@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma2", "gpt_oss"])
def test_patches_put_vectors_in_place_of_a_layers_own(family, state, items, make):
    model = make(family, "eager")
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(3))
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(4))

    def put(module: Any, args: Any, output: Any) -> Any:
        vectors = (output[0] if isinstance(output, tuple) else output).clone()
        for place, value, item in zip((2, 5), values, items or (slice(None),) * 2, strict=True):
            vectors[item, place] = value
        return (vectors, *output[1:]) if isinstance(output, tuple) else vectors

    handle = STATE_MODULES[state](model.model.layers[1]).register_forward_hook(put)
    expected = model(ids).logits
    handle.remove()
    with Editing(model, [StatePatch(state, 1, values, (2, 5), items)]):
        found = model(ids).logits
    assert torch.equal(found, expected)
    changed = (found != model(ids).logits).any(-1)
    assert changed[1, 2]
    assert changed[0, 2] == (items is None), "another item of the batch was patched too"


# -- refusals, and nothing left behind -----------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["flash_attention_2", "kernels-community/flash-attn3", "flex_attention"])
def test_implementations_that_take_no_additive_mask_are_refused(implementation, make):
    model = make("qwen2")
    name_attention(model.config, implementation)
    before = traces(model)
    with pytest.raises(CaptureError, match="load the model with attn_implementation='sdpa'") as caught:
        Editing(model, [KNOCKOUT]).__enter__()
    assert "\n" not in str(caught.value)
    assert traces(model) == before


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (EdgeBias(SOURCE, LATER, {3: None}), "no layer 3"),
        (EdgeBias(SOURCE, LATER, {0: (0, 4)}), "no head 4 in layer 0"),
        (HeadScale({1: (-1,)}, 0.0), "no head -1"),
        (StatePatch("mlp", 7, torch.zeros(1, 32), (0,)), "no layer 7"),
        (StateLook(print, "residual", (5,), EVERYWHERE), "no layer 5"),
    ],
    ids=["layer", "head", "scaled head", "patch", "look"],
)
def test_layers_and_heads_that_are_not_there_are_named(edit, named, make):
    model = make("qwen2")
    before = traces(model)
    with pytest.raises(NoEffect, match=named):
        Editing(model, [KNOCKOUT, edit]).__enter__()
    assert traces(model) == before


def test_edits_within_edits_and_within_a_capture_are_refused(make):
    model = make("qwen2")
    before = traces(model)
    with Editing(model, [KNOCKOUT]), pytest.raises(CaptureError, match="already being captured or edited"):
        Editing(model, [KNOCKOUT]).__enter__()
    with pytest.raises(CaptureError), Capture(model), Editing(model, [KNOCKOUT]):
        pass
    assert traces(model) == before


def test_mass_of_groups_is_refused_under_edits(make, generate, prompt):
    model = make("qwen2")
    before = traces(model)
    with (
        pytest.raises(CaptureError, match="under edits"),
        Editing(model, [KNOCKOUT]),
        Capture(model, groups=torch.zeros(17, dtype=torch.int64)),
    ):
        generate(model, prompt, TOKENS)
    assert traces(model) == before


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["attention", "state", "output"])
def test_an_exception_in_a_look_ends_the_forward_and_leaves_nothing(kind, error, make, generate, prompt):
    model = make("qwen2")
    before, plain, calls = traces(model), generate(model, prompt, TOKENS), []

    def fail(*event: Any) -> None:
        calls.append(event)
        if len(calls) == 3:
            raise error("planted")

    look: Any = {
        "attention": AttentionLook(fail, {1: None}, EVERYWHERE, EVERYWHERE),
        "state": StateLook(fail, "mlp", (1,), EVERYWHERE),
        "output": HeadOutputLook(fail, (1,)),
    }[kind]
    with pytest.raises(error, match="planted") as caught, Editing(model, [KNOCKOUT, look]), Capture(model):
        generate(model, prompt, TOKENS)
    assert any(entry.name == "fail" for entry in caught.traceback)
    assert len(calls) == 3
    assert traces(model) == before
    assert torch.equal(generate(model, prompt, TOKENS), plain)


def test_without_edits_the_model_is_not_touched(make):
    model = make("qwen2")
    before = traces(model)
    with Editing(model, []):
        assert traces(model) == before


def test_layers_without_edits_keep_the_base_function(make):
    model = make("qwen2")
    configs = [id(layer.self_attn.config) for layer in model.model.layers]
    with Editing(model, [EdgeBias(SOURCE, LATER, {1: None})]):
        inside = [id(layer.self_attn.config) for layer in model.model.layers]
    assert [one == other for one, other in zip(inside, configs, strict=True)] == [True, False, True]
