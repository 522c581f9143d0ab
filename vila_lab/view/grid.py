"""A thumbnail for every layer and head: how its attention splits over the pictures. Knows numbers and names, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .checks import checked, checked_words
from .lettering import write_legend, write_title
from .levels import peak
from .payload import label, percent
from .style import new_axes, picture_colour, plain
from .tables import frame_heads, name_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 0.86  # of a thumbnail, as a share of its cell
GROUND = "#f1f1f2"


def head_grid(
    shares: ArrayLike,
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    outline: Sequence[tuple[int, int]] = (),
    vmax: float | None = None,
    unit: str = "share of a head's attention",
    title: str = "",
) -> Axes:
    """Small bars for every head, one per picture, layers from bottom to top; all on one scale.

    Parameters
    ----------
    shares : (layers, heads, pictures) array
        From 0 up; where a head has NaN, its thumbnail is hatched.
    names : strings
        Of the pictures; ``image_1`` is written as "picture 1".
    ax
        Where to draw; None makes a figure of its own.
    outline
        (layer, head) pairs to frame, such as the routing heads.
    vmax
        What a bar of full height stands for. Give the same to grids that are compared; None takes this grid's own.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If the shape is wrong, or a head to frame is not there.

    Examples
    --------
    >>> ax = head_grid([[[0.1, 0.4], [0.2, 0.0]]], ["image_1", "image_2"])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('head', 'layer')
    """
    from matplotlib.collections import PolyCollection

    values = checked("shares", shares, ("layers", "heads", "pictures"))
    layers, heads, pictures = values.shape
    labels = [label(name) for name in checked_words("names", names, pictures, "pictures")]
    ax = plain(ax or new_axes(min(max(2.6 + 0.62 * heads, 5.2), 11.0), min(1.5 + 0.5 * layers, 12.0)))
    top = (peak([values]) if vmax is None else vmax) or 1.0
    across, up = (axis.ravel() for axis in np.meshgrid(np.arange(heads), np.arange(layers)))  # each (layers * heads,)
    ax.add_collection(PolyCollection(_boxes(across, up, 0.0, 1.0, np.ones(len(up))), facecolor=GROUND), autolim=False)
    flat = values.reshape(-1, pictures)
    lost = np.isnan(flat).any(1)
    for k, name in enumerate(labels):
        high = np.clip(np.nan_to_num(flat[:, k]) / top, 0, 1)
        bars = _boxes(across, up, k / pictures, (k + 1) / pictures, np.where(lost, 0.0, high))
        ax.add_collection(PolyCollection(bars, facecolor=picture_colour(k), label=name), autolim=False)
    if lost.any():
        empty = _boxes(across[lost], up[lost], 0.0, 1.0, np.ones(int(lost.sum())))
        hatched = PolyCollection(
            empty, facecolor="none", edgecolor="#999999", hatch="////", linewidth=0, label="no number"
        )
        ax.add_collection(hatched, autolim=False)
    ax.set(xlim=(-0.6, heads - 0.4), ylim=(-0.6, layers - 0.4))
    frame_heads(ax, outline, layers, heads)
    name_heads(ax, layers, heads)
    write_legend(ax, title=f"full height:\n{percent(top)}\n{unit}")
    write_title(ax, title)
    return ax


def _boxes(
    across: NDArray[np.int64], up: NDArray[np.int64], left: float, right: float, high: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Corners of boxes that stand on the floors of thumbnails, all but the first two in shares of one. Each (4, 2)."""
    low, x0, x1 = up - SIDE / 2, across + (left - 0.5) * SIDE, across + (right - 0.5) * SIDE
    x = np.stack([x0, x1, x1, x0], 1)
    y = np.stack([low, low, low + high * SIDE, low + high * SIDE], 1)
    return list(np.stack([x, y], 2))
