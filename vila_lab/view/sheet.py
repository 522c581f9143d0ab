"""The overview: question, pictures, ledger and method on one sheet, as a figure and as PNG. Knows the view, no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .bars import ledger
from .lettering import drawable, inches, lettering, longest, slanted, token_label, wrapped
from .levels import peak
from .overlay import GREY, cell_colours, paint
from .payload import AnswerView, label, percent
from .pictures import Twofold, darkened
from .style import INK, SOFT_INK, column_look, ink_on, new_figure, picture_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
EXACT_PNG = 150_000  # bytes up to which a PNG keeps all its colours
PALETTE_PIXELS = 20_000  # of which a palette is chosen: all of them give none that is nearer, in fifty times the time
MANY_COLOURS = 4_000  # among these pixels: with so many, no PNG of a sheet keeps within `EXACT_PNG`
GAP = 0.18  # inches between pictures
SLOT_RATIOS = 0.36, 2.2  # a picture narrower or wider than this does not fill its place in a line
ROW_TOKENS = 32  # tokens in one row of the overview's ledger
MAX_ROWS = 4  # rows of the overview's ledger; what is left out is said


def overview(view: AnswerView) -> Figure:
    """One figure of an answer: question, pictures with the heatmap of all tokens on one scale, the ledger, the method."""
    head = wrapped(drawable(_prompt_text(view)), 98, most=3)
    foot = [line for text in _footer(view) for line in wrapped(drawable(text), 128, most=4)]
    lines = _flow(view)
    starts = range(0, min(len(view.tokens), ROW_TOKENS * MAX_ROWS), ROW_TOKENS)
    labels = [token_label(token, k) for k, token in enumerate(view.tokens)]
    lean = slanted(labels, min(len(labels), ROW_TOKENS), _ledger_width(view))
    row_height = 1.45 + (0.065 * longest(labels) if lean else 0)
    high_pictures = sum(max(high for _, _, high in line) + 0.42 for line in lines) + (0.45 if lines else 0.3)
    legend_lines = -(-len(view.columns) // 7)
    high_ledger = len(starts) * row_height + 0.24 + 0.18 * legend_lines if view.tokens else 0.4
    sheet = _Sheet(0.25 * len(head) + 0.3 + high_pictures + high_ledger + 0.185 * len(foot) + 0.18)
    sheet.write(head, 0.25, size=12.5, colour=INK)
    sheet.skip(0.12)
    _pictures(sheet, view, lines)
    _ledgers(sheet, view, starts, row_height)
    sheet.write(foot, 0.185, size=8.6, colour=SOFT_INK)
    return sheet.figure


def render(view: AnswerView) -> Twofold:
    """The overview as pixels, RGB."""
    figure = overview(view)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods are not annotated
    canvas.draw()
    light = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return Twofold(light, darkened(light, _pictures_in(figure)))


def _pictures_in(figure: Figure) -> list[tuple[int, int, int, int]]:
    """Where pictures, scales and the pictures' numbers stand, in pixels: left, top, right, bottom."""
    badges = [patch for patch in (text.get_bbox_patch() for text in figure.texts) if patch]
    boxes = [ax.get_window_extent() for ax in figure.axes if ax.images]
    boxes += [patch.get_window_extent().padded(-2) for patch in badges]  # not their round corners
    high = figure.bbox.height
    return [(round(box.x0), round(high - box.y1), round(box.x1), round(high - box.y0)) for box in boxes]


def png(view: AnswerView) -> bytes:
    """The overview as a compact PNG without metadata."""
    return compact(render(view).light)


def compact(picture: Image.Image) -> bytes:
    """A PNG without metadata: exact where that is small, otherwise dithered to the 256 colours that cover most of its range."""
    some = _some(picture)
    exact = _png(picture) if some.getcolors(MANY_COLOURS) else b""
    if 0 < len(exact) <= EXACT_PNG:
        return exact
    palette = some.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # others would lose the end of the scale
    return _png(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))


