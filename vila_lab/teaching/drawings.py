"""Drawings that explain one word each: chips, a grid, a row, looks, bars, steps. Knows numbers and pictures, no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..tokenmap import Kind, TokenMap
from ..view.lettering import columns, drawable, label_down, lettering, write_head, write_title
from ..view.levels import peak
from ..view.overlay import heatmap_overlay
from ..view.payload import percent
from ..view.pictures import shrink
from ..view.shown_axes import ShownAxes
from ..view.style import INK, REST_COLOURS, SOFT_INK, ink_on, new_axes, new_figure, picture_colour, plain, ruled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.4  # inches of every drawing
SIDE = 320  # pixels of a picture's longer side, more than the drawing shows
SINK_COLOUR = "#b00020"
LINE = 66  # columns of letters on a line of chips
LETTER = 0.78  # width of a chip's letter, in columns; DejaVu Sans is narrower than that but for W and M
MOST_COLUMNS = 8
LEAST = -16.0  # nats: what is less probable is drawn here
MANY = np.log(1e6)  # nats from which on nobody wants to count


@dataclass(frozen=True)
class Chip:
    """A token's characters, or a picture with its number of tokens.

    Attributes
    ----------
    text : str
    picture : int
        From 0; -1 for text.
    count : int
        How many tokens it stands for.
    """

    text: str
    picture: int = -1
    count: int = 1

    @property
    def shown(self) -> str:
        """What is written on it: spaces and line breaks visible, for they belong to the token."""
        if self.picture >= 0:
            return f"picture {self.picture + 1}: {self.count} tokens"
        return drawable(self.text.replace(" ", "␣").replace("\n", "⏎")) or "(end)"

    @property
    def width(self) -> float:
        """In columns, with its rim."""
        return max(LETTER * columns(self.shown), 1.0) + 1.2


def chips(question: Sequence[Chip], answer: Sequence[Chip]) -> Axes:
    """Tokens of a question, and below them those of its answer, a box around each."""
    lines = [(name, line) for name, some in (("question", question), ("answer", answer)) for line in _lines(some)]
    ax = new_axes(WIDTH, 0.5 + 0.46 * len(lines), (0.1, 0.02, 0.89, 0.96))
    ax.set_axis_off()
    ax.set(xlim=(0, LINE), ylim=(len(lines) - 0.5, -0.5))
    for y, (name, line) in enumerate(lines):
        if y == 0 or lines[y - 1][0] != name:
            ax.text(-0.8, y, name, ha="right", va="center", fontsize=9, color=SOFT_INK)
        x = 0.0
        for chip in line:
            _box(ax, x, y, chip)
            x += chip.width + 0.5
    return ax


def patch_grid(image: Image.Image, picture: int, boxes: NDArray[np.float64], patches: tuple[int, int]) -> Axes:
    """A picture cut into patches, with a frame around those that become one token.

    Parameters
    ----------
    image, picture
        The picture, and its number from 0.
    boxes : (n, 4)
        x0, y0, x1, y1 of each token, in pixels.
    patches
        Rows and columns of patches.
    """
    from matplotlib.collections import PolyCollection

    scale = 3.8 / max(image.size)
    ax = new_axes(max(scale * image.width, 3.6), 0.5 + scale * image.height)
    ax.imshow(shrink(image, SIDE), extent=(0.0, float(image.width), float(image.height), 0.0))
    ax.set_axis_off()
    for count, length, line in ((patches[0], image.height, ax.axhline), (patches[1], image.width, ax.axvline)):
        for k in range(1, count):
            line(k * length / count, color=SOFT_INK, linewidth=0.5, alpha=0.8)
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (n, 4, 2)
    ax.add_collection(PolyCollection(list(corners), facecolor="none", edgecolor=INK, linewidth=1.4))
    middle = int(np.abs(boxes.reshape(-1, 2, 2).mean(1) - np.array(image.size) / 2).sum(-1).argmin())
    one = PolyCollection([corners[middle]], facecolor=picture_colour(picture), alpha=0.75)
    ax.add_collection(one)
    write_title(ax, f"picture {picture + 1}: {patches[0]} × {patches[1]} patches, {len(boxes)} tokens")
    return ax


def row_of_attention(tokens: TokenMap, row: ArrayLike, title: str, sinks: ArrayLike = ()) -> Axes:
    """The attention of one position to all before it: a bar for each, in the colour of what stands there.

    Parameters
    ----------
    tokens
    row : (T,)
        Shares that sum to 1.
    sinks
        Positions to mark.
    """
    from matplotlib.ticker import PercentFormatter

    shares = np.trim_zeros(np.asarray(row, np.float64), "b")
    marked = np.asarray(sinks, np.int64)
    colours = [_colour(tokens, position) for position in range(len(shares))]
    for position in marked:
        colours[position] = SINK_COLOUR
    ax = ruled(new_axes(WIDTH, 2.7))
    ax.bar(range(len(shares)), shares, width=1.0, color=colours)
    ax.set_xlim(-1.5, len(shares) + 0.5)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.set_ylabel("share", fontsize=8.5, color=SOFT_INK)
    starts, names = _stretches(tokens, len(shares))
    ax.set_xticks(starts, names, fontsize=8)
    for position in marked:
        ax.annotate(
            f"sink, position {position}: {percent(shares[position])}", (position + 0.5, shares[position]), (position + 4, shares[position]),
            fontsize=8.5, color=SINK_COLOUR, va="top",
        )  # fmt: skip
    write_title(ax, f"{title}; {len(shares)} shares that sum to 1")
    return ax


def looks(images: Sequence[Image.Image], tokens: TokenMap, rows: Mapping[str, ArrayLike], title: str) -> Axes:
    """Where several rows of attention look: a column for each, a line for each picture, all on one colour scale.

    Parameters
    ----------
    images, tokens
    rows : mapping of str to (T,)
        What to write over a column, and its shares; of many, some are drawn.
    title
    """
    names = list(rows)
    names = [
        names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_COLUMNS)).round().astype(int))
    ]
    shown = [shrink(image, SIDE) for image in images]
    heats = [[tokens.heatmap(rows[name], k) for name in names] for k in range(len(images))]
    top = peak([heat for line in heats for heat in line])
    side = min(1.5, WIDTH / len(names))
    high = [side * min(image.height / image.width, 1.6) for image in shown]
    figure = new_figure(max(side * len(names), 4.0), 0.6 + 0.96 * sum(high) + 0.18 * len(high), constrained=True)
    axes = figure.subplots(
        len(high), len(names), squeeze=False, subplot_kw={"axes_class": ShownAxes}, height_ratios=high
    )
    for k, (image, across) in enumerate(zip(shown, axes, strict=True)):
        for name, heat, ax in zip(names, heats[k], across, strict=True):
            heatmap_overlay(image, heat, ax, vmax=top, signed=False)
            over = f"{name}\n{percent(heat.sum())}" if k == 0 else percent(heat.sum())
            ax.set_title(drawable(over), fontsize=8.5, color=SOFT_INK, pad=2, **lettering())
    write_head(figure, title)
    first: Axes = axes[0, 0]
    return first


def chance_bars(candidates: Sequence[tuple[str, float]], title: str) -> Axes:
    """Words that could have come, each with its log-probability as a bar and its probability in figures."""
    names = [Chip(text).shown for text, _ in candidates]
    logs = np.maximum([log for _, log in candidates], LEAST)
    ax = plain(new_axes(WIDTH, 0.9 + 0.34 * len(names)))
    ax.barh(range(len(names)), logs, height=0.6, color=REST_COLOURS[0])
    label_down(ax, names)
    ax.invert_yaxis()
    for y, (_, log) in enumerate(candidates):
        ax.text(logs[y], y, f"{_minus(log)}   {_chance(log)} ", ha="right", va="center", fontsize=8.5, color=INK)
    ax.set_xlim(1.4 * logs.min() - 1, 0)
    ax.yaxis.tick_right()
    ax.set_xlabel("log-probability in nats: the natural logarithm of the probability", fontsize=8.5, color=SOFT_INK)
    write_title(ax, title)
    return ax


def steps_in_nats(chances: Mapping[str, float], title: str) -> Axes:
    """Log-probabilities of one word in several cases, on a scale of nats with the probabilities over it.

    Parameters
    ----------
    chances
        What to write beside a case, and the log-probability; the first is what the others are compared with.
    title
    """
    names, true = list(chances), list(chances.values())
    logs = np.maximum(true, LEAST)
    low = int(np.floor(min(logs.min(), -3))) - 1
    ax = plain(new_axes(WIDTH, 1.2 + 0.36 * len(names)))
    nats = np.arange(low, 1)
    ax.set_xlim(low, 0.4)
    ax.vlines(nats, -0.5, len(names) - 0.5, color=REST_COLOURS[2], linewidth=0.8)
    for y, log in enumerate(logs):
        ax.plot([logs[0], log], [y, y], color=SOFT_INK, linewidth=2)
        ax.plot(log, y, "o", color=picture_colour(y - 1) if y else INK, markersize=8)
        fall = true[0] - true[y]
        if abs(fall) >= 0.05:
            ax.text((log + logs[0]) / 2, y - 0.14, _fallen(fall), ha="center", va="bottom", fontsize=8.5, color=INK)
    label_down(ax, names)
    ax.invert_yaxis()
    ax.set_xticks(nats[:: max(1, len(nats) // 12)])
    ax.set_xlabel(
        "log-probability in nats: one step to the left divides the probability by e = 2.718",
        fontsize=8.5,
        color=SOFT_INK,
    )
    over = ax.secondary_xaxis("top")
    over.spines["top"].set_visible(False)
    over.tick_params(length=0, labelsize=8, labelcolor=SOFT_INK)
    over.set_xticks(ax.get_xticks(), [_chance(nat) for nat in ax.get_xticks()])
    write_title(ax, title, pad=20)
    return ax


def _lines(some: Sequence[Chip]) -> list[list[Chip]]:
    """Chips on as many lines as they need."""
    lines: list[list[Chip]] = [[]]
    used = 0.0
    for chip in some:
        if lines[-1] and used + chip.width > LINE:
            lines.append([])
            used = 0.0
        lines[-1].append(chip)
        used += chip.width + 0.5
    return lines


def _box(ax: Axes, x: float, y: float, chip: Chip) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = picture_colour(chip.picture) if chip.picture >= 0 else REST_COLOURS[2]
    rim = FancyBboxPatch((x + 0.3, y - 0.32), chip.width - 0.6, 0.64, boxstyle="round,pad=0,rounding_size=0.3",
                         mutation_aspect=0.5, facecolor=colour, edgecolor=SOFT_INK, linewidth=0.6)  # fmt: skip
    ax.add_patch(rim)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": ink_on(colour), **lettering()}
    ax.text(x + chip.width / 2, y, chip.shown, **style)


def _colour(tokens: TokenMap, position: int) -> str:
    is_picture = tokens.kind[position] == Kind.IMAGE
    return picture_colour(int(tokens.picture[position])) if is_picture else REST_COLOURS[0]


def _stretches(tokens: TokenMap, length: int) -> tuple[list[float], list[str]]:
    """Where each stretch of one kind has its middle, and what it is; those too short for a label are left out."""
    kind = np.where(tokens.kind[:length] == Kind.IMAGE, tokens.picture[:length], -1)
    borders = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), length]
    stretches = [(a, b) for a, b in pairwise(borders) if b - a > length / 16]
    names = [f"picture {kind[a] + 1}" if kind[a] >= 0 else "text" for a, b in stretches]
    return [(a + b - 1) / 2 for a, b in stretches], names


def _fallen(nats: float) -> str:
    """How much less probable something is, in words.

    >>> _fallen(1.0), _fallen(40.0), _fallen(float("inf")), _fallen(-0.5)
    ('1.0 nats: 3 times less probable', '40.0 nats: more than a million times less probable', 'impossible', '0.5 nats more')
    """
    if nats <= 0:
        return f"{-nats:.1f} nats more"
    if np.isinf(nats):
        return "impossible"
    times = f"{np.exp(nats):,.0f}" if nats < MANY else "more than a million"
    return f"{nats:.1f} nats: {times} times less probable"


def _chance(log: float) -> str:
    share = 100 * np.exp(log)
    return f"{share:.3g} %" if share >= 10 else f"{share:.2g} %"


def _minus(log: float) -> str:
    return f"{log:.2f}".replace("-", "\N{MINUS SIGN}")
