"""Numbers of cells as few bytes: levels of one scale, deflated, in base64. Knows arrays, no answer and no pictures."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MISSING = 255  # the level of a cell that has no number
LEVELS = (254, 126, 62, 30, 14, 6)  # steps of the scale, tried from fine to coarse until the cells fit their budget
CELL_BUDGET = (
    150_000  # base64 characters for the cells of the first reading; a longer answer gets half a character each
)
COARSER = (1, 2, 3, 4)  # cells of one side that a further reading may merge into one, so that it fits its budget
BEST_BELOW = 50_000  # bytes of data up to which the best deflating takes no time
NUMBER_STEPS = 32_000  # steps of a number's scale on each side of zero
NO_NUMBER = -32_768

Array = NDArray[np.float64]


def peak(arrays: Sequence[Array]) -> float:
    """The largest magnitude over all arrays: the top of their one scale; 0 where no cell has a number."""
    return float(np.nanmax(np.abs(flat(arrays)), initial=0.0))


def has_sign(arrays: Sequence[Array]) -> bool:
    """Whether cells below zero are large enough to be seen (rounding noise around zero is not)."""
    numbers = flat(arrays)
    return -float(np.nanmin(numbers, initial=0.0)) > peak([numbers]) / (2 * LEVELS[0])


def flat(arrays: Sequence[Array]) -> Array:
    """All numbers of some arrays in one row: what is asked of many small ones is asked once.

    >>> flat([np.zeros((1, 2)), np.ones(1)])
    array([0., 0., 1.])
    """
    return np.concatenate([each.ravel() for each in arrays]) if arrays else np.zeros(0)


def quantise(array: Array, scale: float, levels: int, signed: bool) -> NDArray[np.uint8]:
    """Levels of the cells on a scale: 0 to ``levels`` for 0 to ``scale``, or for -scale to scale when signed.

    >>> quantise(np.array([0.0, 0.5, 1.0, np.nan]), scale=1.0, levels=254, signed=False).tolist()
    [0, 127, 254, 255]
    >>> quantise(np.array([-1.0, 0.0, 1.0]), scale=1.0, levels=254, signed=True).tolist()
    [0, 127, 254]
    """
    share = array / scale if scale > 0 else np.where(np.isnan(array), np.nan, 0.0)
    share = (share + 1) / 2 if signed else share
    level = np.clip(np.rint(share * levels), 0, levels)
    return np.where(np.isnan(level), MISSING, level).astype(np.uint8)


def fitting(maps: Sequence[Array], totals: Sequence[Array], signed: bool, budget: int) -> tuple[str, int]:
    """All cells in base64 with as many levels as fit the budget, and how many those are; the coarsest if none fits.

    The order is: picture by picture (n_tokens, rows, cols), then picture by picture the total (rows, cols).
    """
    numbers, total_numbers = flat(maps), flat(totals)
    scale, total_scale = peak([numbers]), peak([total_numbers])
    found = "", LEVELS[-1]
    for levels in LEVELS:
        if levels != LEVELS[-1] and _estimate(maps, scale, levels, signed, budget) > 1.1 * budget:
            continue  # nothing is deflated in vain
        cells = quantise(numbers, scale, levels, signed), quantise(total_numbers, total_scale, levels, signed)
        found = squeeze(b"".join(part.tobytes() for part in cells)), levels
        if len(found[0]) <= budget:
            break
    return found


def hopeless(maps: Sequence[Array], signed: bool, budget: int) -> bool:
    """Whether not even the fewest levels would fit the budget."""
    return _estimate(maps, peak(maps), LEVELS[-1], signed, budget) > 1.1 * budget


def _estimate(maps: Sequence[Array], scale: float, levels: int, signed: bool, budget: int) -> float:
    """Base64 characters that the cells will take, from every eighth token of a long answer; what fits as it is takes no trial."""
    undeflated = sum(heat.size for heat in maps) * 4 / 3
    if undeflated <= budget:
        return undeflated
    step = 8 if len(maps[0]) >= 32 else 1
    data = quantise(flat([heat[::step] for heat in maps]), scale, levels, signed).tobytes()
    return len(zlib.compress(data, 6)) * step * 4 / 3


def merged(maps: Array, side: int) -> Array:
    """Maps (..., rows, cols) on a grid with about one ``side``-th as many rows and columns; sums stay as they are.

    >>> merged(np.ones((2, 4)), 2)
    array([[4., 4.]])
    """
    if side == 1:
        return maps
    down, across = (_overlap(count, max(1, round(count / side))) for count in maps.shape[-2:])
    lost = np.isnan(maps)
    values: Array = np.einsum("...rc,rR,cC->...RC", np.where(lost, 0.0, maps), down, across, optimize=True)
    if not lost.any():
        return values
    return np.where(np.einsum("...rc,rR,cC->...RC", lost * 1.0, down, across, optimize=True) > 0, np.nan, values)


def _overlap(old: int, new: int) -> Array:
    """What share of each of ``old`` equal parts falls into each of ``new`` equal parts.  # (old, new)"""
    ends, borders = np.arange(old + 1) / old, np.arange(new + 1) / new
    inside = np.minimum(ends[1:, None], borders[None, 1:]) - np.maximum(ends[:-1, None], borders[None, :-1])
    return np.asarray(np.clip(inside, 0, None) * old)


def number_bytes(numbers: Array, scale: float) -> bytes:
    """Numbers as little-endian 16-bit steps of a scale; one that is NaN as -32768."""
    steps = np.rint(np.nan_to_num(numbers) / (scale or 1.0) * NUMBER_STEPS)
    return np.where(np.isnan(numbers), NO_NUMBER, steps).astype("<i2").tobytes()


def squeeze(data: bytes) -> str:
    """Deflated, in base64; what is long by zlib's own level, as its best one takes ten times as long there for six per cent less."""
    return in_base64(zlib.compress(data, 9 if len(data) < BEST_BELOW else 6))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
