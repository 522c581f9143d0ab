"""Words tinted by a number each, wrapped as a text: what a token read of the prompt and of the answer. Knows words, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import OptionError
from .checks import checked
from .lettering import drawable, inches, lettering, write_title
from .levels import peak
from .payload import percent
from .style import INK, SOFT_INK, ink_on, new_axes, picture_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.0  # inches of a figure of its own
MARGIN = 0.15  # inches around it
POINTS, LEAST = 10.5, 4.0  # of the letters, and of the smallest
SMALL = 0.72  # size of a number, as a share of the letters'
LINE = 2.2  # height of a line, in letters
PAD = 0.02  # inches between a word and the edge of its ground
STRONGEST = (0.95, 0.56, 0.30)  # ground of the word with the largest number; black on it has 8 to 1
MOST = 400  # words that are drawn one by one
NUMBERED = 6  # words, the largest, that have their number under them


@dataclass(frozen=True)
class _Piece:
    """A word, a picture or what was left out, with its number."""

    text: str
    number: float
    picture: int | None = None
    begins: bool = False
    is_marked: bool = False
    is_gap: bool = False

    @property
    def shown(self) -> str:
        return self.text.strip()

    def width(self, points: float) -> float:
        """Inches of what is drawn."""
        if self.picture is None:
            return inches(self.text.lstrip(" ").replace("\n", ""), points)
        return inches(self.text, points) + inches(percent(self.number), SMALL * points) + 8 * PAD


def word_weights(
    words: Sequence[str | int],
    weights: ArrayLike,
    ax: Axes | None = None,
    *,
    answer: int | None = None,
    marked: Sequence[int] = (),
    vmax: float | None = None,
    unit: str = "share of attention",
    title: str = "",
) -> Axes:
    """A text whose words are tinted, the stronger, the larger their number; pictures stand in it with theirs.

    Of a text of more than 400 words those with the smallest numbers are left out, and it is said how many, and how much
    they have together.

    Parameters
    ----------
    words
        In order, with their spaces; a picture's number, from 0, where one stands.
    weights : (words,) array
        From 0 up; NaN words are struck out as having no number.
    ax
        Where to draw; None makes a figure of its own, as high as the text is long.
    answer
        Which of the words begins the answer; it stands in a paragraph of its own.
    marked
        Words that are framed: those that are asked about.
    vmax
        The top of the colour scale. Give the same to texts that are compared; None takes the largest number of a word.
    unit
        What a number is.
    title
        Written above.

    Raises
    ------
    OptionError
        If there is not one number per word.

    Examples
    --------
    >>> ax = word_weights([0, "What", " is", " it?", "A", " cat"], [0.5, 0.1, 0.0, 0.2, 0.1, 0.0], answer=4, marked=[5])
    >>> [text.get_text() for text in ax.texts][:3]
    ['1', '50.0 %', 'What']
    """
    numbers = checked("weights", weights, ("words",))
    if len(words) != len(numbers):
        raise OptionError(f"weights has {len(numbers)} numbers for {len(words)} words; give one for each")
    pieces = _pieces(words, numbers, answer, frozenset(marked))
    tinted = [piece.number for piece in pieces if piece.picture is None and not piece.is_gap]
    top = (peak([np.array(tinted)]) if vmax is None else vmax) or 1.0
    if ax is None:
        lines, points = _lines(pieces, WIDTH - 2 * MARGIN, POINTS), POINTS
        ax = _page(LINE * points / 72 * (len(lines) + 1), title)
    else:
        lines, points = _fitted(pieces, ax)
        write_title(ax, title)
    width, height = _size(ax)
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    for row, line in enumerate(lines):
        for x, piece in line:
            _write(ax, x, (row + 0.7) * LINE * points / 72, piece, points, top)
    _number(ax, lines, points)
    _scale(ax, (len(lines) + 0.7) * LINE * points / 72, points, top, unit)
    return ax


def _pieces(
    words: Sequence[str | int], numbers: NDArray[np.float64], answer: int | None, marked: frozenset[int]
) -> list[_Piece]:
    """What is drawn: the words with the largest numbers, those that are marked, and in the place of others what they are together."""
    at = [k for k, word in enumerate(words) if isinstance(word, str)]
    kept = set(sorted(at, key=lambda k: (k in marked, numbers[k]), reverse=True)[:MOST])
    found: list[_Piece] = []
    left_out: list[int] = []

    def close() -> None:
        if left_out:
            share = percent(float(np.nansum(numbers[left_out])))
            found.append(_Piece(f" […{len(left_out)} words, {share}…]", 0.0, is_gap=True))
            left_out.clear()

    for k, word in enumerate(words):
        if k == answer:
            close()
        if isinstance(word, str) and k not in kept:
            left_out.append(k)
            continue
        close()
        number, begins = float(numbers[k]), k == answer
        if isinstance(word, str):
            found.append(_Piece(drawable(word), number, begins=begins, is_marked=k in marked))
        else:
            found.append(_Piece(f"{word + 1}", number, word, begins=begins))
    close()
    return found


def _lines(pieces: Sequence[_Piece], room: float, points: float) -> list[list[tuple[float, _Piece]]]:
    """Pieces by line, each with the place where it begins, in inches."""
    lines: list[list[tuple[float, _Piece]]] = [[]]
    x = 0.0
    for piece in pieces:
        space = inches(" ", points) * (len(piece.text) - len(piece.text.lstrip(" ")))
        wide = piece.width(points)
        if piece.begins or "\n" in piece.text or (x + space + wide > room and lines[-1]):
            lines.append([])
            x, space = 0.0, 0.0
        if piece.shown:
            lines[-1].append((x + space, piece))
        x += space + wide
    return [line for line in lines if line] or [[]]


def _fitted(pieces: Sequence[_Piece], ax: Axes) -> tuple[list[list[tuple[float, _Piece]]], float]:
    """Lines for axes that are there, their letters as large as the text leaves them, and how large that is."""
    width, height = _size(ax)
    for points in np.arange(POINTS, LEAST, -0.5):
        lines = _lines(pieces, width, float(points))
        if (len(lines) + 1) * LINE * points / 72 <= height:
            return lines, float(points)
    return _lines(pieces, width, LEAST), LEAST


def _size(ax: Axes) -> tuple[float, float]:
    """Width and height of axes in inches."""
    box = ax.get_window_extent()
    return box.width / ax.figure.dpi, box.height / ax.figure.dpi


def _page(height: float, title: str) -> Axes:
    """Axes as high as the text, in a figure that has room for the title."""
    ax = new_axes(WIDTH, height, (MARGIN / WIDTH, 0.0, 1 - 2 * MARGIN / WIDTH, 0.5))
    write_title(ax, title)
    head = MARGIN + 0.19 * len(ax.get_title(loc="left").splitlines())
    figure = ax.get_figure(root=True)
    assert figure is not None  # they were just made
    figure.set_size_inches(WIDTH, height + head)
    ax.set_position((MARGIN / WIDTH, 0.0, 1 - 2 * MARGIN / WIDTH, height / (height + head)))
    return ax


def _write(ax: Axes, x: float, y: float, piece: _Piece, points: float, top: float) -> None:
    """One piece, its foot at (x, y), on its ground."""
    from matplotlib.patches import Rectangle

    size = points / 72
    wide = piece.width(points)
    share = 0.0 if np.isnan(piece.number) else min(max(piece.number / top, 0.0), 1.0)
    if piece.picture is not None:
        colour = picture_colour(piece.picture)
        badge = inches(piece.text, points) + 4 * PAD
        ax.add_patch(Rectangle((x, y - 1.05 * size), badge, 1.4 * size, facecolor=colour, linewidth=0))
        ax.text(x + 2 * PAD, y, piece.text, fontsize=points, color=ink_on(colour), **lettering())
        ax.text(x + badge + PAD, y, percent(piece.number), fontsize=SMALL * points, color=SOFT_INK, **lettering())
        return
    ground = Rectangle((x - PAD, y - 1.05 * size), wide + PAD, 1.4 * size, facecolor=tint(share), linewidth=0)
    if piece.is_marked:
        ground.set(edgecolor=INK, linewidth=1.2)
    ax.add_patch(ground)
    ax.text(x, y, piece.shown, fontsize=points, color=SOFT_INK if piece.is_gap else INK, **lettering())


def _number(ax: Axes, lines: Sequence[Sequence[tuple[float, _Piece]]], points: float) -> None:
    """The largest numbers under their words, where they do not run into a larger one's."""
    words = [
        (piece.number, row, x)
        for row, line in enumerate(lines)
        for x, piece in line
        if piece.picture is None and piece.number > 0
    ]
    taken: list[tuple[int, float, float]] = []
    for number, row, x in sorted(words, reverse=True)[:NUMBERED]:
        text = percent(number)
        end = x + inches(text + " ", SMALL * points)
        if any(row == other and x < stop and start < end for other, start, stop in taken):
            continue
        taken.append((row, x, end))
        y = ((row + 0.7) * LINE + 0.98) * points / 72
        ax.text(x, y, text, fontsize=SMALL * points, color=SOFT_INK, **lettering())


def tint(share: float) -> tuple[float, float, float]:
    """The ground of a word: white for nothing, `STRONGEST` for the top of the scale."""
    red, green, blue = (1 - share * (1 - part) for part in STRONGEST)
    return red, green, blue


def _scale(ax: Axes, y: float, points: float, top: float, unit: str) -> None:
    """Under the text, what the grounds stand for."""
    size = points / 72
    colours = np.array([[tint(share) for share in np.linspace(0, 1, 64)]])
    ax.text(0, y, "0", fontsize=SMALL * points, color=SOFT_INK, **lettering())
    x = inches("0 ", SMALL * points) + PAD
    ax.imshow(colours, extent=(x, x + 1.2, y, y - 0.8 * size), aspect="auto")
    ax.text(
        x + 1.2 + 3 * PAD, y, f"{percent(top)} {drawable(unit)}", fontsize=SMALL * points, color=SOFT_INK, **lettering()
    )
