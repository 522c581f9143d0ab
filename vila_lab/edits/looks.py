"""Hooks that look: at attention weights of chosen rows and columns, at the residual stream. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..engine.question import Question
from ..errors import NoEffect, OptionError
from ..hooks.edits import AttentionLook, AttentionRows, Edit, StateLook, Where
from ..tokenmap import TokenMap
from .groups import check_places, column_span, reader_span


@dataclass(frozen=True, eq=False)
class _Event:
    layer: int
    step: int
    rows: NDArray[np.int64]
    _prompt: TokenMap

    @property
    def phase(self) -> str:
        """ "prefill" while the prompt is read, "decode" while the answer is written."""
        return "decode" if self.step else "prefill"

    @property
    def token_map(self) -> TokenMap:
        """What every position is, up to this row."""
        return self._prompt.with_answer(self.step)


@dataclass(frozen=True, eq=False)
class AttentionEvent(_Event):
    """What a hook of `Session.on_attention` is given.

    Attributes
    ----------
    layer : int
    step : int
        0 for the prompt, k for the row that was fed the answer's k-th token (and chooses the next).
    phase : str
        "prefill" or "decode".
    heads : tuple of int
    rows, columns : (r,), (c,) arrays
        Positions in the sequence.
    weights : Tensor (heads, r, c)
        Exact attention weights, under all edits.
    token_map : TokenMap
    """

    heads: tuple[int, ...]
    columns: NDArray[np.int64]
    weights: Tensor

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.weights.shape))
        return f"AttentionEvent(layer {self.layer}, {self.phase}, step {self.step}, {shape} weights)"


@dataclass(frozen=True, eq=False)
class HiddenEvent(_Event):
    """What a hook of `Session.on_hidden` is given.

    Attributes
    ----------
    layer, step, phase, token_map
        As in `AttentionEvent`.
    rows : (r,) array
        Positions in the sequence.
    vectors : Tensor (r, hidden)
        The residual stream that the layer hands on.
    """

    vectors: Tensor

    def __repr__(self) -> str:
        return f"HiddenEvent(layer {self.layer}, {self.phase}, step {self.step}, {len(self.rows)} positions)"


@dataclass(frozen=True)
class AttentionHook:
    """A hook on attention weights."""

    function: Callable[[AttentionEvent], Any]
    where: Where
    rows: str | tuple[int, ...]
    columns: str | tuple[str, ...] | tuple[int, ...]
    heads_in_words: str

    @property
    def label(self) -> str:
        return f"hook on attention of {self.heads_in_words}, rows {self.rows}, columns {self.columns}"

    @property
    def is_edit(self) -> bool:
        return False

    def resolve(self, question: Question) -> list[Edit]:
        token_map = question.token_map
        rows, columns = reader_span(self.rows, token_map), column_span(self.columns, token_map)
        for span, name in ((rows, self.rows), (columns, self.columns)):
            if not span:
                raise NoEffect(f"{self.label}: {name!r} has no positions in this prompt")

        def show(found: AttentionRows) -> None:
            step = _step(found.rows, token_map)
            given = AttentionEvent(
                found.layer, step, found.rows, token_map, found.heads, found.columns, found.weights[0]
            )
            _look(self.function, given, "edit attention with lab.knockout, lab.steer or lab.scale_heads")

        return [AttentionLook(show, self.where, rows, columns)]

    def changes_nothing(self, question: Question) -> bool:
        return True


@dataclass(frozen=True)
class HiddenHook:
    """A hook on the residual stream."""

    function: Callable[[HiddenEvent], Any]
    layers: tuple[int, ...]
    rows: str | tuple[int, ...]

    @property
    def label(self) -> str:
        return f"hook on the residual stream behind layers {', '.join(map(str, self.layers))}, positions {self.rows}"

    @property
    def is_edit(self) -> bool:
        return False

    def resolve(self, question: Question) -> list[Edit]:
        token_map = question.token_map

        def show(layer: int, rows: NDArray[np.int64], vectors: Tensor) -> None:
            given = HiddenEvent(layer, _step(rows, token_map), rows, token_map, vectors[0].detach())
            _look(self.function, given, "edit states with lab.patch")

        positions = reader_span(self.rows, token_map)
        if not positions:
            raise NoEffect(f"{self.label}: {self.rows!r} has no positions in this prompt")
        return [StateLook(show, "residual", self.layers, positions)]

    def changes_nothing(self, question: Question) -> bool:
        return True


def _step(rows: NDArray[np.int64], token_map: TokenMap) -> int:
    return max(0, int(rows[-1]) - token_map.prompt_length + 1)


def _look(function: Callable[[Any], Any], event: Any, instead: str) -> None:
    if function(event) is not None:
        raise OptionError(f"a hook only looks, but this one returned something; let it return None, and {instead}")


def as_rows(rows: str | Sequence[int]) -> str | tuple[int, ...]:
    """Rows as given, hashable.

    Raises
    ------
    NoEffect
        If they have a name that is in no prompt.
    """
    check_places(rows)
    return rows if isinstance(rows, str) else tuple(int(row) for row in rows)
