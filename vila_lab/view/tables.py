"""Figures of labelled tables, one coloured cell per number: heads, leakage, patching, agreement. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import OptionError
from .checks import checked, checked_words
from .lettering import label_across, label_down, scale_bar, write_title
from .levels import peak
from .payload import label
from .style import SOFT_INK, colour_map, ink_on, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERS = 150  # cells up to which each has its number written in it
OWN = "#e4e4e6"  # ground of a cell that stands beside the scale
LEAST_RUN = 1 / 45  # of all positions: a group narrower than this gets its label only where there is room


def head_map(
    shares: ArrayLike,
    ax: Axes | None = None,
    *,
    outline: Sequence[tuple[int, int]] = (),
    vmax: float | None = None,
    unit: str = "share of attention",
    title: str = "",
) -> Axes:
    """One number per head, layers from bottom to top: which heads route to a picture.

    Parameters
    ----------
    shares : (layers, heads) array
        From 0 up; NaN cells are hatched.
    ax
        Where to draw; None makes a figure of its own.
    outline
        (layer, head) pairs to frame, such as the routing heads.
    vmax
        The top of the colour scale. Give the same to maps that are compared; None takes this map's own.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If the shape is wrong, or a head to frame is not there.
    """
    values = checked("shares", shares, ("layers", "heads"))
    layers, heads = values.shape
    ax = ax or new_axes(min(max(2.2 + 0.55 * heads, 5.2), 9.0), min(1.4 + 0.4 * layers, 9.0))
    _cells(ax, values, (0.0, (peak([values]) if vmax is None else vmax) or 1.0), unit=unit)
    ax.set_aspect("auto")
    frame_heads(ax, outline, layers, heads)
    ax.invert_yaxis()
    name_heads(ax, layers, heads)
    write_title(ax, title)
    return ax


def leakage_matrix(
    shares: ArrayLike,
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    unit: str = "share of attention",
    title: str = "",
) -> Axes:
    """How much the tokens of each picture read from each other picture.

    What a picture reads of itself is no leakage: it is written on grey and stays out of the scale.

    Parameters
    ----------
    shares : (n, n) array
        Readers down, sources across; NaN cells (a source that comes later than its reader) are hatched. Numbers below
        zero make the scale diverge from zero.
    names : n strings
        Of the pictures; ``image_1`` is written as "picture 1".
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The top of the colour scale. Give the same to layers that are compared; None takes this matrix's own.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If the matrix is not square or has not as many names.
    """
    values = checked("shares", shares, ("readers", "sources"))
    count = len(values)
    values = checked("shares", values, (count, count))
    labels = [label(name) for name in checked_words("names", names, count, "pictures")]
    other = np.where(np.eye(count, dtype=bool), np.nan, values)
    side = min(2.4 + 0.62 * count, 9.0)
    ax = ax or new_axes(side + 0.6, side)
    top = (peak([other]) if vmax is None else vmax) or 1.0
    low = -top if np.nanmin(other, initial=0.0) < 0 else 0.0
    _cells(ax, values, (low, top), unit=unit, aside=np.eye(count, dtype=bool))
    label_across(ax, labels, size=8.5)
    label_down(ax, labels, size=8.5)
    ax.set_xlabel("is read", fontsize=9)
    ax.set_ylabel("reads", fontsize=9)
    write_title(ax, title)
    return ax


def patching_scan(
    recovered: ArrayLike,
    positions: Sequence[str],
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    unit: str = "recovered logit difference",
    title: str = "",
) -> Axes:
    """What patching each layer and position brings back, on a diverging scale with zero pinned in its middle.

    Parameters
    ----------
    recovered : (layers, positions) array
        NaN cells are hatched.
    positions : strings
        A token or the name of a group for each position; neighbours with the same name share one label.
    layers
        Number of each row; by default 0, 1, 2 ...
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The end of the colour scale on both sides; None takes the largest magnitude.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If the labels do not fit the array.
    """
    values = checked("recovered", recovered, ("layers", "positions"))
    rows, across = values.shape
    labels = checked_words("positions", positions, across, "positions")
    numbers = list(range(rows)) if layers is None else list(layers)
    checked_words("layers", [str(number) for number in numbers], rows, "layers")
    ax = ax or new_axes(min(max(2.6 + 0.3 * across, 5.0), 9.4), min(1.9 + 0.3 * rows, 9.0))
    top = (peak([values]) if vmax is None else vmax) or 1.0
    _cells(ax, values, (-top, top), unit=unit, numbers=across <= 16)
    ax.set_aspect("auto")
    ax.invert_yaxis()
    runs = _runs(labels)
    for start, _ in runs[1:]:
        ax.axvline(start - 0.5, color="white", linewidth=0.6 if across <= 60 else 0.3)
    shown = _with_room(runs, across)
    label_across(ax, [labels[start] for start, _ in shown], at=[(a + b - 1) / 2 for a, b in shown], size=8)
    _down_numbers(ax, numbers)
    ax.set_ylabel("layer", fontsize=9)
    write_title(ax, title)
    return ax


def method_agreement(
    shares: ArrayLike,
    methods: Sequence[str],
    pictures: Sequence[str],
    tau: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """Shares of the pictures under several methods, and beside them how far the methods rank the pictures alike.

    Parameters
    ----------
    shares : (methods, pictures) array
        From 0 to 1, all on one scale; NaN cells are hatched.
    methods, pictures : strings
        Names of rows and columns; ``image_1`` is written as "picture 1".
    tau : (methods, methods) array or None
        Kendall's tau of each pair, -1 to 1 on a diverging scale; NaN (a ranking that is one big tie) is hatched.
    ax
        Where to draw; None makes a figure of its own.
    title
        Written above.

    Raises
    ------
    OptionError
        If arrays and names do not fit each other.
    """
    values = checked("shares", shares, ("methods", "pictures"))
    rows, across = values.shape
    names = checked_words("methods", methods, rows, "methods")
    labels = [label(name) for name in checked_words("pictures", pictures, across, "pictures")]
    both = None if tau is None else checked("tau", tau, (rows, rows))
    blocks = across + (0 if both is None else rows + 0.6)
    ax = ax or new_axes(min(2.6 + 0.72 * blocks, 9.4), 1.9 + 0.42 * rows)
    _cells(ax, values, (0.0, 1.0), percent=True)
    at: list[float] = [float(k) for k in range(across)]
    heads = [((across - 1) / 2, "share of each picture")]
    if both is not None:
        start = across + 0.6
        _cells(ax, both, (-1.0, 1.0), left=start)
        at += [start + k for k in range(rows)]
        labels += names
        heads.append((start + (rows - 1) / 2, "agreement of ranks (Kendall's tau)"))
    ax.set_aspect("auto")
    ax.set(xlim=(-0.5, blocks - 0.5), ylim=(rows - 0.5, -0.5))
    label_across(ax, labels, at=at, size=8.5)
    label_down(ax, names, size=8.5)
    for x, text in heads:
        ax.annotate(text, (x, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
                    fontsize=8.5, color=SOFT_INK)  # fmt: skip
    write_title(ax, title, pad=22)
    return ax


def _cells(
    ax: Axes,
    values: NDArray[np.float64],
    scale: tuple[float, float],
    *,
    unit: str = "",
    left: float = 0.0,
    aside: NDArray[np.bool_] | None = None,
    numbers: bool = True,
    percent: bool = False,
) -> None:
    """Coloured cells from ``left`` on, hatched where there is no number, with their numbers where these fit, and a
    scale bar if there is a unit. Cells set aside are grey and stay out of the scale."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    rows, across = values.shape
    colours = colour_map(scale[0] < 0)
    norm = Normalize(*scale)
    coloured = values if aside is None else np.where(aside, np.nan, values)
    extent = (left - 0.5, left + across - 0.5, rows - 0.5, -0.5)
    drawn = ax.imshow(np.ma.masked_invalid(coloured), cmap=colours, norm=norm, extent=extent, interpolation="nearest")
    for row, col in np.argwhere(np.isnan(coloured)):
        lost = bool(np.isnan(values[row, col]))
        look: dict[str, Any] = {"fill": False, "hatch": "////", "edgecolor": "#999999"} if lost else {"facecolor": OWN}
        ax.add_patch(Rectangle((left + col - 0.5, row - 0.5), 1, 1, linewidth=0, **look))
    plain(ax)
    if numbers and values.size <= MOST_NUMBERS:
        for (row, col), value in np.ndenumerate(values):
            if not np.isnan(value):
                ground = OWN if np.isnan(coloured[row, col]) else colours(norm(value))
                text = f"{100 * value:.0f} %" if percent else _short(value, scale)
                ax.text(left + col, row, text, ha="center", va="center", fontsize=7.5, color=ink_on(ground))
    if unit:
        scale_bar(ax, drawn, unit)


