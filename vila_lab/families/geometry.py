"""From a picture's visual rows to the pixels they were made from, a function per way of cutting pictures. Knows no model.

Every rule gives one row of `Rows` for each visual row of a picture, in the order of the sequence. Rows that show no pixels (the
newline behind a line of features, padding) have no box. What is known of a picture is in `Seen`; nothing here looks at pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..upstream import best_resolution, tiled_canvas

Region: TypeAlias = "tuple[float, float, float, float]"

ROW_AND_COLUMN = re.compile(r"<row_(\d+)_col_(\d+)>")
WORTH_SHRINKING = 1.1  # features on a grid this much finer than the most allowed are interpolated (LLaVA-OneVision)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the rules are told of one picture in a prompt.

    Attributes
    ----------
    number : int
        Which picture of the prompt, from 0.
    count : int
        How many pictures the prompt has.
    size : (width, height)
        Of the original picture.
    rows : int
        Its visual rows in the prompt.
    replacement : str
        What the processor wrote in the place of its marker.
    inputs
        What the processor made of all pictures.
    processor, config
        Of the checkpoint.
    """

    number: int
    count: int
    size: tuple[int, int]
    rows: int
    replacement: str
    inputs: Any
    processor: Any
    config: Any

    @property
    def whole(self) -> Region:
        """See `vila_lab.families.geometry.whole`."""
        return whole(self.size)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some visual rows of one picture.

    Attributes
    ----------
    box : (n, 4) array
        x0, y0, x1, y1 in pixels of the original picture; NaN where a row shows none.
    tile, scale : (n,) arrays
        Which tile and which scale a row belongs to.
    """

    box: NDArray[np.float64]
    tile: NDArray[np.int32]
    scale: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.box)

    @staticmethod
    def of(box: NDArray[np.float64], tile: int | NDArray[np.int32] = 0, scale: int = 0) -> Rows:
        """Rows of one tile, or each of its own.  # (..., 4)"""
        flat = box.reshape(-1, 4)
        tiles = np.broadcast_to(np.asarray(tile, np.int32).reshape(-1), len(flat))
        return Rows(flat, tiles, np.full(len(flat), scale, np.int32))

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """One behind the other."""
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("box", "tile", "scale")))


def whole(size: tuple[int, int]) -> Region:
    """A whole picture, in pixels of it."""
    return 0.0, 0.0, float(size[0]), float(size[1])


def square_around(size: tuple[int, int]) -> Region:
    """The square in whose middle a picture is put, in pixels of the picture."""
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    return float(-left), float(-top), float(side - left), float(side - top)


def even(rows: int, columns: int, region: Region, tile: int = 0, scale: int = 0) -> Rows:
    """A region cut into equal cells, row by row.

    >>> even(1, 2, (0, 0, 8, 6)).box.tolist()
    [[0.0, 0.0, 4.0, 6.0], [4.0, 0.0, 8.0, 6.0]]
    """
    x0, y0, x1, y1 = region
    return Rows.of(_boxes(np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)), tile, scale)


def _boxes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cells between neighbouring borders.  # (columns + 1,), (rows + 1,) -> (rows, columns, 4)"""
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], -1)


