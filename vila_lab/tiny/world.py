"""The drawn world: scenes of one to four known things with exact boxes and masks. Knows nothing of models or questions.

A scene is drawn on a canvas of any size and shape; whoever needs the model's square squashes it as for any other
picture. Every random choice comes from the generator that is passed in, so a seed is a scene.

>>> import numpy as np
>>> scene = draw_scene(np.random.default_rng(0), ["cat", "dog"])
>>> sorted(scene.names)
['cat', 'dog']
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backgrounds import HELD_OUT_STYLES, STYLES, TEXTURES, background
from .names import COMPANIES, INDEX

SPRITES = Path(__file__).parent / "sprites"
LIGHT, DARK = (200, 256), (0, 90)  # company marks are dark or saturated: a light background keeps them visible
MARKS = frozenset(company.name for company in COMPANIES)


@dataclass(frozen=True)
class Placed:
    """A thing in a scene: its name, its box and its mask, both in canvas pixels."""

    name: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    mask: NDArray[np.bool_]  # (height of box, width of box)

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """A drawn picture and what is in it, from left to right."""

    image: Image.Image
    placed: tuple[Placed, ...]
    style: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(placed.name for placed in self.placed)

    def labels(self, side: int) -> NDArray[np.int64]:
        """Which thing each of ``side x side`` cells shows: its index in THINGS, or -1 for background.

        A cell belongs to the thing that covers most of it, if that is at least an eighth of the cell.
        """
        width, height = self.image.size
        best = np.full((side, side), 1 / 8)
        labels = np.full((side, side), -1, dtype=np.int64)
        for placed in self.placed:
            x0, y0, x1, y1 = placed.box
            canvas = np.zeros((height, width), dtype=np.uint8)
            canvas[y0:y1, x0:x1] = placed.mask * 255
            cover = np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BOX)) / 255
            wins = cover > best
            labels[wins] = INDEX[placed.name]
            best = np.maximum(best, cover)
        return labels


@cache
def sprites() -> dict[str, Image.Image]:
    """The sprite of every thing, RGBA, longer side 96 pixels."""
    sheet = Image.open(SPRITES / "sheet.png").convert("RGBA")
    boxes = json.loads((SPRITES / "boxes.json").read_text(encoding="utf-8"))
    return {name: sheet.crop(tuple(box)) for name, box in boxes.items()}


def held_out(name: str, style: str) -> bool:
    """Whether this thing on this background is kept from training (one pair in seven)."""
    if style in HELD_OUT_STYLES:
        return True
    if style in STYLES:
        return (INDEX[name] * len(STYLES) + STYLES.index(style)) % 7 == 3
    return (INDEX[name] + TEXTURES.index(style)) % 7 == 3


def draw_scene(
    rng: np.random.Generator,
    names: Sequence[str],
    *,
    style: str | None = None,
    size: tuple[int, int] | None = None,
    allow_held_out: bool = False,
) -> Scene:
    """Draw the named things on one background, without overlap.

    Parameters
    ----------
    names
        One to four names of ``THINGS``; the scene lists them from left to right.
    style
        Background: one of ``STYLES``, ``TEXTURES`` or ``HELD_OUT_STYLES``; None draws one of the first.
    size
        Canvas (width, height) in pixels, at least 48 each; None draws one between 96 and 192.
    allow_held_out
        Whether the drawn style may form a held-out pair with one of the things.
    """
    if style is None:
        allowed = [s for s in STYLES if allow_held_out or not any(held_out(name, s) for name in names)]
        style = str(rng.choice(allowed or STYLES))
    if size is None:
        width, height = (int(side) for side in rng.integers(96, 193, 2))
    else:
        width, height = size
    has_marks = any(name in MARKS for name in names)
    white_marks = has_marks and style in TEXTURES and (style == "black" or bool(rng.random() < 0.3))
    colours = (DARK if white_marks else _light(rng)) if has_marks else (0, 256)
    canvas = Image.fromarray(background(rng, style, width, height, colours)).convert("RGBA")
    placed = []
    for name, (x0, y0, x1, y1) in zip(names, _places(rng, len(names), width, height), strict=True):
        sprite = _pose(rng, name, x1 - x0, y1 - y0)
        if white_marks and name in MARKS and not (_is_bright(sprite) and rng.random() < 0.6):
            sprite = _whitened(sprite)
        if style == "black":
            sprite = _with_hard_edge(sprite)
        left = x0 + int(rng.integers(0, x1 - x0 - sprite.width + 1))
        top = y0 + int(rng.integers(0, y1 - y0 - sprite.height + 1))
        canvas.alpha_composite(sprite, (left, top))
        mask = np.asarray(sprite.getchannel("A")) > 100
        placed.append(Placed(name, (left, top, left + sprite.width, top + sprite.height), mask))
    placed.sort(key=lambda p: p.centre[0])
    return Scene(canvas.convert("RGB"), tuple(placed), style)


def _places(rng: np.random.Generator, count: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes that do not overlap: one anywhere, two or more in the quarters (or halves) of the canvas."""
    if count == 1:
        share = rng.uniform(0.38, 0.85)
        w, h = max(8, round(width * share)), max(8, round(height * share))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        return [(x, y, x + w, y + h)]
    cut_x, cut_y = (round(side * rng.uniform(0.42, 0.58)) for side in (width, height))
    if count == 2 and rng.random() < 0.5:
        beside = [(0, 0, cut_x, height), (cut_x, 0, width, height)]
        above = [(0, 0, width, cut_y), (0, cut_y, width, height)]
        cells = beside if rng.random() < 0.5 else above
    else:
        cells = [
            (0, 0, cut_x, cut_y),
            (cut_x, 0, width, cut_y),
            (0, cut_y, cut_x, height),
            (cut_x, cut_y, width, height),
        ]
    order = rng.permutation(len(cells))[:count]
    return [_shrink(rng, cells[k]) for k in order]


