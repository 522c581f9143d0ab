"""Figure of attention inside a vision tower: its map over the picture, the point that looks marked. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike
from PIL import Image

from .lettering import write_title
from .overlay import heatmap_overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNIT = "attention per cell"


def vision_attention(
    image: Image.Image,
    heat: ArrayLike,
    at: tuple[float, float] | None = None,
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    title: str = "",
) -> Axes:
    """Where patches of a picture look, over the picture.

    Parameters
    ----------
    image
        The picture.
    heat : (rows, cols) array
        Attention over the whole of it.
    at
        The point whose patches look, in pixels of the picture; None marks none.
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The top of the colour scale; None takes this map's own.
    title
        In words what it is.
    """
    ax = heatmap_overlay(image, heat, ax, vmax=vmax, signed=False, unit=UNIT)
    if at is not None:
        # A ring and a dot, white on black, so that it shows on any picture and hides little of it.
        for colour, wide in (("black", 3.4), ("white", 1.4)):
            ax.plot(
                *at, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=wide
            )
        ax.plot(*at, marker="o", markersize=3.4, color="white", markeredgecolor="black", markeredgewidth=0.6)
        ax.set(xlim=(0, image.width), ylim=(image.height, 0))
    write_title(ax, title)
    return ax
