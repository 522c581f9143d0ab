"""The overview: question, pictures, ledger and method on one sheet, as pixels and as PNG. Knows the view, no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MissingExtra
from .canvas import DPI, Box, Canvas, length
from .lettering import drawable, longest, slanted, token_label, wrapped
from .levels import peak
from .overlay import painted
from .payload import AnswerView, label, percent
from .pictures import DAY, Twofold
from .style import INK, SOFT_INK, column_look, picture_colour

WIDTH, MARGIN = 9.4, 0.22  # inches
INSET = 0.45  # inches to the left of bars, for their scale
BARS = 1.05  # inches from 0 to 100 %
EXACT_PNG = 150_000  # bytes up to which a PNG keeps all its colours
PALETTE_PIXELS = 2_000  # of which a palette is chosen: more give none that is nearer, in up to fifty times the time
MANY_COLOURS = 400  # among these pixels: with so many, no PNG of a sheet keeps within `EXACT_PNG`
COLOURS, GREYS = 256, 32  # of a palette; the least of them that are greys, which letters are drawn in
NEAR_PAPER = 8  # of 255: Pillow looks colours up in steps of 4, and takes another so near for the paper's
GAP = 0.18  # inches between pictures
SLOT_RATIOS = 0.36, 2.2  # a picture narrower or wider than this does not fill its place in a line
ROW_TOKENS = 32  # tokens in one row of the overview's ledger
MAX_ROWS = 4  # rows of the overview's ledger; what is left out is said

Placed = tuple[int, float, float]  # a picture's index, its width and its height in inches


def render(view: AnswerView, dpi: int = DPI) -> Twofold:
    """The overview: question, pictures with the heatmap of all tokens on one scale, the ledger, the method.

    Parameters
    ----------
    view
        The answer to draw.
    dpi
        Pixels of an inch; the sheet is 9.4 inches wide.

    Raises
    ------
    MissingExtra
        Without matplotlib, which knows the fonts and the colours of figures.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("figures need matplotlib: pip install matplotlib") from error
    head = wrapped(drawable(_prompt_text(view)), 98, most=3)
    foot = [line for text in _footer(view) for line in wrapped(drawable(text), 128, most=4)]
    lines = _flow(view)
    starts = range(0, min(len(view.tokens), ROW_TOKENS * MAX_ROWS), ROW_TOKENS)
    labels = [token_label(token, k) for k, token in enumerate(view.tokens)]
    leans = slanted(labels, min(len(labels), ROW_TOKENS), _ledger_width(view))
    row_height = 1.45 + (0.065 * longest(labels) if leans else 0)
    high_pictures = sum(max(high for _, _, high in line) + 0.42 for line in lines) + (0.45 if lines else 0.3)
    legend_lines = -(-len(view.columns) // 7)
    high_ledger = len(starts) * row_height + 0.24 + 0.18 * legend_lines if view.tokens else 0.4
    sheet = _Sheet(0.25 * len(head) + 0.3 + high_pictures + high_ledger + 0.185 * len(foot) + 0.18, dpi)
    sheet.write(head, 0.25, points=12.5, ink=INK)
    sheet.skip(0.12)
    _pictures(sheet, view, lines)
    _ledgers(sheet, view, labels, starts, row_height, leans)
    sheet.write(foot, 0.185, points=8.6, ink=SOFT_INK)
    return sheet.finish()


def png(view: AnswerView) -> bytes:
    """The overview as a compact PNG without metadata."""
    return compact(render(view).light)


def compact(picture: Image.Image) -> bytes:
    """A PNG without metadata: exact where that is small, otherwise in 256 colours, dithered: bands look like data."""
    some = _some(picture)
    exact = _png(picture) if some.getcolors(MANY_COLOURS) else b""
    if 0 < len(exact) <= EXACT_PNG:
        return exact
    return _png(picture.quantize(palette=_palette(some), dither=Image.Dither.FLOYDSTEINBERG))


def _some(picture: Image.Image) -> Image.Image:
    """Every so many pixels of a picture, about `PALETTE_PIXELS` in all."""
    step = max(1, round((picture.width * picture.height / PALETTE_PIXELS) ** 0.5))
    return picture.resize((-(-picture.width // step), -(-picture.height // step)), Image.Resampling.NEAREST)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def _palette(some: Image.Image) -> Image.Image:
    """The colours that cover most of a range, the paper's as it is, and greys in all the places that are left."""
    chosen = some.quantize(COLOURS - GREYS, method=Image.Quantize.MAXCOVERAGE)  # others would lose the end of the scale
    count = len(chosen.getcolors() or ())
    colours = np.array(chosen.getpalette()).reshape(-1, 3)[:count]
    greys = np.linspace(0, 255, COLOURS - count).round().astype(int)
    colours = np.concatenate([colours, np.repeat(greys[:, None], 3, axis=1)])
    colours[np.abs(colours - DAY).max(1) < NEAR_PAPER] = DAY
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tolist())
    return palette


class _Sheet(Canvas):
    """A canvas filled from top to bottom."""

    def __init__(self, height: float, dpi: int) -> None:
        super().__init__(WIDTH, height, dpi)
        self.top = 0.2

    def skip(self, inches: float) -> None:
        self.top += inches

    def write(self, lines: Sequence[str], line_height: float, *, points: float, ink: str) -> None:
        for line in lines:
            self.text(MARGIN, self.top, line, points=points, ink=ink)
            self.skip(line_height)

    def parts(self, boxes: Sequence[Box], columns: Sequence[str], k: int) -> None:
        """Parts of bars, in the look of their column."""
        look = column_look(columns, k)
        self.boxes(boxes, look["facecolor"], look.get("hatch", ""), look.get("edgecolor", (0.0,))[0])


def _pictures(sheet: _Sheet, view: AnswerView, lines: Sequence[Sequence[Placed]]) -> None:
    top_value, shares = view.top or peak(view.total), view.total_ledger
    for line in lines:
        left = MARGIN
        for k, width, height in line:
            sheet.badge(left + 0.05, sheet.top, str(k + 1), picture_colour(k), points=9)
            sheet.text(left + 0.28, sheet.top, percent(shares[k]), points=10, ink=INK)
            box = (left, sheet.top + 0.24, left + width, sheet.top + 0.24 + height)
            sheet.picture(painted(view.shown[k], view.total[k], top_value or 1.0, view.signed, sheet.size_of(box)), box)
            _hatch_missing(sheet, view.total[k], box)
            left += max(width, SLOT_RATIOS[0] * height) + GAP
        sheet.skip(max(high for _, _, high in line) + 0.42)
    if lines:
        _scale(sheet, view, top_value)
    else:
        sheet.write(["No pictures were part of this question."], 0.3, points=10, ink=SOFT_INK)


def _hatch_missing(sheet: _Sheet, heat: NDArray[np.float64], box: Box) -> None:
    """Mark the cells that have no number."""
    left, top, right, bottom = box
    wide, high = (right - left) / heat.shape[1], (bottom - top) / heat.shape[0]
    cells = [(left + col * wide, top + row * high) for row, col in np.argwhere(np.isnan(heat))]
    sheet.boxes([(x, y, x + wide, y + high) for x, y in cells], None, "////", 1.0)


def _scale(sheet: _Sheet, view: AnswerView, top_value: float) -> None:
    """What the strongest colour over the pictures stands for."""
    least = f"{-top_value:.3g}" if view.signed else "0"
    left = sheet.text(MARGIN, sheet.top, least, points=8.6, ink=SOFT_INK) + 0.08
    steps = np.linspace(-1 if view.signed else 0, 1, 128)[None]
    grey = Image.new("RGB", (128, 1), (128, 128, 128))  # a picture as it is on average
    bar = (left, sheet.top + 0.02, left + 1.5, sheet.top + 0.13)
    sheet.picture(painted(grey, steps, 1.0, view.signed, grey.size), bar)
    whose = "answers" if view.top else "pictures"
    text = f"{top_value:.3g} per cell, all answer tokens together, one scale for all {whose}"
    sheet.text(left + 1.58, sheet.top, text, points=8.6, ink=SOFT_INK)
    sheet.skip(0.45)


def _ledgers(
    sheet: _Sheet, view: AnswerView, labels: Sequence[str], starts: range, row_height: float, leans: bool
) -> None:
    if not view.tokens:
        sheet.write(["The answer is empty: the model produced no tokens."], 0.4, points=10, ink=SOFT_INK)
        return
    for start in starts:
        _bars(sheet, view, labels, start, leans)
        sheet.skip(row_height)
    left = MARGIN
    for k, column in enumerate(view.columns):
        if left > WIDTH - 1.25:
            left, sheet.top = MARGIN, sheet.top + 0.18
        sheet.parts([(left, sheet.top + 0.005, left + 0.15, sheet.top + 0.125)], view.columns, k)
        text = f"{label(column)} {percent(view.total_ledger[k])}"
        left = sheet.text(left + 0.19, sheet.top, text, points=8.6, ink=SOFT_INK) + 0.19
    sheet.skip(0.32)


def _bars(sheet: _Sheet, view: AnswerView, labels: Sequence[str], start: int, leans: bool) -> None:
    """A row of stacked bars, as `ledger` draws them, the tokens under them."""
    rows = view.ledger[start : start + ROW_TOKENS]
    floor, left = sheet.top + BARS, MARGIN + INSET
    step = _ledger_width(view) / (min(len(view.tokens), ROW_TOKENS) + 0.2)
    middles = left + step * (np.arange(len(rows)) + 0.6)

    known = np.asarray(~np.isnan(rows).any(1), bool)
    ends = np.pad(np.cumsum(np.clip(np.nan_to_num(rows), 0, None), 1), ((0, 0), (1, 0)))  # (tokens, columns + 1)

    def boxes(which: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64]) -> list[Box]:
        edges = zip(middles[which], low[which], high[which], strict=True)
        return [(x - 0.43 * step, floor - BARS * y1, x + 0.43 * step, floor - BARS * y0) for x, y0, y1 in edges]

    for k in range(len(view.columns)):
        sheet.parts(boxes(known, ends[:, k], ends[:, k + 1]), view.columns, k)
    sheet.boxes(boxes(~known, np.zeros(len(rows)), np.ones(len(rows))), None, "////", 0.6)
    for share, text in ((0, "0 %"), (0.5, "50 %"), (1, "100 %")):
        place = left - 0.05 - length(text, 8), floor - BARS * share - 0.055
        sheet.text(*place, text, points=8, ink=SOFT_INK)
    for x, text in zip(middles, labels[start : start + ROW_TOKENS], strict=True):
        sheet.label(float(x), floor + 0.05, drawable(text), points=9, ink=INK, leans=leans)


def _ledger_width(view: AnswerView) -> float:
    """Inches for a row of bars: a short answer has bars, not walls."""
    full = WIDTH - 2 * MARGIN - INSET
    return full * min(1.0, max(min(len(view.tokens), ROW_TOKENS), 5) / 14)


def _flow(view: AnswerView) -> list[list[Placed]]:
    """Pictures in lines of equal height: (index, width, height) in inches; a very wide picture becomes lower."""
    n = len(view.images)
    slots = [min(max(image.width / image.height, SLOT_RATIOS[0]), SLOT_RATIOS[1]) for image in view.images]
    room = WIDTH - 2 * MARGIN
    line_count = next((c for c in range(1, n) if (room * c - GAP * (n - c)) / sum(slots) >= 1.45), max(n, 1))
    high = min((room * line_count - GAP * (n - line_count)) / max(sum(slots), 1e-9), 2.8 if n == 1 else 2.09)
    lines: list[list[Placed]] = []
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
