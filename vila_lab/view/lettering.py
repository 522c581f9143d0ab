"""Text in figures: fonts for every script, labels that fit, lines that wrap. Knows characters, nothing of what they label."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from PIL import ImageFont

from .style import SOFT_INK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
CJK = (range(0x2E80, 0xA000), range(0xAC00, 0xD7B0), range(0xF900, 0xFB00), range(0xFE30, 0xFFF0))  # code points
FONT_REMEDY = (
    "install one (Debian, Ubuntu: apt install fonts-noto-cjk; Fedora: dnf install google-noto-sans-cjk-fonts; any other: the "
    "package with Noto Sans CJK)"
)
COLUMNS_PER_INCH = 13.5  # of text at 9 points, with room between labels
MEASURED = 64  # points at which text is measured: so large that no rounding shows
TITLE_SIZE, TITLE_COLUMNS_PER_INCH = 9.5, 13.5
GROWTH = (
    1.12  # of axes when a constrained layout, done only when drawing, takes their margins away; measured 1.08 to 1.24
)


class MissingFontWarning(UserWarning):
    """Some text of a figure cannot be drawn with the fonts that are installed."""


@dataclass(frozen=True)
class FontFile:
    """A font that figures are drawn with.

    Attributes
    ----------
    name : str
        Of its family, as matplotlib knows it.
    path : str
        Its file.
    number : int
        Which of the file's fonts it is.
    characters : frozenset of int
        Code points that it can draw.
    has_postscript_outlines : bool
        Whether its letters are PostScript's curves (CFF) and not TrueType's.
    """

    name: str
    path: str
    number: int
    characters: frozenset[int]
    has_postscript_outlines: bool

    @classmethod
    def named(cls, name: str) -> FontFile:
        """The font that matplotlib draws a family with."""
        from fontTools.ttLib import TTFont
        from matplotlib import font_manager

        found = font_manager.findfont(name)
        path, number = str(found), int(getattr(found, "face_index", 0))  # older versions know a file's first font alone
        with TTFont(path, fontNumber=number, lazy=True) as font:
            return cls(name, path, number, frozenset(font.getBestCmap()), "CFF " in font)


@cache
def font_family() -> tuple[str, ...]:
    """The installed fonts to draw text with, in order: a Latin one, then one that knows Chinese if there is one."""
    chinese = _known(CJK_FONTS) or _newly_installed(CJK_FONTS)
    return ("DejaVu Sans", *chinese[:1])


@cache
def font_files() -> tuple[FontFile, ...]:
    """The files of `font_family`."""
    return tuple(map(FontFile.named, font_family()))


@cache
def known_characters() -> frozenset[int]:
    """Code points that one of `font_family` can draw."""
    return frozenset[int]().union(*(font.characters for font in font_files()))


def _known(names: Sequence[str]) -> list[str]:
    """Those of some families that matplotlib knows."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [name for name in names if name in installed]


def _newly_installed(names: Sequence[str]) -> list[str]:
    """Those of some families that were installed after matplotlib had listed the fonts; it knows them from now on."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    manager = font_manager.fontManager
    listed = {str(entry.fname) for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if str(path) in listed:
            continue
        try:
            if FT2Font(path).family_name in names:
                manager.addfont(path)
        except (OSError, RuntimeError):  # a font that matplotlib cannot read is none to draw with
            continue
    return _known(names)


@cache
def warn_of_missing_font() -> None:
    """Say once that Chinese cannot be drawn, and what to install."""
    warnings.warn(
        "no installed font has Chinese, Japanese and Korean characters, so figures show boxes in their place; "
        f"{FONT_REMEDY} and start Python again",
        MissingFontWarning,
        stacklevel=2,
    )


def drawable(text: str) -> str:
    """The text with a box for every character that none of the installed fonts has."""
    known = known_characters()
    if any(ord(c) not in known and any(ord(c) in block for block in CJK) for c in text):
        warn_of_missing_font()
    return "".join(c if ord(c) in known or c == "\n" else "\N{WHITE VERTICAL RECTANGLE}" for c in text)


def lettering() -> dict[str, Any]:
    """What any text artist needs so that Chinese is drawn and a dollar sign starts no formula."""
    return {"family": list(font_family()), "parse_math": False}


def token_label(token: str, index: int) -> str:
    """A token as a label: line breaks visible, long ones cut, its number where no font has its characters."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "⏎")
    shown = shown.strip() or "␣" * bool(token) or "∅"
    if drawable(shown) != shown:
        return f"#{index + 1}"
    return cut(shown, 14)


