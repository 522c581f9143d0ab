"""Figures over the cells of a picture: heatmap overlay and logit-lens grid. Knows pictures, numbers and words, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .checks import checked, checked_words
from .lettering import columns, cut, drawable, lettering, scale_bar
from .levels import peak
from .pictures import shrink
from .style import colour_map, ink_on, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONGEST_CELL = 0.8  # opacity of the cell at the top of the scale; half the number is half the opacity
DIMMED = 0.8  # brightness of a picture under its cells: they stand out, and its colours stay
DIMMER = [round(DIMMED * level) for level in range(256)] * 3  # red, green and blue of a picture that is dimmed
GREY = DIMMED / 2  # what a dimmed picture looks like on average; the ground of the scale bar
WORD_SIZES = (3.5, 9.0)  # points: the smallest and the largest letters of a word in a cell
POINTS_PER_COLUMN = 0.66  # width of a column of letters as a share of their size; measured 0.58 to 0.64
LONGEST_WORD = 12  # characters


def heatmap_overlay(
    image: Image.Image,
    heat: ArrayLike,
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    signed: bool | None = None,
    unit: str = "",
) -> Axes:
    """A heatmap over its dimmed picture, in the picture's own shape, with crisp cells.

    A cell is the stronger, the larger its number: nothing is painted at zero, half the top of the scale half as strong.

    Parameters
    ----------
    image
        The picture.
    heat : (rows, cols) array
        Its cells over the whole of it; NaN cells are hatched.
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The top of the colour scale. Give the same to all pictures of an answer; None takes this map's own.
    signed
        Whether to use a diverging scale with zero in its middle; None looks for cells below zero.
    unit
        What a number is; with it, a scale bar stands beside the picture.

    Raises
    ------
    OptionError
        If the heatmap is not (rows, cols) with at least one cell.
    """
    heat = checked("heat", heat, ("rows", "cols"))
    if ax is None and unit:
        ax = new_axes(5.4, 0.9 + 4.2 * image.height / image.width)
    ax = ax or new_axes(4.0, 4.0 * image.height / image.width, (0.0, 0.0, 1.0, 1.0))
    signed = bool(np.nanmin(heat, initial=0.0) < 0) if signed is None else signed
    top = (peak([heat]) if vmax is None else vmax) or 1.0
    width, height = image.size
    box = (0.0, float(width), float(height), 0.0)
    ax.imshow(_in_bytes(dimmed(shrink(image))), extent=box)
    ax.imshow(_in_bytes(cell_colours(heat, top, signed)), extent=box, interpolation="nearest")
    high, wide = height / heat.shape[0], width / heat.shape[1]
    for row, col in np.argwhere(np.isnan(heat)):
        _hatch(ax, (col * wide, row * high, (col + 1) * wide, (row + 1) * high))
    ax.set_axis_off()
    if unit:
        _scale_bar(ax, top, signed, unit)
    return ax


def painted(
    shown: Image.Image, heat: NDArray[np.float64], top: float, signed: bool, size: tuple[int, int]
) -> Image.Image:
    """What `heatmap_overlay` draws, as pixels of a size: over a picture of `shrink`; cells without a number stay bare."""
    ground = shown.resize(size, Image.Resampling.HAMMING, reducing_gap=1.5).point(DIMMER)
    cells = Image.fromarray(_in_bytes(cell_colours(heat, top, signed))).resize(size, Image.Resampling.NEAREST)
    ground.paste(cells, (0, 0), cells)
    return ground


def logit_lens_grid(
    image: Image.Image,
    boxes: ArrayLike,
    words: Sequence[str],
    chances: ArrayLike,
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    unit: str = "probability",
) -> Axes:
    """The word that each patch of a picture says, written in the patch; the more probable, the stronger its cell.

    Letters are as large as the longest word lets them be, one size for all patches.

    Parameters
    ----------
    image
        The picture.
    boxes : (N, 4) array
        x0, y0, x1, y1 of each patch, in pixels of the picture.
    words : N strings
        What each patch says.
    chances : (N,) array
        How probable; NaN patches are hatched.
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The top of the colour scale. Give the same to pictures and layers that are compared; None takes this one's own.
    unit
        What a chance is, in words, for the scale bar.

    Raises
    ------
    OptionError
        If there are not as many words and chances as boxes.
    """
    from matplotlib.patches import Rectangle

    corners = checked("boxes", boxes, ("patches", 4))
    strengths = checked("chances", chances, (len(corners),))
    checked_words("words", words, len(corners), "patches")
    ax = ax or new_axes(6.8, 0.8 + 5.4 * image.height / image.width)
    top = (peak([strengths]) if vmax is None else vmax) or 1.0
    ground = dimmed(shrink(image))
    ax.imshow(ground, extent=(0.0, float(image.width), float(image.height), 0.0))
    ax.set_axis_off()
    _scale_bar(ax, top, False, unit)
    said = [cut(drawable(word.strip().replace("\n", "⏎")) or "␣", LONGEST_WORD) for word in words]
    size = _word_size(ax, corners, said, image.width)
    for (x0, y0, x1, y1), word, strength in zip(corners, said, strengths, strict=True):
        if np.isnan(strength):
            _hatch(ax, (x0, y0, x1, y1))
            continue
        colour = cell_colours(strength, top, False)
        rim = (1.0, 1.0, 1.0, 0.25)
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=tuple(colour), edgecolor=rim, linewidth=0.4))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        behind = ground[int(y / image.height * len(ground)), int(x / image.width * ground.shape[1])]
        red, green, blue = colour[:3] * colour[3] + behind * (1 - colour[3])
        ink = ink_on((red, green, blue, 1.0))
        ax.text(x, y, word, ha="center", va="center", fontsize=size, color=ink, clip_on=True, **lettering())
    return ax


def cell_colours(heat: ArrayLike, top: float, signed: bool) -> NDArray[np.float64]:
    """Colour and opacity of every cell on a scale that ends at ``top``. Shape (..., 4), values 0 to 1."""
    share = np.nan_to_num(np.clip(np.asarray(heat) / top, -1 if signed else 0, 1))
    # The dark third of viridis would not show on a dimmed picture.
    rgba = np.array(colour_map(signed)((share + 1) / 2 if signed else (1 + 2 * share) / 3))
    rgba[..., 3] = STRONGEST_CELL * np.abs(share)
    return rgba


def dimmed(shown: Image.Image) -> NDArray[np.float64]:
    """A picture of `shrink` in its colours and a little darker, so that painted cells stand out on any picture. Values 0 to 1."""
    return DIMMED / 255 * np.asarray(shown, dtype=np.float64)


def _in_bytes(colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours 0 to 255, which are drawn in half the time."""
    return np.rint(255 * colours).astype(np.uint8)


def _word_size(ax: Axes, boxes: NDArray[np.float64], words: Sequence[str], width: float) -> float:
    """Points at which every word stays in its box."""
    inches = ax.get_window_extent().width / ax.figure.dpi
    points = 72 * inches / width * (boxes[:, 2] - boxes[:, 0])  # width of each box
    fitting = [room / (POINTS_PER_COLUMN * columns(word)) for room, word in zip(points, words, strict=True)]
    return float(np.clip(min(fitting), *WORD_SIZES))


def _hatch(ax: Axes, box: tuple[float, float, float, float]) -> None:
    """Mark a cell that has no number."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = box
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, hatch="////", edgecolor="white", linewidth=0))


def _scale_bar(ax: Axes, top: float, signed: bool, unit: str) -> None:
    """A bar in the colours that cells have on an average dimmed picture."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    low = -top if signed else 0.0
    rgba = cell_colours(np.linspace(low, top, 256), top, signed)
    seen = rgba[:, :3] * rgba[:, 3:] + GREY * (1 - rgba[:, 3:])
    scale = ScalarMappable(Normalize(low, top), ListedColormap(seen))
    scale_bar(ax, scale, unit)
