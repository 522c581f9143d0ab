"""Scaled and ablated heads against a hook on the output projection's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.edits.conftest import said
from vila_lab.errors import NoEffect, OptionError


@contextmanager
def projection_hooks(session: Any, hook: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """``hook(layer, heads)``, heads (1, r, H, D), before each output projection."""

    def before(layer: int) -> Callable[..., Any]:
        def run(module: Any, args: tuple[Tensor]) -> Any:
            changed = hook(layer, args[0].unflatten(-1, (4, -1)).clone())
            return None if changed is None else (changed.flatten(-2),)

        return run

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(before(k))
        for k, layer in enumerate(session.family.decoder_layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


HEADS = [(1, 0), (2, 3), (4, 3), (5, 3)]


@pytest.mark.parametrize("rows", ["all", "answer", "image_2", [70, 101]], ids=str)
@pytest.mark.parametrize("kind", ["scale", "zero", "mean"])
def test_heads_are_changed_in_the_rows_named(kind, rows, lab, question, plain):
    length = plain.token_map.prompt_length
    wanted = {"all": range(200), "answer": range(length - 1, 200)}.get(str(rows))
    if wanted is None:
        wanted = plain.token_map.positions("image_2").tolist() if rows == "image_2" else rows
    means: dict[int, Tensor] = {}
    with projection_hooks(lab, lambda layer, heads: keep(means, layer, heads)):
        lab.ask(question, max_new_tokens=1)
    started = [0]

    def change(layer: int, heads: Tensor) -> Tensor:
        for row in range(heads.shape[1]):
            if started[0] + row in wanted:
                for head in [head for where, head in HEADS if where == layer]:
                    value = heads[0, row, head]
                    heads[0, row, head] = (
                        means[layer][head] if kind == "mean" else value * (0.4 if kind == "scale" else 0)
                    )
        if layer == 5:
            started[0] += heads.shape[1]
        return heads

    with projection_hooks(lab, change):
        expected = lab.ask(question)
    edit = lab.scale_heads(HEADS, 0.4, rows=rows) if kind == "scale" else lab.ablate_heads(HEADS, kind, rows=rows)
    with edit:
        found = lab.ask(question)
    assert said(found)[0] == said(expected)[0]
    assert said(found)[1] == pytest.approx(said(expected)[1], abs=1e-5)
    assert said(found)[1] != pytest.approx(said(plain)[1], abs=1e-6)


def keep(means: dict[int, Tensor], layer: int, heads: Tensor) -> None:
    """Mean over the positions of the first forward, which is the prompt's."""
    means.setdefault(layer, heads[0].mean(0))


def test_the_mean_is_that_of_the_unedited_prompt(lab, question):
    """A knock-out registered before does not move it."""
    seen: list[Tensor] = []
    with lab.ablate_heads(HEADS, "mean") as handle:
        lab.ask(question, max_new_tokens=1)
        clean = _constant(lab, handle, question)
    with lab.knockout("image_1 -> *"), lab.ablate_heads(HEADS, "mean") as handle:
        lab.ask(question, max_new_tokens=1)
        seen.append(_constant(lab, handle, question))
    assert torch.equal(seen[0], clean)


def _constant(lab: Any, handle: Any, question: Any) -> Tensor:
    from vila_lab.engine.question import Question
    from vila_lab.prompt import Prompt

    prepared = lab.family.prepare(Prompt.of(question))
    (edit,) = handle.spec.resolve(Question(lab.family, prepared))
    values: Tensor = edit.values[4]
    return values


def test_options_that_make_no_sense(lab, question):
    with pytest.raises(OptionError, match=r"unknown mode 'median' \(did you mean 'mean'\?\); known: zero, mean"):
        lab.ablate_heads([0], "median")
    for factor in (float("nan"), float("inf")):
        with pytest.raises(OptionError, match="finite"):
            lab.scale_heads([0], factor)
    with lab.scale_heads([0], 0.5, rows="image_4"), pytest.raises(NoEffect, match="no image_4"):
        lab.ask(question)
    with pytest.raises(OptionError, match="finite"):
        lab.steer("image_1", float("inf"))


def test_labels_say_what_is_done(lab):
    with (
        lab.scale_heads([(4, 0)], 0.5) as scaled,
        lab.ablate_heads("routing", rows="answer") as zero,
        lab.ablate_heads(None, "mean", layers=2, rows=[3, 4]) as mean,
    ):
        assert scaled.label == "scaling by 0.5 of head 0 of layer 4"
        assert zero.label == "ablation (zero) of the routing heads in the rows of answer"
        assert mean.label == "ablation (mean over the prompt) of all heads of layer 2 in 2 rows"
        assert [repr(each)[:7] for each in lab.edits] == ["Handle("] * 3
    assert "removed" in repr(zero)
