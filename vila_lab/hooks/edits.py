"""What can be changed or watched inside a decoder, in terms of layers, heads and positions. Knows no pictures and no model.

Each class is one kind of change; `Editing` carries them out while a model works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vila_lab.hooks.spans import EVERYWHERE, Span

Where: TypeAlias = "Mapping[int, tuple[int, ...] | None]"
"""Heads by layer; None: all heads of that layer."""

State = Literal["residual", "attention", "mlp"]
"""Which vectors of a layer: what it hands on, what its attention adds, what its MLP adds."""


@dataclass(frozen=True)
class EdgeBias:
    """Something added to the scores before the softmax, where rows of `reader` look at columns of `source`.

    The weights stay a distribution: what is taken from these edges goes to the row's others. A position always sees itself.

    Attributes
    ----------
    value : float
        ``-inf`` closes the edges.
    """

    source: Span
    reader: Span
    where: Where
    value: float = -torch.inf


@dataclass(frozen=True)
class HeadScale:
    """A factor on what heads hand to the output projection, in some rows; 0 ablates them."""

    where: Where
    factor: float
    rows: Span = EVERYWHERE


@dataclass(frozen=True)
class HeadConstant:
    """One vector per head in place of what it hands to the output projection, in some rows.

    Attributes
    ----------
    values : mapping of layer to Tensor (H, D)
        For all heads of the layer; only those in `where` are taken.
    """

    where: Where
    values: Mapping[int, Tensor] = field(hash=False)
    rows: Span = EVERYWHERE


@dataclass(frozen=True)
class HeadPatch:
    """Given vectors in place of what heads of a layer hand to the output projection, at some positions.

    Attributes
    ----------
    values : Tensor (n, H, D)
        Of all heads of the layer; only those in `heads` are taken.
    positions : tuple of n int
    heads : tuple of tuple of int
        For each sequence of the batch the heads that are replaced.
    """

    layer: int
    values: Tensor = field(hash=False)
    positions: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StatePatch:
    """Given vectors in place of a layer's own, at some positions.

    Attributes
    ----------
    values : Tensor (n, hidden)
    positions : tuple of n int
    items : tuple of n int or None
        Which sequence of the batch each belongs to; None: all of them.
    """

    state: State
    layer: int
    values: Tensor = field(hash=False)
    positions: tuple[int, ...]
    items: tuple[int, ...] | None = None


@dataclass(frozen=True)
class AttentionRows:
    """What an `AttentionLook` is shown.

    Attributes
    ----------
    layer : int
    heads : tuple of int
    rows, columns : (r,), (c,) arrays
        Positions in the sequence.
    weights : Tensor (B, heads, r, c)
        Exact attention weights under all edits, float32.
    """

    layer: int
    heads: tuple[int, ...]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: Tensor


@dataclass(frozen=True)
class AttentionLook:
    """Calls `function` with the weights of some rows and columns, in every forward that has such a row."""

    function: Callable[[AttentionRows], Any]
    where: Where
    rows: Span
    columns: Span


@dataclass(frozen=True)
class HeadOutputLook:
    """Calls ``function(layer, output)`` with what the heads of a layer hand on, (B, T, H, D)."""

    function: Callable[[int, Tensor], Any]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class StateLook:
    """Calls ``function(layer, positions, vectors)``, vectors (B, n, hidden), in every forward that has such a position."""

    function: Callable[[int, NDArray[np.int64], Tensor], Any]
    state: State
    layers: tuple[int, ...]
    positions: Span


Edit: TypeAlias = (
    "EdgeBias | HeadScale | HeadConstant | HeadPatch | StatePatch | AttentionLook | HeadOutputLook | StateLook"
)


def is_look(edit: Edit) -> bool:
    """Whether it only watches."""
    return isinstance(edit, AttentionLook | HeadOutputLook | StateLook)


def looks_before(edit: Edit, place: int) -> bool:
    """Whether it watches a position before this one."""
    if isinstance(edit, HeadOutputLook):
        return place > 0
    if not isinstance(edit, AttentionLook | StateLook):
        return False
    first = (edit.rows if isinstance(edit, AttentionLook) else edit.positions).first
    return first is not None and first < place


def closed_before(edit: Edit, earlier: Sequence[Edit]) -> bool:
    """Whether every edge of a bias is closed already by ONE earlier knock-out."""
    if not isinstance(edit, EdgeBias):
        return False
    return any(
        isinstance(other, EdgeBias) and other.value == -torch.inf and _contains(other, edit) for other in earlier
    )


def _contains(outer: EdgeBias, inner: EdgeBias) -> bool:
    heads = all(
        layer in outer.where
        and (outer.where[layer] is None or (some is not None and set(some) <= set(outer.where[layer] or ())))
        for layer, some in inner.where.items()
    )
    return heads and outer.source.covers(inner.source) and outer.reader.covers(inner.reader)
