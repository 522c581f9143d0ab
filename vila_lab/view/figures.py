"""Figures of an answer for paper, talk and fallback: ledger, heatmap overlay, overview. Knows arrays and labels only.

matplotlib is imported when a figure is drawn, never its pyplot: no figure is registered, nothing is shown by itself.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MissingExtra
from .payload import AnswerView, label, peak, percent, shrink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The same colours as the browser's viewer: Okabe-Ito and a wine red for pictures, greys for the rest.
PICTURE_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#882255")
REST_COLOURS = ("#7a7b7e", "#abacae", "#dddddf")
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
INK, SOFT_INK = "#1b1d21", "#55585e"
DPI = 110
EXACT_PNG = 150_000  # bytes up to which a PNG keeps all its colours
GAP = 0.18  # inches between pictures
SLOT_RATIOS = 0.36, 2.2  # a picture narrower or wider than this does not fill its place in a line
ROW_TOKENS = 32  # tokens in one row of the overview's ledger
MAX_ROWS = 4  # rows of the overview's ledger; what is left out is said
BLUE_RED = ("#3d9bff", "#7ab8ff", "#b8d8ff", "#f7f7f7", "#ffc9b8", "#ff9a7a", "#ff5f3c")  # signed: zero in the middle
STRONGEST_CELL = 0.88  # opacity of the cell at the top of the scale; half the number is half the opacity


def ledger(
    view: AnswerView, ax: Axes | None = None, *, start: int = 0, stop: int | None = None, places: int | None = None
) -> Axes:
    """Stacked bars, one per answer token: the share of each picture, the prompt, the answer and the sink.

    Parameters
    ----------
    view
        The answer to draw.
    ax
        Where to draw; None makes a figure of its own (``ax.figure``).
    start, stop
        The tokens to draw, as in a slice.
    places
        Room for how many bars, so that rows of a long answer stand in line; None is as many as there are.
    """
    from matplotlib.collections import PolyCollection

    ax = ax or _axes((9.0, 2.6), (0.08, 0.3, 0.9, 0.66))
    tokens = view.tokens[start:stop]
    rows = view.ledger[start:stop]
    places = places or max(len(tokens), 1)
    across = np.arange(len(tokens))
    base = np.zeros(len(tokens))
    for k, column in enumerate(view.columns):
        shares = np.clip(np.nan_to_num(rows[:, k]), 0, None)
        bars = _bars(across, base, base + shares)  # one collection: a patch per bar takes ten times as long
        ax.add_collection(PolyCollection(bars, facecolor=_column_colour(view, k), label=label(column)), autolim=False)
        base += shares
    lost = across[np.isnan(rows).any(axis=1)]
    if lost.size:
        bars = _bars(lost, np.zeros(lost.size), np.ones(lost.size))
        hatched = PolyCollection(
            bars, facecolor="none", edgecolor="#999999", hatch="////", linewidth=0, label="not captured"
        )
        ax.add_collection(hatched, autolim=False)
    labels = [_token_label(token, start + k) for k, token in enumerate(tokens)]
    slanted = _slanted(labels, places)
    ax.set_xticks(across, labels, parse_math=False, family=list(font_family()), fontsize=9)
    ax.tick_params(axis="x", rotation=55 if slanted else 0, length=0)
    for text in ax.get_xticklabels():
        text.set(horizontalalignment="right" if slanted else "center", rotation_mode="anchor" if slanted else "default")
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, places - 0.4)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8, color=SOFT_INK)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    return ax


def heatmap_overlay(
    image: Image.Image,
    heat: NDArray[np.float64],
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    signed: bool | None = None,
) -> Axes:
    """A heatmap over its dimmed picture, in the picture's own shape, with crisp cells.

    A cell is the stronger, the larger its number: nothing is painted at zero, half the top of the scale half as strong.

    Parameters
    ----------
    image, heat
        The picture, and its cells (rows, cols) over the whole of it; NaN cells are hatched.
    ax
        Where to draw; None makes a figure of its own.
    vmax
        The top of the colour scale. Give the same to all pictures of an answer; None takes this map's own.
    signed
        Whether to use a diverging scale with zero in its middle; None looks for cells below zero.
    """
    from matplotlib.patches import Rectangle

    heat = np.asarray(heat, dtype=np.float64)
    ax = ax or _axes((4.0, 4.0 * image.height / image.width), (0.0, 0.0, 1.0, 1.0))
    signed = bool(np.nanmin(heat, initial=0.0) < 0) if signed is None else signed
    top = (peak([heat]) if vmax is None else vmax) or 1.0
    box = (0.0, float(image.width), float(image.height), 0.0)
    ax.imshow(_dimmed(image), extent=box)
    ax.imshow(cell_colours(heat, top, signed), extent=box, interpolation="nearest")
    high, wide = image.height / heat.shape[0], image.width / heat.shape[1]
    for row, col in np.argwhere(np.isnan(heat)):
        ax.add_patch(
            Rectangle((col * wide, row * high), wide, high, fill=False, hatch="////", edgecolor="white", linewidth=0)
        )
    ax.set_axis_off()
    return ax


def cell_colours(heat: NDArray[np.float64], top: float, signed: bool) -> NDArray[np.float64]:
    """Colour and opacity of every cell on a scale that ends at ``top``. Shape (..., 4), values 0 to 1."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    share = np.nan_to_num(np.clip(heat / top, -1 if signed else 0, 1))
    if signed:
        rgba = np.array(LinearSegmentedColormap.from_list("blue_red", BLUE_RED)((share + 1) / 2))
    else:
        rgba = np.array(
            matplotlib.colormaps["viridis"]((1 + 2 * share) / 3)
        )  # purple would not show on a dimmed picture
    rgba[..., 3] = STRONGEST_CELL * np.abs(share)
    return rgba


def overview(view: AnswerView) -> Figure:
    """One figure of an answer: question, pictures with the heatmap of all tokens on one scale, the ledger, the method."""
    head = _wrapped(drawable(_prompt_text(view)), 98, most=3)
    foot = [line for text in _footer(view) for line in _wrapped(drawable(text), 128, most=4)]
    lines = _flow(view)
    starts = range(0, min(len(view.tokens), ROW_TOKENS * MAX_ROWS), ROW_TOKENS)
    labels = [_token_label(token, k) for k, token in enumerate(view.tokens)]
    row_height = 1.45 + (0.065 * _longest(labels) if _slanted(labels, min(len(labels), ROW_TOKENS)) else 0)
    high_pictures = sum(max(high for _, _, high in line) + 0.42 for line in lines) + (0.45 if lines else 0.3)
    high_ledger = len(starts) * row_height + 0.55 if view.tokens else 0.4
    sheet = _Sheet(0.25 * len(head) + 0.3 + high_pictures + high_ledger + 0.185 * len(foot) + 0.3)
    sheet.write(head, 0.25, size=12.5, colour=INK)
    sheet.skip(0.12)
    _pictures(sheet, view, lines)
    _ledgers(sheet, view, starts, row_height)
    sheet.write(foot, 0.185, size=8.6, colour=SOFT_INK)
    return sheet.figure


def render(view: AnswerView) -> Image.Image:
    """The overview as pixels, RGB."""
    buffer = io.BytesIO()
    overview(view).savefig(
        buffer, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white", pil_kwargs={"compress_level": 1}
    )
    return Image.open(buffer).convert("RGB")


def png(view: AnswerView) -> bytes:
    """The overview as a compact PNG without metadata."""
    return compact(render(view))


def compact(picture: Image.Image) -> bytes:
    """A PNG without metadata: exact where that is small, otherwise dithered to the 256 colours that cover most of its range."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=7)
    if buffer.tell() > EXACT_PNG:
        palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # median cut would lose the end of the scale
        buffer = io.BytesIO()
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@cache
def font_family() -> tuple[str, ...]:
    """The installed fonts to draw text with, in order: a Latin one, then one that knows Chinese if there is one."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *[name for name in CJK_FONTS if name in installed][:1])


def drawable(text: str) -> str:
    """The text with a box for every character that none of the installed fonts has."""
    known = _known_characters()
    return "".join(c if ord(c) in known or c == "\n" else "\N{WHITE VERTICAL RECTANGLE}" for c in text)


