"""How every figure looks: colours, and blank axes to draw on. Knows nothing of what is drawn.

matplotlib is imported when a figure is drawn, never its pyplot: no figure is registered, nothing is shown by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# The same colours as the browser's viewer: Okabe-Ito and a wine red for pictures, greys for the rest.
PICTURE_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#882255")
HATCHES = ("///", "\\\\\\", "...", "xxx", "++", "--", "|||", "oo")  # a part of a bar is told by its texture too
REST_COLOURS = ("#7a7b7e", "#abacae", "#dddddf")
REST_LINES = ("#4d4f54", "#85878b", "#a9abae")  # the last of the greys would not show as a line
BLUE_RED = ("#3d9bff", "#7ab8ff", "#b8d8ff", "#f7f7f7", "#ffc9b8", "#ff9a7a", "#ff5f3c")  # signed: zero in the middle
INK, SOFT_INK, RULE = "#1b1d21", "#55585e", "#c8c9cc"
MARKERS = "osD^vPX*"  # a line is told by its marker too, not by its colour alone


def picture_colour(picture: int) -> str:
    """The colour of a picture, counted from 0; they repeat after eight."""
    return PICTURE_COLOURS[picture % len(PICTURE_COLOURS)]


def column_colours(columns: Sequence[str]) -> list[str]:
    """Colours of columns named ``image_1 .. image_n`` and then the rest.

    >>> column_colours(["image_1", "prompt", "sink"])
    ['#56b4e9', '#7a7b7e', '#abacae']
    """
    pictures = sum(name.startswith("image_") for name in columns)
    rest = [REST_COLOURS[min(k, len(REST_COLOURS) - 1)] for k in range(len(columns) - pictures)]
    return [*map(picture_colour, range(pictures)), *rest]


def column_look(columns: Sequence[str], k: int) -> dict[str, Any]:
    """How a part of a bar is filled: pictures have a colour and a texture each, the rest plain greys.

    >>> column_look(["image_1", "prompt"], 1)
    {'facecolor': '#7a7b7e', 'linewidth': 0}
    """
    look: dict[str, Any] = {"facecolor": column_colours(columns)[k], "linewidth": 0}
    if not columns[k].startswith("image_"):
        return look
    ink = 0.0 if ink_on(picture_colour(k)) == "black" else 1.0
    return look | {"hatch": HATCHES[(k + k // len(HATCHES)) % len(HATCHES)], "edgecolor": (ink, ink, ink, 0.45)}


def ink_on(colour: str | tuple[float, float, float, float]) -> str:
    """Black or white, whichever reads better on a colour (relative luminance, WCAG 2)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return "black" if float(np.dot(linear, (0.2126, 0.7152, 0.0722))) > 0.18 else "white"


def colour_map(signed: bool) -> Colormap:
    """Blue over white to red for signed numbers, viridis for the others."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_red", BLUE_RED) if signed else matplotlib.colormaps["viridis"]


def new_figure(width: float, height: float, *, constrained: bool = False) -> Figure:
    """A figure in inches that pyplot does not know."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from .paper import PaperFigure
    except ImportError as error:
        raise MissingExtra("figures need matplotlib: pip install matplotlib") from error
    figure = PaperFigure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float, box: tuple[float, float, float, float] | None = None) -> Axes:
    """Axes of a figure of their own, which as a notebook cell's last line show it.

    Parameters
    ----------
    width, height
        Of the figure in inches.
    box
        Left, bottom, width and height as shares of the figure; None leaves the room that the labels need.
    """
    figure = new_figure(width, height, constrained=box is None)
    from .shown_axes import ShownAxes

    if box is None:
        return figure.add_subplot(axes_class=ShownAxes)
    return figure.add_axes(box, axes_class=ShownAxes)


def plain(ax: Axes) -> Axes:
    """Take away the frame and the tick marks."""
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8, labelcolor=SOFT_INK)
    return ax


def ruled(ax: Axes) -> Axes:
    """Faint rules across, no frame but the floor."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(RULE)
    ax.grid(axis="y", color=RULE, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8, labelcolor=SOFT_INK)
    return ax