def _square(count: int, what: str) -> int:
    """The side of a square grid of so many cells.

    Raises
    ------
    ValueError
        If there is none.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{what} has {count} visual rows, which are no square grid")
    return side


# -- the whole picture as one grid ---------------------------------------------------------------------------------------


def grid_of_patches(seen: Seen) -> Rows:
    """Resized to whole patches, which are merged in squares (Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V)."""
    merge = int(seen.processor.image_processor.merge_size)
    _, height, width = seen.inputs["image_grid_thw"][seen.number].tolist()
    return even(height // merge, width // merge, seen.whole)


def grid_of_size(seen: Seen) -> Rows:
    """Resized to whole patches, as many as ``image_sizes`` holds (Pixtral, Mistral 3)."""
    patch = int(seen.processor.patch_size) * int(seen.processor.spatial_merge_size)
    height, width = seen.inputs["image_sizes"][seen.number].tolist()
    return even(height // patch, width // patch, seen.whole)


def squashed(seen: Seen) -> Rows:
    """Squashed to a square whatever its shape (Gemma 3, PaliGemma, LLaVA with SigLIP)."""
    side = _square(seen.rows, f"picture {seen.number + 1}")
    return even(side, side, seen.whole)


def cropped(seen: Seen) -> Rows:
    """Its shorter side resized, and a square cut out of the middle: what is outside is never seen (CLIP)."""
    cutter = seen.processor.image_processor
    width, height = seen.size
    crop_height, crop_width = int(cutter.crop_size["height"]), int(cutter.crop_size["width"])
    shortest = int(cutter.size["shortest_edge"])
    scale = shortest / min(width, height)
    resized = (shortest, int(height * scale)) if width <= height else (int(width * scale), shortest)
    left, top = (resized[0] - crop_width) // 2, (resized[1] - crop_height) // 2
    across, down = width / resized[0], height / resized[1]
    patch = int(seen.processor.patch_size)
    region = (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)
    return even(crop_height // patch, crop_width // patch, region)


def padded(seen: Seen) -> Rows:
    """In the middle of a square of one colour, which is squashed (LLaVA with `do_pad`, LLaVA-OneVision beside others)."""
    rows = _seen_by_tower(seen, square_around(seen.size))
    return replace(rows, box=clipped(rows.box, seen.size))


# -- tiles, and the whole picture behind them ----------------------------------------------------------------------------


def tiles_by_shape(seen: Seen) -> Rows:
    """Resized to the canvas of tiles nearest to its shape, tiles row by row, the whole picture last (InternVL, Aya Vision)."""
    cutter = seen.processor.image_processor
    width, height = seen.size
    tile = int(cutter.size["height"]), int(cutter.size["width"])
    columns, rows = tiled_canvas((height, width), tile, int(cutter.min_patches), int(cutter.max_patches))
    return _tiled(seen, rows, columns)


def tiles_by_marker(seen: Seen) -> Rows:
    """Tiles row by row, each behind a marker that names its row and column, the whole picture last (Idefics 3, SmolVLM)."""
    found = [(int(row), int(column)) for row, column in ROW_AND_COLUMN.findall(seen.replacement)]
    rows, columns = (max(numbers) for numbers in zip(*found, strict=True)) if found else (1, 1)
    return _tiled(seen, rows, columns)


def _tiled(seen: Seen, rows: int, columns: int) -> Rows:
    count = rows * columns
    if count == 1:
        return squashed(seen)
    side = _square(seen.rows // (count + 1), f"a tile of picture {seen.number + 1}")
    tiles = _boxes(np.linspace(0, seen.size[0], columns + 1), np.linspace(0, seen.size[1], rows + 1)).reshape(-1, 4)
    parts = [even(side, side, (x0, y0, x1, y1), tile) for tile, (x0, y0, x1, y1) in enumerate(tiles.tolist())]
    return Rows.cat([*parts, even(side, side, seen.whole, count, 1)])


# -- any resolution: the whole picture first, then its tiles as one grid of features --------------------------------------


def any_resolution(seen: Seen) -> Rows:
    """The whole picture squashed, then tiles of a padded enlargement as one grid, a newline behind every line (LLaVA-NeXT)."""
    return Rows.cat([_seen_by_tower(seen, seen.whole), _Lines.of(seen).rows(seen.size)])


def any_resolution_or_padded(seen: Seen) -> Rows:
    """As LLaVA-NeXT, with at most so many features; of several pictures each padded to a square, and no tiles (LLaVA-OneVision)."""
    if seen.count > 1:
        return Rows.cat([padded(seen), _newline()])
    most = int(str(seen.processor.vision_aspect_ratio).removeprefix("anyres_max_"))
    return Rows.cat([_seen_by_tower(seen, seen.whole), _Lines.of(seen).at_most(most).rows(seen.size)])


def _seen_by_tower(seen: Seen, region: Region) -> Rows:
    """A region squashed to the tower's square, of which it leaves out what is no whole patch at the right and bottom."""
    vision = seen.config.vision_config
    size, patch = int(vision.image_size), int(vision.patch_size)
    side, (x0, y0, x1, y1) = size // patch, region
    share = side * patch / size
    return even(side, side, (x0, y0, x0 + (x1 - x0) * share, y0 + (y1 - y0) * share))


@dataclass(frozen=True)
class Canvas:
    """A picture enlarged as far as a canvas of whole tiles lets it, and padded on both sides.

    Attributes
    ----------
    width, height : int
        Of the canvas.
    left, top : int
        Where the picture begins in it.
    across, down : float
        Pixels of the original picture to one of the canvas.
    """

    width: int
    height: int
    left: int
    top: int
    across: float
    down: float

    @classmethod
    def of(cls, size: tuple[int, int], pinpoints: Any) -> Canvas:
        """The one, of those with (height, width) in ``pinpoints``, that fits a picture best."""
        width, height = size
        canvas_height, canvas_width = best_resolution((height, width), pinpoints)
        if canvas_width / width < canvas_height / height:
            enlarged = canvas_width, min(math.ceil(height * (canvas_width / width)), canvas_height)
        else:
            enlarged = min(math.ceil(width * (canvas_height / height)), canvas_width), canvas_height
        left, top = (canvas_width - enlarged[0]) // 2, (canvas_height - enlarged[1]) // 2
        return cls(canvas_width, canvas_height, left, top, width / enlarged[0], height / enlarged[1])

    def tiles(self, side: int) -> list[Region]:
        """Its tiles row by row, in pixels of the original picture, padding included."""
        return [
            (
                (x - self.left) * self.across,
                (y - self.top) * self.down,
                (x + side - self.left) * self.across,
                (y + side - self.top) * self.down,
            )
            for y in range(0, self.height, side)
            for x in range(0, self.width, side)
        ]


@dataclass(frozen=True)
class _Lines:
    """A grid of features over an enlarged picture.

    Attributes
    ----------
    x, y : (n, 2) arrays
        Where its columns and its lines begin and end, in pixels of the original picture.
    across, down : (n,) arrays
        Which tile each column and line lies in, counted to the right and down; all 0 where features mix several tiles.
    tiles : int
        Tiles side by side.
    most : int
        Features of one tile.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    across: NDArray[np.int32]
    down: NDArray[np.int32]
    tiles: int
    most: int

    @classmethod
    def of(cls, seen: Seen) -> _Lines:
        """Of the tiles that fit a picture best, cut to the features that show some of it."""
        vision, (width, height) = seen.config.vision_config, seen.size
        size, patch = int(vision.image_size), int(vision.patch_size)
        side = size // patch
        canvas = Canvas.of(seen.size, seen.processor.image_processor.image_grid_pinpoints)
        columns, lines = side * (canvas.width // size), side * (canvas.height // size)
        # What is padding alone is cut off, counted in features and rounded as the model does.
        left = top = 0
        if width / height > columns / lines:
            top = (lines - int(round(height * (columns / width), 7))) // 2
        else:
            left = (columns - int(round(width * (lines / height), 7))) // 2
        across, down = np.arange(left, columns - left), np.arange(top, lines - top)

        def ends(features: NDArray[np.int64], padding: int, scale: float) -> NDArray[np.float64]:
            begins = features // side * size + features % side * patch - padding  # a tile may be wider than its patches
            return np.stack([begins, begins + patch], -1) * scale

        return cls(
            ends(across, canvas.left, canvas.across),
            ends(down, canvas.top, canvas.down),
            (across // side).astype(np.int32),
            (down // side).astype(np.int32),
            canvas.width // size,
            side * side,
        )

    def at_most(self, tiles: int) -> _Lines:
        """As the model interpolates them where there are more than so many tiles have: boxes are right to half a cell."""
        ratio = math.sqrt(len(self.x) * len(self.y) / (tiles * self.most))
        if ratio <= WORTH_SHRINKING:
            return self
        columns, lines = int(len(self.x) // ratio), int(len(self.y) // ratio)
        mixed = np.zeros(columns, np.int32), np.zeros(lines, np.int32)
        return replace(self, x=_fewer(self.x, columns), y=_fewer(self.y, lines), across=mixed[0], down=mixed[1])

    def rows(self, size: tuple[int, int]) -> Rows:
        """Line by line, a newline behind each; boxes are cut to the picture."""
        left, top = np.meshgrid(self.x[:, 0], self.y[:, 0])
        right, bottom = np.meshgrid(self.x[:, 1], self.y[:, 1])
        boxes = clipped(np.stack([left, top, right, bottom], -1), size)  # (lines, columns, 4)
        tiles = 1 + self.down[:, None] * self.tiles + self.across  # (lines, columns); 0 is the whole picture
        lines = [(Rows.of(box, tile, 1), _newline()) for box, tile in zip(boxes, tiles, strict=True)]
        return Rows.cat([part for line in lines for part in line])


def _fewer(ends: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The same stretch in fewer parts.  # (n, 2) -> (count, 2)"""
    places = np.arange(count + 1) * len(ends) / count
    lower = np.minimum(places.astype(int), len(ends) - 1)
    borders = ends[lower, 0] + (places - lower) * (ends[lower, 1] - ends[lower, 0])
    return np.stack([borders[:-1], borders[1:]], -1)


def _newline() -> Rows:
    return Rows.of(np.full((1, 4), np.nan), -1, -1)


def clipped(box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes cut to a picture; NaN where nothing is left.  # (..., 4)"""
    cut = np.clip(box, 0, np.tile(np.asarray(size, np.float64), 2))
    is_empty = (cut[..., 0] >= cut[..., 2]) | (cut[..., 1] >= cut[..., 3])
    return np.where(is_empty[..., None], np.nan, cut)