class _Sheet:
    """A figure filled from top to bottom, in inches."""

    width = 9.4
    margin = 0.22

    def __init__(self, height: float) -> None:
        self.figure = _figure(self.width, height)
        self.height = height
        self.top = 0.2

    def skip(self, inches: float) -> None:
        self.top += inches

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is at (left, top), counted from the sheet's upper left corner."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, text: str, **style: Any) -> float:
        """Write one line of text; returns where it ends."""
        place = (left / self.width, 1 - top / self.height)
        artist = self.figure.text(*place, text, parse_math=False, family=list(font_family()), va="top", **style)
        return float(artist.get_window_extent().x1 / self.figure.dpi)

    def write(self, lines: Sequence[str], line_height: float, *, size: float, colour: str) -> None:
        for line in lines:
            self.text(self.margin, self.top, line, fontsize=size, color=colour)
            self.skip(line_height)


def _pictures(sheet: _Sheet, view: AnswerView, lines: Sequence[Sequence[tuple[int, float, float]]]) -> None:
    top_value, shares = peak(view.total), view.total_ledger
    for line in lines:
        left = sheet.margin
        for k, width, height in line:
            style = {"facecolor": _picture_colour(k), "edgecolor": "none", "boxstyle": "round,pad=0.25"}
            sheet.text(
                left + 0.05,
                sheet.top,
                str(k + 1),
                fontsize=9,
                fontweight="bold",
                color=_ink_on(_picture_colour(k)),
                bbox=style,
            )
            sheet.text(left + 0.28, sheet.top, percent(shares[k]), fontsize=10, color=INK)
            heatmap_overlay(
                view.images[k],
                view.total[k],
                sheet.axes(left, sheet.top + 0.24, width, height),
                vmax=top_value,
                signed=view.signed,
            )
            left += max(width, SLOT_RATIOS[0] * height) + GAP
        sheet.skip(max(high for _, _, high in line) + 0.42)
    if not lines:
        sheet.write(["No pictures were part of this question."], 0.3, size=10, colour=SOFT_INK)
        return
    left = (
        sheet.text(sheet.margin, sheet.top, f"{-top_value:.3g}" if view.signed else "0", fontsize=8.6, color=SOFT_INK)
        + 0.08
    )
    bar = sheet.axes(left, sheet.top + 0.02, 1.5, 0.11)
    bar.imshow(np.full((1, 1, 3), 1 / 3), aspect="auto", extent=(0, 1, 0, 1))
    bar.imshow(
        cell_colours(np.linspace(-1 if view.signed else 0, 1, 128)[None], 1.0, view.signed),
        aspect="auto",
        extent=(0, 1, 0, 1),
    )
    bar.set_axis_off()
    text = f"{top_value:.3g} per cell, all answer tokens together, one scale for all pictures"
    sheet.text(left + 1.58, sheet.top, text, fontsize=8.6, color=SOFT_INK)
    sheet.skip(0.45)


def _ledgers(sheet: _Sheet, view: AnswerView, starts: range, row_height: float) -> None:
    if not view.tokens:
        sheet.write(["The answer is empty: the model produced no tokens."], 0.4, size=10, colour=SOFT_INK)
        return
    per_row = min(len(view.tokens), ROW_TOKENS)
    full = sheet.width - 2 * sheet.margin - 0.45
    width = full * min(1.0, max(per_row, 5) / 14)  # a short answer has bars, not walls
    for start in starts:
        stop = min(start + ROW_TOKENS, len(view.tokens))
        ledger(view, sheet.axes(sheet.margin + 0.45, sheet.top, width, 1.05), start=start, stop=stop, places=per_row)
        sheet.skip(row_height)
    left = sheet.margin
    for k, column in enumerate(view.columns):
        if left > sheet.width - 1.25:
            left, sheet.top = sheet.margin, sheet.top + 0.18
        sheet.text(left, sheet.top, "\N{BLACK SQUARE}", fontsize=10, color=_column_colour(view, k))
        text = f"{label(column)} {percent(view.total_ledger[k])}"
        left = sheet.text(left + 0.16, sheet.top, text, fontsize=8.6, color=SOFT_INK) + 0.22
    sheet.skip(0.32)