def _some(picture: Image.Image) -> Image.Image:
    """Every so many pixels of a picture, about `PALETTE_PIXELS` in all."""
    step = max(1, round((picture.width * picture.height / PALETTE_PIXELS) ** 0.5))
    return picture.resize((-(-picture.width // step), -(-picture.height // step)), Image.Resampling.NEAREST)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


class _Sheet:
    """A figure filled from top to bottom, in inches."""

    width = 9.4
    margin = 0.22

    def __init__(self, height: float) -> None:
        self.figure = new_figure(self.width, height)
        self.figure.set_dpi(DPI)  # from the beginning, so that no text is laid out twice
        self.height = height
        self.top = 0.2

    def skip(self, inches: float) -> None:
        self.top += inches

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is at (left, top), counted from the sheet's upper left corner."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def key(self, left: float, look: dict[str, Any]) -> None:
        """A small box, as parts of a bar look, in front of a line of text."""
        from matplotlib.patches import Rectangle

        corner = (left / self.width, 1 - (self.top + 0.125) / self.height)
        box = Rectangle(corner, 0.15 / self.width, 0.12 / self.height, transform=self.figure.transFigure, **look)
        self.figure.add_artist(box)

    def text(self, left: float, top: float, text: str, *, fontsize: float, **style: Any) -> float:
        """Write one line of text; returns where it ends."""
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, text, va="top", fontsize=fontsize, **lettering(), **style)
        return left + inches(text, fontsize)

    def write(self, lines: Sequence[str], line_height: float, *, size: float, colour: str) -> None:
        for line in lines:
            self.text(self.margin, self.top, line, fontsize=size, color=colour)
            self.skip(line_height)


def _pictures(sheet: _Sheet, view: AnswerView, lines: Sequence[Sequence[tuple[int, float, float]]]) -> None:
    top_value, shares = view.top or peak(view.total), view.total_ledger
    for line in lines:
        left = sheet.margin
        for k, width, height in line:
            style = {"facecolor": picture_colour(k), "edgecolor": "none", "boxstyle": "round,pad=0.25"}
            sheet.text(
                left + 0.05,
                sheet.top,
                str(k + 1),
                fontsize=9,
                fontweight="bold",
                color=ink_on(picture_colour(k)),
                bbox=style,
            )
            sheet.text(left + 0.28, sheet.top, percent(shares[k]), fontsize=10, color=INK)
            axes = sheet.axes(left, sheet.top + 0.24, width, height)
            paint(axes, view.shown[k], view.images[k].size, view.total[k], top_value or 1.0, view.signed)
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
    bar.imshow(np.full((1, 1, 3), GREY), aspect="auto", extent=(0, 1, 0, 1))
    bar.imshow(
        cell_colours(np.linspace(-1 if view.signed else 0, 1, 128)[None], 1.0, view.signed),
        aspect="auto",
        extent=(0, 1, 0, 1),
    )
    bar.set_axis_off()
    whose = "answers" if view.top else "pictures"
    text = f"{top_value:.3g} per cell, all answer tokens together, one scale for all {whose}"
    sheet.text(left + 1.58, sheet.top, text, fontsize=8.6, color=SOFT_INK)
    sheet.skip(0.45)


def _ledgers(sheet: _Sheet, view: AnswerView, starts: range, row_height: float) -> None:
    if not view.tokens:
        sheet.write(["The answer is empty: the model produced no tokens."], 0.4, size=10, colour=SOFT_INK)
        return
    per_row = min(len(view.tokens), ROW_TOKENS)
    width = _ledger_width(view)
    for start in starts:
        stop = min(start + ROW_TOKENS, len(view.tokens))
        ledger(view, sheet.axes(sheet.margin + 0.45, sheet.top, width, 1.05), start=start, stop=stop, places=per_row)
        sheet.skip(row_height)
    left = sheet.margin
    for k, column in enumerate(view.columns):
        if left > sheet.width - 1.25:
            left, sheet.top = sheet.margin, sheet.top + 0.18
        sheet.key(left, column_look(view.columns, k))
        text = f"{label(column)} {percent(view.total_ledger[k])}"
        left = sheet.text(left + 0.19, sheet.top, text, fontsize=8.6, color=SOFT_INK) + 0.19
    sheet.skip(0.32)


def _ledger_width(view: AnswerView) -> float:
    """Inches for a row of bars: a short answer has bars, not walls."""
    full = _Sheet.width - 2 * _Sheet.margin - 0.45
    return full * min(1.0, max(min(len(view.tokens), ROW_TOKENS), 5) / 14)


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


def _footer(view: AnswerView) -> list[str]:
    said = [f"This answer {view.verdict}."] if view.verdict else []
    lines = [
        *said,
        view.sureness,
        f"Drawn: {view.method}{f', of {view.model}' if view.model else ''}",
        view.honesty,
        *view.all_notes,
    ]
    if len(view.tokens) > ROW_TOKENS * MAX_ROWS:
        lines.append(f"The bars show the first {ROW_TOKENS * MAX_ROWS} of {len(view.tokens)} tokens.")
    if any(token_label(token, k) == f"#{k + 1}" for k, token in enumerate(view.tokens)):
        lines.append("Tokens in a script without an installed font stand as their numbers (#1, #2, ...).")
    return [line for line in lines if line]


def _prompt_text(view: AnswerView) -> str:
    parts = [f"[{part + 1}] " if isinstance(part, int) else part for part in view.prompt_parts]
    return "".join(parts) or view.title
