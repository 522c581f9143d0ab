"""How a picture is cut into tiles, and which pixels each crop shows. Knows sizes only, no pixels and no tokens.

The rules are those of the NVILA reference: the grid chooser of InternVL for ``dynamic``, three square scales with a
chosen finest grid for ``dynamic_s2``, one squashed or padded tile otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TILING_MODES = ("resize", "pad", "dynamic", "dynamic_s2")


@dataclass(frozen=True)
class TilingOptions:
    """What a checkpoint says about tiling.

    Attributes
    ----------
    mode : str or None
        ``image_aspect_ratio`` of the checkpoint; anything but the four known modes squashes the picture to one tile.
    size : int
        Side of a tile in pixels.
    min_tiles, max_tiles : int
        Bounds of columns x rows.
    scales : tuple of int
        Sides of the squares of ``dynamic_s2``, ascending; the first is the tile's side.
    output_scale : int
        Index of the scale whose map becomes the tokens of ``dynamic_s2``.
    """

    mode: str | None
    size: int
    min_tiles: int = 1
    max_tiles: int = 12
    scales: tuple[int, ...] = ()
    output_scale: int = -1

    @property
    def is_multiscale(self) -> bool:
        return self.mode == "dynamic_s2"

    def square_tiles(self, scale: int) -> int:
        """Tiles along one side of a square scale."""
        return self.scales[scale] // self.scales[0]


@lru_cache
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with ``min_tiles <= columns * rows <= max_tiles``, by area.

    Grids of equal area keep the order of a Python set filled as here: the reference sorts such a set, and its order
    decides exact ties.

    >>> candidate_grids(9, 10)
    ((3, 3), (9, 1), (1, 9), (10, 1), (1, 10), (2, 5), (5, 2))
    """
    grids = {
        (columns, rows)
        for tiles in range(min_tiles, max_tiles + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if min_tiles <= columns * rows <= max_tiles
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """The (columns, rows) whose aspect is nearest to the picture's; on a tie the larger, if the picture is large enough.

    >>> choose_grid(640, 480, 448, 1, 12)
    (4, 3)
    """
    aspect = width / height
    best, best_difference = (1, 1), float("inf")
    for columns, rows in candidate_grids(min_tiles, max_tiles):
        difference = abs(aspect - columns / rows)
        large_enough = width * height > 0.5 * size * size * columns * rows
        if difference < best_difference or (difference == best_difference and large_enough):
            best, best_difference = (columns, rows), difference
    return best


@dataclass(frozen=True)
class Crop:
    """One canvas the picture is resized to, cut into columns x rows tiles.

    Attributes
    ----------
    columns, rows : int
        The grid.
    scale : int
        0 for a view of the whole picture in one tile, rising with resolution.
    """

    columns: int
    rows: int
    scale: int

    @property
    def tiles(self) -> int:
        return self.columns * self.rows


def tiled_pictures(count: int, every: bool, first: bool = False) -> list[bool]:
    """Which of so many pictures are cut into tiles: the reference cuts one that is alone.

    >>> tiled_pictures(1, False), tiled_pictures(2, False), tiled_pictures(2, False, first=True)
    ([True], [False, False], [True, False])
    """
    return [every or count == 1 or (first and number == 0) for number in range(count)]


def plan_crops(width: int, height: int, options: TilingOptions, *, tiled: bool) -> list[Crop]:
    """The canvases of one picture, in the order their tiles enter the vision tower.

    Parameters
    ----------
    width, height : int
        The picture in pixels.
    tiled : bool
        False squashes (or pads) the picture to one tile whatever the mode, as the reference does with several pictures.
    """
    if tiled and options.mode == "dynamic":
        columns, rows = choose_grid(width, height, options.size, options.min_tiles, options.max_tiles)
        if columns * rows == 1:
            return [Crop(1, 1, scale=0)]
        return [Crop(columns, rows, scale=1), Crop(1, 1, scale=0)]
    if tiled and options.mode == "dynamic_s2":
        finest = len(options.scales) - 1
        crops = [Crop(options.square_tiles(k), options.square_tiles(k), scale=k) for k in range(finest)]
        columns, rows = choose_grid(width, height, options.size, options.square_tiles(finest) ** 2, options.max_tiles)
        return [*crops, Crop(columns, rows, scale=finest)]
    return [Crop(1, 1, scale=0)]


def picture_box(width: int, height: int, options: TilingOptions) -> tuple[float, float, float, float]:
    """The box, in picture pixels, that a one-tile canvas shows: the picture itself, or the padded square around it."""
    if options.mode != "pad":
        return 0.0, 0.0, float(width), float(height)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return float(-left), float(-top), float(side - left), float(side - top)


def cell_boxes(columns: int, rows: int, size: int, patch: int, merge: int, *, transposed: bool = False) -> np.ndarray:
    """Boxes of the tokens of a columns x rows canvas of tiles, row-major over the canvas, in units of the whole canvas.

    Parameters
    ----------
    size, patch, merge : int
        Side of a tile and of a patch in pixels; patches per token along one side.
    transposed : bool
        The tokens inside each tile run column by column (the order before the reference's fix of December 2024).

    Returns
    -------
    ndarray (rows * G * columns * G, 4)
        x0, y0, x1, y1 in 0..1. Pixels beyond the last whole patch are seen by no token.
    """
    patches = size // patch
    edges = np.minimum(np.arange(0, patches + merge, merge), patches)[: -(-patches // merge) + 1] * patch  # (G + 1,)
    x0, x1 = (
        np.add.outer(np.arange(columns) * size, side).reshape(-1) / (columns * size) for side in (edges[:-1], edges[1:])
    )
    y0, y1 = (
        np.add.outer(np.arange(rows) * size, side).reshape(-1) / (rows * size) for side in (edges[:-1], edges[1:])
    )
    height, width = len(y0), len(x0)
    boxes = np.stack(
        [
            np.broadcast_to(x0, (height, width)),
            np.broadcast_to(y0[:, None], (height, width)),
            np.broadcast_to(x1, (height, width)),
            np.broadcast_to(y1[:, None], (height, width)),
        ],
        axis=-1,
    )  # (rows * G, columns * G, 4)
    if transposed:
        cells = len(edges) - 1
        boxes = boxes.reshape(rows, cells, columns, cells, 4).transpose(0, 3, 2, 1, 4)
    return boxes.reshape(-1, 4)
