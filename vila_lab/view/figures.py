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
GAP = 0.18  # inches between pictures
ROW_TOKENS = 32  # tokens in one row of the overview's ledger
MAX_ROWS = 4  # rows of the overview's ledger; what is left out is said
OVERLAY = 0.72  # opacity of the cells over the grey picture


def ledger(view: AnswerView, ax: Axes | None = None, *, start: int = 0, stop: int | None = None) -> Axes:
    """Stacked bars, one per answer token: the share of each picture, the prompt, the answer and the sink.

    Parameters
    ----------
    view
        The answer to draw.
    ax
        Where to draw; None makes a figure of its own (``ax.figure``).
    start, stop
        The tokens to draw, as in a slice.
    """
    ax = ax or _axes(width=9.0, height=2.6)
    tokens = view.tokens[start:stop]
    rows = view.ledger[start:stop]
    places = np.arange(len(tokens))
    base = np.zeros(len(tokens))
    for k, column in enumerate(view.columns):
        shares = np.clip(np.nan_to_num(rows[:, k]), 0, None)
        ax.bar(places, shares, bottom=base, width=0.86, color=_column_colour(view, k), label=label(column))
        base += shares
    lost = np.isnan(rows).any(axis=1).astype(float)
    if lost.any():
        ax.bar(places, lost, width=0.86, facecolor="none", edgecolor="#999999", hatch="////", linewidth=0, label="not captured")
    labels = [_token_label(token, start + k) for k, token in enumerate(tokens)]
    slanted = len(tokens) > 12 or max((len(text) for text in labels), default=0) > 7
    ax.set_xticks(places, labels, parse_math=False, family=list(font_family()), fontsize=9)
    ax.tick_params(axis="x", rotation=55 if slanted else 0, length=0)
    for text in ax.get_xticklabels():
        text.set(horizontalalignment="right" if slanted else "center", rotation_mode="anchor" if slanted else "default")
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, max(len(tokens), 1) - 0.4)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8, color="#555555")
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    return ax