def cut(text: str, most: int) -> str:
    """The text with an ellipsis in place of what goes beyond so many characters.

    >>> cut("leave_one_out", 6), cut("relevancy", 9)
    ('leave…', 'relevancy')
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def columns(text: str) -> int:
    """How wide a text is: a Chinese character takes two columns.

    >>> columns("GPU闻名")
    7
    """
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def inches(text: str, points: float) -> float:
    """How wide a line of text is in a figure, in inches."""
    return sum(typeface(number, MEASURED).getlength(run) for number, run in runs(text)) * points / MEASURED / 72


def runs(text: str) -> list[tuple[int, str]]:
    """Pieces of a line that one font has the letters of, each with its number in `font_files`."""
    fonts = font_files()
    which = lambda c: next((k for k, font in enumerate(fonts) if ord(c) in font.characters), 0)  # noqa: E731
    return [(number, "".join(run)) for number, run in groupby(text, which)]


@cache
def typeface(number: int, size: float) -> ImageFont.FreeTypeFont:
    """One of `font_files` at a size in pixels."""
    font = font_files()[number]
    return ImageFont.truetype(font.path, size, index=font.number)


def scale_bar(ax: Axes, drawn: ScalarMappable, unit: str, *, shrink: float = 0.85) -> None:
    """What the colours stand for, at the right of the axes."""
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=shrink, pad=0.02, aspect=27)
    bar.set_label(drawable(unit), fontsize=8, color=SOFT_INK, **lettering())
    bar.ax.tick_params(labelsize=7.5, labelcolor=SOFT_INK, length=2)
    bar.outline.set_visible(False)


def longest(labels: Sequence[str]) -> int:
    return max(map(columns, labels), default=0)


def slanted(labels: Sequence[str], places: int, inches: float) -> bool:
    """Whether the labels of so many places would touch if written level on so many inches."""
    return (longest(labels) + 1) * places > COLUMNS_PER_INCH * inches


def label_across(ax: Axes, labels: Sequence[str], *, at: Any = None, size: float = 9, top: bool = False) -> None:
    """Write tick labels under (or over) the axes, slanted where they would touch.

    Parameters
    ----------
    labels
        Text to be drawn as it is; what no font has becomes a box.
    at
        Where each stands; by default 0, 1, 2 ...
    """
    positions = range(len(labels)) if at is None else at
    inches = ax.get_window_extent().width / ax.figure.dpi
    lean = slanted(labels, max(len(labels), 1), inches)
    ax.set_xticks(positions, [drawable(text) for text in labels], fontsize=size, **lettering())
    ax.tick_params(axis="x", rotation=55 if lean else 0, length=0, top=False, labeltop=top, labelbottom=not top)
    side = "left" if top else "right"
    for text in ax.get_xticklabels():
        text.set(horizontalalignment=side if lean else "center", rotation_mode="anchor" if lean else "default")


def label_down(ax: Axes, labels: Sequence[str], *, size: float = 9) -> None:
    """Write tick labels at the left, one per row from 0 on."""
    ax.set_yticks(range(len(labels)), [drawable(text) for text in labels], fontsize=size, **lettering())
    ax.tick_params(axis="y", length=0)


def write_names(ax: Axes, across: str = "", up: str = "") -> None:
    """What the axes are, below and at the left."""
    ax.set_xlabel(drawable(across), fontsize=9, **lettering())
    ax.set_ylabel(drawable(up), fontsize=9, **lettering())


def write_legend(ax: Axes, handles: Sequence[Artist] | None = None, *, title: str = "", reverse: bool = False) -> None:
    """Names of what is drawn, at the right, where nothing is.

    Parameters
    ----------
    handles
        In the order in which they are named; by default all that have a label, as they were drawn.
    title
        Written over them.
    reverse
        From the last to the first.
    """
    font = {"family": lettering()["family"], "size": 8.5}
    legend = ax.legend(
        handles=ax.get_legend_handles_labels()[0] if handles is None else handles,
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, prop=font,
        title=drawable(title), title_fontproperties=font, alignment="left", reverse=reverse,
    )  # fmt: skip
    legend.get_title().set_parse_math(False)
    for text in legend.get_texts():
        text.set(text=drawable(text.get_text()), parse_math=False)


def write_title(ax: Axes, title: str, pad: float | None = None) -> None:
    """A title at the left, wrapped to the width of the axes; none for an empty text."""
    if title:
        inches = ax.get_window_extent().width / ax.figure.dpi
        if ax.figure.get_layout_engine() is not None:
            inches *= GROWTH
        width = int(TITLE_COLUMNS_PER_INCH * inches)
        lines = wrapped(drawable(title), max(width, 16), most=4)
        ax.set_title("\n".join(lines), loc="left", fontsize=TITLE_SIZE, pad=pad, **lettering())


def write_head(figure: Figure, title: str) -> None:
    """A title at the left over all axes of a figure, wrapped to its width."""
    lines = wrapped(drawable(title), int(TITLE_COLUMNS_PER_INCH * figure.get_figwidth()), most=4)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE_SIZE, **lettering())


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Lines of at most ``width`` columns (a Chinese character takes two), cut with an ellipsis after ``most`` lines."""
    lines, line, used = [], "", 0
    for word in _words(text):
        size = columns(word)
        if word == "\n" or (used + size > width and line.strip()):
            lines.append(line.rstrip())
            line, used = "", 0
        if word != "\n" and (line or not word.isspace()):
            line, used = line + word, used + size
    lines.append(line.rstrip())
    lines = [line for line in lines if line]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _words(text: str) -> Iterator[str]:
    """Words and single spaces, wide characters one by one but for what closes, which begins no line; a word too long for
    a line in pieces."""
    for piece in re.findall(r"\n|[^\S\n]+|[\u2e80-\uffef][。，、！？；：）」』'\"]*|[^\s\u2e80-\uffef]{1,60}", text):
        yield " " if piece.isspace() and piece != "\n" else piece