def _short(value: float, scale: tuple[float, float]) -> str:
    """A number with as many decimals as tell it apart on its scale; no minus before a zero."""
    decimals = int(np.clip(1 - np.floor(np.log10(max(map(abs, scale)))), 1, 4))
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def frame_heads(ax: Axes, outline: Sequence[tuple[int, int]], layers: int, heads: int) -> None:
    """Frame cells by (layer, head).

    Raises
    ------
    OptionError
        If one is not there.
    """
    from matplotlib.patches import Rectangle

    for layer, head in outline:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise OptionError(
                f"there is no head {head} in layer {layer} to outline: there are {layers} layers of {heads}"
            )
        for colour, width in (("white", 3.4), ("#d55e00", 1.8)):  # the white rim keeps it apart from any cell
            ax.add_patch(Rectangle((head - 0.47, layer - 0.47), 0.94, 0.94, fill=False, edgecolor=colour, lw=width))


def name_heads(ax: Axes, layers: int, heads: int) -> None:
    """Numbers from 0 on both axes, thinned out to about twenty, and what they count."""
    ax.set_xticks(range(0, heads, -(-heads // 20)))
    _down_numbers(ax, list(range(layers)))
    ax.set_xlabel("head", fontsize=9)
    ax.set_ylabel("layer", fontsize=9)


def _down_numbers(ax: Axes, numbers: Sequence[int]) -> None:
    step = -(-len(numbers) // 20)
    ax.set_yticks(range(0, len(numbers), step), [str(number) for number in numbers[::step]])


def _runs(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Start and stop of every stretch of equal labels.

    >>> _runs(["a", "a", "b"])
    [(0, 2), (2, 3)]
    """
    found, start = [], 0
    for _, members in groupby(labels):
        stop = start + len(list(members))
        found.append((start, stop))
        start = stop
    return found


def _with_room(runs: Sequence[tuple[int, int]], across: int) -> list[tuple[int, int]]:
    """The stretches whose labels do not run into another's, wide ones first."""
    least = LEAST_RUN * across
    shown: list[tuple[int, int]] = []
    for start, stop in sorted(runs, key=lambda run: run[0] - run[1]):
        middle = (start + stop) / 2
        if all(abs(middle - (a + b) / 2) >= least for a, b in shown):
            shown.append((start, stop))
    return sorted(shown)
