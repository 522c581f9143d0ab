"""A sheet of pixels, drawn for light and for dark surroundings at once. Knows fonts and textures, nothing of what it shows.

matplotlib takes ten times as long for a sheet of text and boxes, and a cell's display has to be as quick as asking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from .lettering import runs, typeface
from .pictures import DAY, NIGHT, Twofold
from .style import ink_on

DPI = 110
ASCENT = 0.76  # of a text's size: from its top to the line it stands on, in DejaVu Sans
LEAN = 55  # degrees by which labels are turned that would touch
VEIL = 115  # of 255: how strong a texture's lines are on their colour
PERIODS = {2: 10, 3: 8, 4: 5}  # pixels from line to line of a texture, by how often it is said
LINES = 128  # lines of text whose pixels are kept, a few kB each: most of a sheet's stand on the next one too
COLOURLESS = 16  # a colour whose channels differ by less is a grey

Box = tuple[float, float, float, float]  # left, top, right, bottom, in inches
Corners = tuple[int, int, int, int]  # the same in pixels


class Canvas:
    """A sheet whose lengths and places are inches from its upper left corner, and whose text is in points.

    Greys, and so ink, are turned round on the dark sheet; colours and pictures are the same on both.

    Parameters
    ----------
    width, height
        Of the sheet, in inches.
    dpi
        Pixels of an inch.

    Examples
    --------
    >>> canvas = Canvas(2.0, 0.5)
    >>> end = canvas.text(0.1, 0.1, "Hello", points=9, ink="#1b1d21")
    >>> canvas.boxes([(1.0, 0.1, 1.9, 0.4)], "#56b4e9")
    >>> both = canvas.finish()
    >>> both.light.size, both.light.getpixel((150, 30)) == both.dark.getpixel((150, 30)), both.dark.getpixel((0, 0))
    ((220, 55), True, (18, 18, 18))
    """

    def __init__(self, width: float, height: float, dpi: int = DPI) -> None:
        self.dpi = dpi
        size = self._pixels(width), self._pixels(height)
        self._sheets = Image.new("RGB", size, DAY), Image.new("RGB", size, NIGHT)

    def text(self, left: float, top: float, text: str, *, points: float, ink: str) -> float:
        """Write one line; returns where it ends."""
        mask = _line(text, points, self.dpi)
        self._ink(mask, left * self.dpi, top * self.dpi, both_ways(ink))
        return left + mask.width / self.dpi

    def label(self, x: float, top: float, text: str, *, points: float, ink: str, leans: bool = False) -> None:
        """Write one line below a place: its middle there, or leaning, its end."""
        mask = _line(text, points, self.dpi)
        right = mask.width / 2
        if leans:
            high = mask.height
            mask = mask.rotate(LEAN, Image.Resampling.BICUBIC, expand=True)
            right = mask.width - 0.4 * high
        self._ink(mask, x * self.dpi - right, top * self.dpi, both_ways(ink))

    def badge(self, left: float, top: float, text: str, colour: str, *, points: float) -> None:
        """A few letters, black or white, on a ground of their own."""
        mask, pad = _line(text, points, self.dpi), points / 288
        box = self._rounded((left - pad, top - pad, left + mask.width / self.dpi + pad, top + 4 * pad + pad))
        for sheet in self._sheets:
            ImageDraw.Draw(sheet).rounded_rectangle(box, radius=self._pixels(1.4 * pad), fill=colour)
        ink = ImageColor.getrgb(ink_on(colour))
        self._ink(mask, left * self.dpi, top * self.dpi + 1, (ink, ink))

    def boxes(self, places: Sequence[Box], colour: str | None, texture: str = "", ink: float = 0.0) -> None:
        """Filled boxes of one look; without a colour their texture alone.

        Parameters
        ----------
        places
            Their corners.
        colour
            Of all of them.
        texture
            As matplotlib names them: one of / \\ x + - | . o, the denser the more often it is said.
        ink
            Brightness of its lines, from 0 to 1.
        """
        corners = [(x0, y0, x1, y1) for x0, y0, x1, y1 in map(self._rounded, places) if x1 > x0 and y1 > y0]
        if colour is not None:
            for sheet, shown in zip(self._sheets, both_ways(colour), strict=True):
                draw = ImageDraw.Draw(sheet)
                for x0, y0, x1, y1 in corners:
                    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=shown)
        if texture and corners:
            self._texture(corners, texture, round(255 * ink))

    def picture(self, image: Image.Image, place: Box) -> None:
        """A picture, over the whole of a box."""
        x0, y0, _, _ = self._rounded(place)
        fitted = image.resize(self.size_of(place), Image.Resampling.BICUBIC, reducing_gap=2.0)
        for sheet in self._sheets:
            sheet.paste(fitted, (x0, y0))

    def size_of(self, place: Box) -> tuple[int, int]:
        """Width and height of a box in pixels, at least one."""
        x0, y0, x1, y1 = self._rounded(place)
        return max(x1 - x0, 1), max(y1 - y0, 1)

    def finish(self) -> Twofold:
        """The sheet for light surroundings and the one for dark."""
        return Twofold(*self._sheets)

    def _ink(self, mask: Image.Image, x: float, y: float, inks: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        for sheet, ink in zip(self._sheets, inks, strict=True):
            sheet.paste(ink, (round(x), round(y)), mask)

    def _texture(self, corners: Sequence[Corners], texture: str, ink: int) -> None:
        """Lay a texture's lines over boxes of whole pixels."""
        left, top = min(x0 for x0, _, _, _ in corners), min(y0 for _, y0, _, _ in corners)
        width, high = max(x1 for _, _, x1, _ in corners) - left, max(y1 for _, _, _, y1 in corners) - top
        tile = _tile(texture, self.dpi)
        pattern = np.tile(tile, (-(-high // len(tile)), -(-width // len(tile))))[:high, :width]
        inside = np.zeros_like(pattern)
        for x0, y0, x1, y1 in corners:
            inside[y0 - top : y1 - top, x0 - left : x1 - left] = VEIL
        mask = Image.fromarray(pattern * inside)
        for sheet in self._sheets:
            sheet.paste((ink, ink, ink), (left, top), mask)

    def _pixels(self, inches: float) -> int:
        return round(inches * self.dpi)

    def _rounded(self, place: Box) -> Corners:
        x0, y0, x1, y1 = map(self._pixels, place)
        return x0, y0, x1, y1


def length(text: str, points: float, dpi: int = DPI) -> float:
    """Inches that a line of text takes on a canvas."""
    return sum(typeface(number, points * dpi / 72).getlength(run) for number, run in runs(text)) / dpi


def both_ways(colour: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A colour on a light sheet and on a dark one, where greys are turned round.

    >>> both_ways("#ffffff"), both_ways("#56b4e9")
    (((255, 255, 255), (18, 18, 18)), ((86, 180, 233), (86, 180, 233)))
    """
    light = ImageColor.getrgb(colour)
    if max(light) - min(light) >= COLOURLESS:
        return light, light
    low, high, ink = NIGHT[0], 232, 27
    return light, tuple(min(255, round(low + (255 - level) * (high - low) / (255 - ink))) for level in light)


@lru_cache(LINES)
def _line(text: str, points: float, dpi: int) -> Image.Image:
    """How much ink lies where in a line of text, which is drawn with the fonts that have its letters."""
    size = points * dpi / 72
    pieces = [(typeface(number, size), run) for number, run in runs(text)]
    starts = [0.0, *accumulate(font.getlength(run) for font, run in pieces)]
    mask = Image.new("L", (math.ceil(starts[-1]) + 1, round(1.3 * size)))
    draw = ImageDraw.Draw(mask)
    for (font, run), x in zip(pieces, starts, strict=False):  # the last is where the line ends
        draw.text((x, round(ASCENT * size)), run, fill=255, font=font, anchor="ls")
    return mask


@cache
def _tile(texture: str, dpi: int) -> NDArray[np.uint8]:
    """One period of a texture: 1 where its lines are, 0 elsewhere."""
    size = round(PERIODS[len(texture)] * dpi / DPI)
    y, x = np.indices((size, size))
    up, down = (x + y) % size == size - 1, x == y
    ring = np.hypot(x - size / 2 + 0.5, y - size / 2 + 0.5)
    lines = {
        "/": up, "\\": down, "x": up | down, "-": y == 0, "|": x == 0, "+": (x == 0) | (y == 0),
        ".": (x < 2) & (y < 2), "o": (ring > size / 4) & (ring <= size / 4 + 1),
    }  # fmt: skip
    return np.asarray(lines[texture[0]], np.uint8)
