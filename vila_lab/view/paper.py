"""Figures whose letters stay letters in PDF and SVG, as TrueType, as journals ask. Knows matplotlib and fonts, nothing of what is drawn.

Out of the box matplotlib draws a PDF's letters as programs (Type 3) and an SVG's as outlines, and it wraps a font with PostScript
outlines (CFF: Noto Sans CJK and every other .otf) as if it were TrueType, which some readers then leave blank. Here the letters
that are needed of such a font are made TrueType first, by fontTools, which matplotlib brings along.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from fontTools import subset
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..writing import write_file
from .lettering import FontFile, font_files

LETTERS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}
POSTSCRIPT = ("pdf", "ps", "eps")
TOLERANCE = 0.0005  # of a letter's size, by which a curve may move when it is made TrueType


class PaperFigure(Figure):
    """A figure that is saved with its letters as letters, whatever the settings are; these stay as they are."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """See `matplotlib.figure.Figure.savefig`; a file is written whole or not at all.

        The pages of a `PdfPages` follow the settings under which that is closed.

        Raises
        ------
        FileAccessError
            If the file cannot be written; what was there stays.
        """
        is_path = isinstance(fname, str | os.PathLike)
        suffix = Path(os.fspath(fname)).suffix.removeprefix(".") if is_path else ""
        kind = str(options.get("format") or suffix or matplotlib.rcParams["savefig.format"]).lower()
        if is_path:
            place = fname if suffix or options.get("format") else f"{os.fspath(fname).rstrip('.')}.{kind}"
            write_file(place, lambda: self._bytes(kind, options))
            return
        is_whole = hasattr(fname, "write")
        if not is_whole or kind not in (*POSTSCRIPT, "svg", "svgz"):
            super().savefig(fname, **options)
            return
        with matplotlib.rc_context(LETTERS), _embeddable(self, kind in POSTSCRIPT):
            super().savefig(fname, **options)

    def _bytes(self, kind: str, options: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, **{**options, "format": kind})
        return buffer.getvalue()


@contextmanager
def _embeddable(figure: Figure, is_embedded: bool) -> Iterator[None]:
    """Draw what needs a font with PostScript outlines with a TrueType one of the same letters."""
    letters = {ord(c) for text in figure.findobj(Text) for c in text.get_text()} if is_embedded else set()
    first, *others = font_files()
    needed = [(font, letters & font.characters - first.characters) for font in others if font.has_postscript_outlines]
    needed = [(font, wanted) for font, wanted in needed if wanted]
    if not needed:
        yield
        return
    beyond = set[int]().union(*(wanted for _, wanted in needed))
    texts = [text for text in figure.findobj(Text) if not beyond.isdisjoint(map(ord, text.get_text()))]
    before = [(text, text.get_fontfamily()) for text in texts]
    known = list(font_manager.fontManager.ttflist)
    with tempfile.TemporaryDirectory(prefix="vila_lab-", ignore_cleanup_errors=True) as folder:
        try:
            names = {}
            for number, (font, wanted) in enumerate(needed):
                file = Path(folder) / f"{number}.ttf"
                write_file(file, as_truetype(font, frozenset(wanted), f"{font.name} TrueType"))
                font_manager.fontManager.addfont(file)
                names[font.name] = f"{font.name} TrueType"
            for text, family in before:
                text.set_fontfamily([names.get(name, name) for name in family])
            yield
        finally:
            for text, family in before:
                text.set_fontfamily(family)
            font_manager.fontManager.ttflist[:] = known


def as_truetype(font: FontFile, characters: frozenset[int], name: str) -> bytes:
    """Some letters of a font with PostScript outlines, as a TrueType font of another name.

    The way is that of fontTools' own example ``otf2ttf``: cubic curves become quadratic ones within a tolerance.
    """
    with TTFont(font.path, fontNumber=font.number, lazy=True) as source:
        options = subset.Options(
            layout_features=[], drop_tables=["BASE", "GPOS", "GSUB", "VORG", "vhea", "vmtx", "DSIG"]
        )
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=characters)
        subsetter.subset(source)
        drawn = source.getGlyphSet()
        glyphs = {}
        for glyph in source.getGlyphOrder():
            pen = TTGlyphPen(drawn)
            error = TOLERANCE * source["head"].unitsPerEm
            drawn[glyph].draw(Cu2QuPen(pen, error, reverse_direction=True))
            glyphs[glyph] = pen.glyph()
        _put(source, glyphs)
        for number in (1, 4, 16):
            source["name"].setName(name, number, 3, 1, 0x409)
        source["name"].names = [
            entry for entry in source["name"].names if entry.platformID == 3 and entry.langID == 0x409
        ]
        buffer = io.BytesIO()
        source.save(buffer)
    return buffer.getvalue()


def _put(font: TTFont, glyphs: dict[str, Any]) -> None:
    """Quadratic outlines in the place of cubic ones."""
    font["loca"] = newTable("loca")
    font["glyf"] = table = newTable("glyf")
    table.glyphOrder, table.glyphs = font.getGlyphOrder(), glyphs
    for name, glyph in glyphs.items():
        glyph.recalcBounds(table)
        font["hmtx"][name] = font["hmtx"][name][0], getattr(glyph, "xMin", 0)
    del font["CFF "]
    sizes = font["maxp"]
    sizes.tableVersion, sizes.maxZones = 0x00010000, 1
    for limit in (
        "maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs", "maxStackElements",
        "maxSizeOfInstructions", "maxComponentElements",
    ):  # fmt: skip
        setattr(sizes, limit, 0)
    font["post"].formatType = 3.0
    font.sfntVersion = "\x00\x01\x00\x00"
