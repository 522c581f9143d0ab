"""Edits as data: what a reader typed, or sent, as the edit that it means. Knows the decoder's shape, and no question.

>>> shape = Shape(6, 4, {"routing": [(4, 0)]})
>>> made("steer", shape, {"source": "image_2", "strength": 3}).label
'steering by +3 of image_2 -> answer in the routing heads'
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..engine.question import Spec
from ..engine.replay import Replay
from ..errors import OptionError
from ..options import nearest
from .edges import EdgeEdit
from .groups import check_places, parse_edge
from .heads import ABLATIONS, MeanHeads, ScaledHeads
from .looks import as_rows
from .patch import Patch, check_state
from .where import Heads, Layers, Shape, in_words, resolve


def knockout(shape: Shape, edge: str, layers: Layers = None, heads: Heads = None) -> EdgeEdit:
    """See `Session.knockout`."""
    parse_edge(edge)
    where = resolve(shape, layers, heads)
    return EdgeEdit(edge, where, -math.inf, in_words(where, shape, heads))


def steer(
    shape: Shape, source: str, strength: float, *, reader: str = "answer", layers: Layers = None, heads: Heads = None
) -> EdgeEdit:
    """See `Session.steer`."""
    if layers is None and heads is None and "routing" in shape.head_sets:
        heads = "routing"
    where = resolve(shape, layers, heads)
    return EdgeEdit(f"{source} -> {reader}", where, _number("strength", strength), in_words(where, shape, heads))


def scale_heads(
    shape: Shape, heads: Heads, factor: float, *, layers: Layers = None, rows: str | Sequence[int] = "all"
) -> ScaledHeads:
    """See `Session.scale_heads`."""
    where = resolve(shape, layers, heads)
    return ScaledHeads(where, _number("factor", factor), as_rows(rows), in_words(where, shape, heads))


def ablate_heads(
    shape: Shape, heads: Heads, mode: str = "zero", *, layers: Layers = None, rows: str | Sequence[int] = "all"
) -> ScaledHeads | MeanHeads:
    """See `Session.ablate_heads`."""
    if mode not in ABLATIONS:
        raise OptionError(f"unknown mode {mode!r}{nearest(mode, ABLATIONS)}; known: {', '.join(ABLATIONS)}")
    where = resolve(shape, layers, heads)
    words = in_words(where, shape, heads)
    return ScaledHeads(where, 0.0, as_rows(rows), words) if mode == "zero" else MeanHeads(where, as_rows(rows), words)


def patch(
    shape: Shape,
    source: Replay,
    positions: str | int | Sequence[str] | Sequence[int],
    layers: Layers = None,
    *,
    state: str = "residual",
) -> Patch:
    """See `Session.patch`; the source is the other answer's question."""
    chosen = tuple(resolve(shape, layers))
    listed = (positions,) if isinstance(positions, int) else positions
    check_places(listed)
    return Patch(source, listed if isinstance(listed, str) else tuple(listed), chosen, check_state(state))


EDITS: Mapping[str, Callable[..., Spec]] = {
    function.__name__: function for function in (knockout, steer, scale_heads, ablate_heads, patch)
}
"""By the name of the session's method."""


def made(name: str, shape: Shape, typed: Mapping[str, Any]) -> Spec:
    """The edit that a name and arguments mean.

    Raises
    ------
    OptionError
        If there is no such edit, or an argument is missing, unknown or out of range.
    NoEffect
        If a layer or head does not exist.
    """
    if name not in EDITS:
        raise OptionError(f"unknown edit {name!r}{nearest(name, EDITS)}; known: {', '.join(EDITS)}")
    try:
        inspect.signature(EDITS[name]).bind(shape, **typed)
    except TypeError as error:
        raise OptionError(f"{name}: {error}") from None
    return EDITS[name](shape, **typed)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is a number, not {value!r}") from None