def _shrink(rng: np.random.Generator, cell: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A box inside the cell: the side of a square that fits, or a little less, at a random place."""
    x0, y0, x1, y1 = cell
    share = rng.uniform(0.75, 1.0)
    w, h = max(8, round((x1 - x0) * share)), max(8, round((y1 - y0) * share))
    x, y = x0 + int(rng.integers(0, x1 - x0 - w + 1)), y0 + int(rng.integers(0, y1 - y0 - h + 1))
    return x, y, x + w, y + h


def _pose(rng: np.random.Generator, name: str, width: int, height: int) -> Image.Image:
    """The sprite mirrored or not, rotated a little, stretched a little, and scaled to fit width x height."""
    sprite = sprites()[name]
    if name not in MARKS:
        if rng.random() < 0.5:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR, expand=True)
        sprite = sprite.crop(sprite.getchannel("A").getbbox())
    stretch = float(np.exp(rng.uniform(-0.2, 0.2)))
    scale = min(width / (sprite.width * stretch), height / sprite.height)
    size = (
        max(2, min(width, round(sprite.width * stretch * scale))),
        max(2, min(height, round(sprite.height * scale))),
    )
    return sprite.resize(size, Image.Resampling.BICUBIC)


def _light(rng: np.random.Generator) -> tuple[int, int]:
    """Colours behind a mark: it stands on plain white more often than not."""
    return (255, LIGHT[1]) if rng.random() < 0.3 else LIGHT


def _whitened(sprite: Image.Image) -> Image.Image:
    """The same form in white, as a logo is drawn on a dark ground."""
    white = Image.new("RGBA", sprite.size, "white")
    white.putalpha(sprite.getchannel("A"))
    return white


def _is_bright(sprite: Image.Image) -> bool:
    """Whether a sprite can be seen on a dark ground as it is."""
    pixels = np.asarray(sprite, np.float64)
    return bool(np.average(pixels[..., :3].max(-1), weights=pixels[..., 3]) > 150)


def _with_hard_edge(sprite: Image.Image) -> Image.Image:
    """As a picture looks whose transparency was dropped: its half covered pixels in full colour."""
    hard = sprite.copy()
    hard.putalpha(sprite.getchannel("A").point([0] + [255] * 255))
    return hard