def _flow(view: AnswerView) -> list[list[tuple[int, float, float]]]:
    """Pictures in lines of equal height: (index, width, height) in inches; a very wide picture becomes lower."""
    n = len(view.images)
    slots = [min(max(image.width / image.height, SLOT_RATIOS[0]), SLOT_RATIOS[1]) for image in view.images]
    room = _Sheet.width - 2 * _Sheet.margin
    line_count = next((c for c in range(1, n) if (room * c - GAP * (n - c)) / sum(slots) >= 1.45), max(n, 1))
    high = min((room * line_count - GAP * (n - line_count)) / max(sum(slots), 1e-9), 2.8 if n == 1 else 2.09)
    lines: list[list[tuple[int, float, float]]] = []
    left = np.inf
    for k, (image, slot) in enumerate(zip(view.images, slots, strict=True)):
        if left + high * slot > room + 1e-6:
            lines.append([])
            left = 0.0
        ratio = image.width / image.height
        width = high * min(ratio, slot)
        lines[-1].append((k, width, width / ratio))
        left += high * slot + GAP
    return lines


def _bars(across: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Corners of one upright bar per place. Each (4, 2)."""
    x = np.stack([across - 0.43, across + 0.43, across + 0.43, across - 0.43], axis=1)
    y = np.stack([low, low, high, high], axis=1)
    return list(np.stack([x, y], axis=2))  # (bars, 4, 2)


def _slanted(labels: Sequence[str], places: int) -> bool:
    """Whether the labels of so many tokens would touch if written level."""
    return _longest(labels) * places > 110


def _longest(labels: Sequence[str]) -> int:
    return max((sum(map(_columns, text)) for text in labels), default=0)


def _footer(view: AnswerView) -> list[str]:
    lines = [f"Drawn: {view.method}", view.honesty, *view.all_notes]
    if len(view.tokens) > ROW_TOKENS * MAX_ROWS:
        lines.append(f"The bars show the first {ROW_TOKENS * MAX_ROWS} of {len(view.tokens)} tokens.")
    if any(_token_label(token, k) == f"#{k + 1}" for k, token in enumerate(view.tokens)):
        lines.append("Tokens in a script without an installed font stand as their numbers (#1, #2, ...).")
    return [line for line in lines if line]


def _prompt_text(view: AnswerView) -> str:
    parts = [f"[{part + 1}] " if isinstance(part, int) else part for part in view.prompt_parts]
    return "".join(parts) or view.title


def _token_label(token: str, index: int) -> str:
    """A token as a tick label: line breaks visible, long ones cut, its number where no font has its characters."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "⏎")
    shown = shown.strip() or "␣" * bool(token) or "∅"
    if drawable(shown) != shown:
        return f"#{index + 1}"
    return shown if len(shown) <= 14 else shown[:13] + "…"


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """Lines of at most ``width`` columns (a Chinese character takes two), cut with an ellipsis after ``most`` lines."""
    lines, line, used = [], "", 0
    for word in _words(text):
        size = sum(_columns(c) for c in word)
        if word == "\n" or (used + size > width and line.strip()):
            lines.append(line.rstrip())
            line, used = "", 0
        if word != "\n" and (line or not word.isspace()):
            line, used = line + word, used + size
    lines.append(line.rstrip())
    lines = [line for line in lines if line]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _words(text: str) -> Iterator[str]:
    """Words and single spaces, wide characters one by one; a word too long for a line in pieces."""
    for piece in re.findall(r"\n|[^\S\n]+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]{1,60}", text):
        yield " " if piece.isspace() and piece != "\n" else piece


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    paths = (font_manager.findfont(name) for name in font_family())
    return frozenset(code for path in paths for code in FT2Font(path).get_charmap())


def _picture_colour(picture: int) -> str:
    return PICTURE_COLOURS[picture % len(PICTURE_COLOURS)]


def _column_colour(view: AnswerView, column: int) -> str:
    rest = column - len(view.images)
    return _picture_colour(column) if rest < 0 else REST_COLOURS[min(rest, len(REST_COLOURS) - 1)]


def _ink_on(colour: str) -> str:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return "black" if float(np.dot(linear, (0.2126, 0.7152, 0.0722))) > 0.18 else "white"


def _dimmed(image: Image.Image) -> NDArray[np.float64]:
    """The picture nearly grey and darker, so that painted cells stand out on any picture. Values 0 to 1."""
    small = shrink(image, 384)
    colour, grey = np.asarray(small) / 255, np.asarray(small.convert("L"))[..., None] / 255
    return np.asarray(0.65 * (0.35 * colour + 0.65 * grey))


def _axes(size: tuple[float, float], box: tuple[float, float, float, float]) -> Axes:
    return _figure(*size).add_axes(box)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("figures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure
