"""What a drawn scene stands on: plain colours, textures, and two that no training picture has. Knows nothing of things.

``STYLES`` are what a scene gets by itself, ``TEXTURES`` what training adds and a caller can ask for by name;
``HELD_OUT_STYLES`` are drawn for evaluation only, so that "a background it never saw" stays true.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float64]  # (height, width, 3) or what broadcasts to it, 0 to 255

STYLES = ("plain", "gradient", "noise")
TEXTURES = ("stripes", "dots", "blobs", "waves", "scribble", "shards", "grain", "black")
HELD_OUT_STYLES = ("checks", "rings")


def background(
    rng: np.random.Generator, style: str, width: int, height: int, colours: tuple[int, int]
) -> NDArray[np.uint8]:
    """A background whose colours lie between two values of brightness (the second excluded).  # (height, width, 3)

    Raises
    ------
    ValueError
        For an unknown style.

    Examples
    --------
    >>> background(np.random.default_rng(0), "checks", 64, 48, (0, 256)).shape
    (48, 64, 3)
    """
    if style not in _DRAWN:
        raise ValueError(f"unknown background style {style!r}; known: {', '.join(_DRAWN)}")
    first, second = rng.integers(*colours, (2, 3)).astype(np.float64)
    field = np.broadcast_to(_DRAWN[style](rng, width, height, first, second), (height, width, 3))
    return np.asarray(np.clip(field, 0, 255), np.uint8)


def _plain(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    return first


def _gradient(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    ramp = _along(rng.uniform(0, 2 * np.pi), width, height)
    ramp = (ramp - ramp.min()) / max(np.ptp(ramp), 1e-9)
    return _between(first, second, ramp)


def _noise(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    return first + rng.normal(0, 25, (height, width, 3))


def _stripes(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Bars of any direction and width, hard or soft."""
    phase = _along(rng.uniform(0, 2 * np.pi), width, height) * rng.uniform(4, 24)
    wave = np.sin(phase + rng.uniform(0, 2 * np.pi))
    return _between(first, second, (wave > 0) if rng.random() < 0.7 else (wave + 1) / 2)


def _dots(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Round dots on a grid or strewn about."""
    y, x = np.mgrid[0:height, 0:width]
    side = min(width, height) * rng.uniform(0.06, 0.25)
    if rng.random() < 0.5:
        away = np.hypot((x + rng.uniform(0, side)) % side - side / 2, (y + rng.uniform(0, side)) % side - side / 2)
        return _between(first, second, away < side * rng.uniform(0.2, 0.45))
    count = int(rng.integers(8, 40))
    centres = rng.uniform(0, 1, (count, 2)) * (width, height)
    away = np.hypot(x[..., None] - centres[:, 0], y[..., None] - centres[:, 1]).min(-1)
    return _between(first, second, away < side * rng.uniform(0.15, 0.5))


def _blobs(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Clouds of two colours, soft or with a hard edge."""
    cells = int(rng.integers(2, 10))
    cloud = _smooth(rng.normal(0, 1, (cells, cells)), width, height)
    hard = rng.random() < 0.4
    return _between(first, second, cloud > 0 if hard else 1 / (1 + np.exp(-2 * cloud)))


def _waves(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Two waves across each other, as woven cloth has."""
    waves = [np.sin(_along(rng.uniform(0, 2 * np.pi), width, height) * rng.uniform(5, 30)) for _ in range(2)]
    return _between(first, second, (waves[0] * waves[1] + 1) / 2)


def _scribble(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Lines and rings in several colours."""
    canvas, pen = _canvas(width, height, first)
    for _ in range(int(rng.integers(3, 20))):
        ends = tuple((rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)).ravel())
        colour = _near(rng, second)
        thickness = int(rng.integers(1, 5))
        if rng.random() < 0.6:
            pen.line(ends, fill=colour, width=thickness)
        else:
            (x0, x1), (y0, y1) = sorted(ends[::2]), sorted(ends[1::2])
            pen.ellipse((x0, y0, x1, y1), outline=colour, width=thickness)
    return np.asarray(canvas, np.float64)


def _shards(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Filled pieces with corners: rectangles, triangles, ellipses."""
    canvas, pen = _canvas(width, height, first)
    for _ in range(int(rng.integers(3, 16))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0.05, 0.4, 2) * (width, height)
        colour = _near(rng, second)
        form = rng.random()
        if form < 0.4:
            pen.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
        elif form < 0.8:
            corners = [(x + w * dx, y + h * dy) for dx, dy in rng.uniform(-0.6, 0.6, (int(rng.integers(3, 6)), 2))]
            pen.polygon(corners, fill=colour)
        else:
            pen.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
    return np.asarray(canvas, np.float64)


def _grain(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """Noise of several scales, coloured: bark, cloth, grass from afar."""
    field = np.zeros((height, width, 3))
    for cells in (3, 8, 20, 48):
        layer = rng.normal(0, 1, (cells, cells, 3 if rng.random() < 0.5 else 1))
        field = field + rng.uniform(5, 30) * np.stack(
            [_smooth(c, width, height) for c in np.moveaxis(layer, -1, 0)], -1
        )
    return first + field


def _black(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    """What stands behind a picture whose transparency was dropped."""
    return np.zeros(3)


def _checks(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    y, x = np.mgrid[0:height, 0:width]
    side = max(4, int(min(width, height) * rng.uniform(0.06, 0.2)))
    return _between(first, second, (x // side + y // side) % 2)


def _rings(rng: np.random.Generator, width: int, height: int, first: Field, second: Field) -> Field:
    y, x = np.mgrid[0:height, 0:width]
    away = np.hypot(x - width * rng.uniform(0.2, 0.8), y - height * rng.uniform(0.2, 0.8))
    return _between(first, second, away // (min(width, height) * rng.uniform(0.05, 0.14)) % 2)


_DRAWN: dict[str, Callable[[np.random.Generator, int, int, Field, Field], Field]] = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "dots": _dots,
    "blobs": _blobs,
    "waves": _waves,
    "scribble": _scribble,
    "shards": _shards,
    "grain": _grain,
    "black": _black,
    "checks": _checks,
    "rings": _rings,
}


def _between(first: Field, second: Field, share: NDArray[np.generic]) -> Field:
    """From the first colour at 0 to the second at 1.  # (height, width) -> (height, width, 3)"""
    return first + (second - first) * np.asarray(share, np.float64)[..., None]


def _along(angle: float, width: int, height: int) -> Field:
    """How far each pixel lies in one direction, the picture's sides being 1.  # (height, width)"""
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(np.cos(angle) * x / width + np.sin(angle) * y / height)


def _smooth(cells: NDArray[np.float64], width: int, height: int) -> Field:
    """A coarse grid drawn large without steps.  # (n, n) -> (height, width)"""
    drawn = Image.fromarray(cells.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(drawn, np.float64)


def _canvas(width: int, height: int, colour: Field) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (width, height), tuple(int(c) for c in colour))
    return canvas, ImageDraw.Draw(canvas)


def _near(rng: np.random.Generator, colour: Field) -> tuple[int, ...]:
    """A colour like the given one, now and then far from it."""
    spread = 70 if rng.random() < 0.7 else 200
    return tuple(int(c) for c in np.clip(colour + rng.uniform(-spread, spread, 3), 0, 255))