def heatmap_overlay(
    image: Image.Image,
    heat: NDArray[np.float64],
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    signed: bool | None = None,
    opacity: float = OVERLAY,
) -> Axes:
    """A heatmap over its picture in grey, in the picture's own shape, with crisp cells.

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
    ax = ax or _axes(width=4.0, height=4.0 * image.height / image.width)
    signed = bool(np.nanmin(heat, initial=0.0) < 0) if signed is None else signed
    top = (peak([heat]) if vmax is None else vmax) or 1.0
    box = (0.0, float(image.width), float(image.height), 0.0)
    ax.imshow(np.asarray(shrink(image, 384).convert("L")), cmap="gray", vmin=0, vmax=255, extent=box)
    ax.imshow(
        np.ma.masked_invalid(heat), cmap=_colour_map(signed), vmin=-top if signed else 0, vmax=top,
        extent=box, alpha=opacity, interpolation="nearest",
    )  # fmt: skip
    high, wide = image.height / heat.shape[0], image.width / heat.shape[1]
    for row, col in np.argwhere(np.isnan(heat)):
        ax.add_patch(Rectangle((col * wide, row * high), wide, high, fill=False, hatch="////", edgecolor="white", linewidth=0))
    ax.set_axis_off()
    return ax


def overview(view: AnswerView) -> Figure:
    """One figure of an answer: question, pictures with the heatmap of all tokens on one scale, the ledger, the method."""
    head = _wrapped(drawable(_prompt_text(view)), 98, most=3)
    foot = [line for text in _footer(view) for line in _wrapped(drawable(text), 128, most=4)]
    lines = _flow(view)
    starts = range(0, min(len(view.tokens), ROW_TOKENS * MAX_ROWS), ROW_TOKENS)
    row_height = 1.45 + 0.075 * min(max((len(_token_label(t, k)) for k, t in enumerate(view.tokens)), default=0), 14)
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
    overview(view).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white", pil_kwargs={"compress_level": 1})
    return Image.open(buffer).convert("RGB")


def png(view: AnswerView) -> bytes:
    """The overview as a compact PNG without metadata."""
    return compact(render(view))


def compact(picture: Image.Image) -> bytes:
    """A PNG of at most 128 colours: a third of the bytes, and the difference is hard to see."""
    buffer = io.BytesIO()
    picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
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

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        self.figure.text(
            left / self.width, 1 - top / self.height, text, parse_math=False, family=list(font_family()), va="top", **style
        )  # fmt: skip

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
            sheet.text(left + 0.05, sheet.top, str(k + 1), fontsize=9, fontweight="bold", color=_ink_on(_picture_colour(k)), bbox=style)
            sheet.text(left + 0.28, sheet.top, percent(shares[k]), fontsize=10, color=INK)
            heatmap_overlay(view.images[k], view.total[k], sheet.axes(left, sheet.top + 0.24, width, height), vmax=top_value, signed=view.signed)
            left += width + GAP
        sheet.skip(max(high for _, _, high in line) + 0.42)
    if not lines:
        sheet.write(["No pictures were part of this question."], 0.3, size=10, colour=SOFT_INK)
        return
    low = f"{-top_value:.3g}" if view.signed else "0"
    bar = sheet.axes(sheet.margin + 0.06 + 0.09 * len(low), sheet.top + 0.03, 1.5, 0.11)
    bar.imshow(np.linspace(0, 1, 128)[None], aspect="auto", cmap=_colour_map(view.signed))
    bar.set_axis_off()
    sheet.text(sheet.margin, sheet.top, low, fontsize=8.6, color=SOFT_INK)
    text = f"{top_value:.3g} per cell, all answer tokens together, one scale for all pictures"
    sheet.text(sheet.margin + 0.16 + 0.09 * len(low) + 1.5, sheet.top, text, fontsize=8.6, color=SOFT_INK)
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
        ax = ledger(view, sheet.axes(sheet.margin + 0.45, sheet.top, width, 1.05), start=start, stop=stop)
        ax.set_xlim(-0.6, per_row - 0.4)
        sheet.skip(row_height)
    handles = [(_column_colour(view, k), f"{label(c)} {percent(view.total_ledger[k])}") for k, c in enumerate(view.columns)]
    left = sheet.margin
    for colour, text in handles:
        if left > sheet.width - 1.5:
            left, sheet.top = sheet.margin, sheet.top + 0.18
        sheet.text(left, sheet.top, "\N{BLACK SQUARE}", fontsize=10, color=colour)
        sheet.text(left + 0.16, sheet.top, text, fontsize=8.6, color=SOFT_INK)
        left += 0.36 + 0.069 * len(text)
    sheet.skip(0.32)


def _flow(view: AnswerView) -> list[list[tuple[int, float, float]]]:
    """Pictures in lines of equal height: (index, width, height) in inches; a very wide picture becomes lower."""
    high = 2.8 if len(view.images) == 1 else 2.09
    lines: list[list[tuple[int, float, float]]] = []
    left = np.inf
    for k, image in enumerate(view.images):
        ratio = image.width / image.height
        width = min(high * ratio, 2.2 * high)
        slot = max(width, 0.9)  # room for the number above a narrow picture
        if left + slot > _Sheet.width - _Sheet.margin + 1e-6:
            lines.append([])
            left = _Sheet.margin
        lines[-1].append((k, width, width / ratio))
        left += slot + GAP
    return lines


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


def _colour_map(signed: bool) -> str:
    return "RdBu_r" if signed else "viridis"


def _axes(width: float, height: float) -> Axes:
    return _figure(width, height).add_axes((0.08, 0.25, 0.9, 0.7)) if width > height * 2 else _figure(width, height).add_axes((0, 0, 1, 1))


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("figures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure
