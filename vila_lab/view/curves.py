"""Figures of lines: shares by layer, flow by layer, deletion and insertion. Knows numbers and names, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .checks import checked, checked_words
from .lettering import write_legend, write_names, write_title
from .levels import peak
from .payload import label
from .style import INK, MARKERS, PICTURE_COLOURS, REST_LINES, new_axes, picture_colour, ruled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = 8.0  # nats: an answer whose log-probability changes by so much is gone
BEYOND_YELLOW = tuple(colour for colour in PICTURE_COLOURS if colour != "#f0e442")  # too pale for a line on white


def layer_shares(
    shares: ArrayLike,
    names: Sequence[str],
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """Share of each picture, and of the rest, layer by layer.

    Parameters
    ----------
    shares : (layers, names) array
        From 0 to 1; NaN leaves a gap.
    names : strings
        ``image_1`` to ``image_n``, then the rest, as the ledger's columns; the rest is drawn in grey.
    layers
        Number of each layer; by default 0, 1, 2 ...
    ax
        Where to draw; None makes a figure of its own.
    title
        Written above.

    Raises
    ------
    OptionError
        If the names or layers do not fit the array.
    """
    values = checked("shares", shares, ("layers", "names"))
    labels = checked_words("names", names, values.shape[1], "columns")
    across = _layers(layers, len(values))
    ax = ruled(ax or new_axes(7.2, 3.4))
    rest = [name for name in labels if not name.startswith("image_")]
    for k, name in enumerate(labels):
        if name in rest:
            number = rest.index(name) % 3
            _line(ax, across, values[:, k], label(name), REST_LINES[number], "", ("--", "-.", ":")[number])
        else:
            _line(ax, across, values[:, k], label(name), picture_colour(k), MARKERS[k % len(MARKERS)])
    ax.set_ylim(0, max(1.05 * float(np.nanmax(values, initial=0.0)), 1e-3))
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    _finish(ax, across, "layer", "share of attention", title)
    return ax


def flow_by_layer(
    effects: Mapping[str, ArrayLike], layers: Sequence[int], ax: Axes | None = None, *, unit: str = "", title: str = ""
) -> Axes:
    """What cutting a named edge in a band of layers does to the answer, band by band, beside the line of no effect.

    Where an effect is beyond 8, the scale is linear to 1 and logarithmic from there, and says so.

    Parameters
    ----------
    effects : {edge: (bands,) array}
        Such as ``"image -> answer"``; below zero the cut hurts, NaN leaves a gap.
    layers : (bands,)
        Centre of each band.
    ax
        Where to draw; None makes a figure of its own.
    unit
        What a number is; by default the change of the answer's log-probability.
    title
        Written above.

    Raises
    ------
    OptionError
        If an edge has not one number per band, or there is none.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    across = _layers(layers, len(layers))
    checked("effects", np.zeros(len(effects)), ("edges",))  # at least one
    ax = ruled(ax or new_axes(7.2, 3.4))
    ax.axhline(0, color=INK, linewidth=0.9, zorder=1)
    for k, (edge, effect) in enumerate(effects.items()):
        values = checked(f"effects[{edge!r}]", effect, (len(across),))
        colour = BEYOND_YELLOW[(k + 4) % len(BEYOND_YELLOW)]  # apart from the first pictures' colours
        _line(ax, across, values, edge.replace("->", "→"), colour, MARKERS[k % len(MARKERS)])
    ax.margins(y=0.08)
    text = unit or "change of the answer's log-probability\n(below zero: the cut hurts)"
    if peak([np.asarray(effect, np.float64) for effect in effects.values()]) > FAR:
        # One cut that ruins the answer would press all others flat against zero.
        ax.set_yscale("symlog", linthresh=1)
        ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=[1, 3]))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
        text += "\nlinear to ±1, logarithmic beyond"
    _finish(ax, across, "layer (centre of the band that is cut)", text, title)
    return ax


def deletion_curves(
    fractions: ArrayLike,
    deletion: Mapping[str, ArrayLike],
    insertion: Mapping[str, ArrayLike] | None = None,
    ax: Axes | None = None,
    *,
    baselines: Sequence[str] = (),
    unit: str = "probability of the answer",
    title: str = "",
) -> Axes:
    """The answer's probability while a map's best tokens are taken away (solid) or brought in (dashed).

    Areas under the curves stand in the legend: a good map has a small one for deletion, a large one for insertion.

    Parameters
    ----------
    fractions : (steps,) array
        Share of the visual tokens that is taken away or brought in, from 0 to 1.
    deletion, insertion : {map: (steps,) array}
        Values of each map; NaN leaves a gap.
    ax
        Where to draw; None makes a figure of its own.
    baselines
        Maps that know nothing, drawn in grey.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If a curve has not one number per fraction.
    """
    x = checked("fractions", fractions, ("steps",))
    kinds = (("deletion", deletion, "-"), ("insertion", insertion or {}, "--"))
    names = list(dict.fromkeys([*deletion, *(insertion or {})]))
    checked("deletion", np.zeros(len(names)), ("maps",))  # at least one
    ax = ruled(ax or new_axes(7.6, 3.6))
    colours = _apart(names, baselines)
    for k, name in enumerate(names):
        found = [
            (word, checked(f"{word}[{name!r}]", of[name], (len(x),)), look) for word, of, look in kinds if name in of
        ]
        text = name + "\n" + ", ".join(f"{word} {_area(x, y):.2f}" for word, y, _ in found)
        for number, (_, y, look) in enumerate(found):
            _line(ax, x, y, "_nolegend_" if number else text, colours[name], MARKERS[k % len(MARKERS)], look)
    top = max(float(np.nanmax(np.asarray(line.get_ydata(), float), initial=0)) for line in ax.get_lines())
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02 * top, 1.05 * top or 1.0))
    ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _finish(ax, None, "visual tokens taken away (solid) or brought in (dashed)", unit, title)
    return ax


def _apart(names: Sequence[str], baselines: Sequence[str]) -> dict[str, str]:
    """Greys for the baselines, colours for the others."""
    told = [name for name in names if name not in baselines]
    grey = [name for name in names if name in baselines]
    colours = {name: BEYOND_YELLOW[(k + 4) % len(BEYOND_YELLOW)] for k, name in enumerate(told)}
    return colours | {name: REST_LINES[k % 3] for k, name in enumerate(grey)}


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def _layers(layers: Sequence[int] | None, count: int) -> NDArray[np.float64]:
    numbers = range(count) if layers is None else layers
    return checked("layers", list(numbers), (count,) if count else ("layers",))


def _line(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], name: str, colour: str, marker: str, look: str = "-"
) -> None:
    ax.plot(x, y, look, color=colour, marker=marker, markersize=4.5, linewidth=1.7, label=name, zorder=2)


def _finish(ax: Axes, layers: NDArray[np.float64] | None, across: str, up: str, title: str) -> None:
    """Names of the axes, whole numbers for layers, and the legend at the right, where no line runs."""
    from matplotlib.ticker import MaxNLocator

    if layers is not None:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
        ax.set_xlim(layers.min() - 0.3, layers.max() + 0.3)
    write_names(ax, across, up)
    write_legend(ax)
    write_title(ax, title)
