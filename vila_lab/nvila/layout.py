"""Where each position of the expanded sequence comes from: text span, picture, tile, box. Pure numpy, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from vila_lab.nvila.tiling import TilingOptions, cell_boxes, picture_box, plan_crops


@dataclass(frozen=True)
class ImageBlock:
    """The visual tokens that replace one ``<image>`` of the prompt.

    Attributes
    ----------
    picture : int
        Which picture of the prompt, in order of appearance.
    scale : int
        0 is a view of the whole picture in one tile; higher is finer.
    start : int
        Position of the first visual token in the expanded sequence.
    rows, cols : int
        The tokens form this grid, row-major.
    boxes : ndarray (rows * cols, 4)
        x0, y0, x1, y1 in pixels of the original picture.
    tiles : ndarray (rows * cols,)
        Tile of each token, counted within the picture; a thumbnail counts last.
    """

    picture: int
    scale: int
    start: int
    rows: int
    cols: int
    boxes: np.ndarray
    tiles: np.ndarray

    @property
    def stop(self) -> int:
        """One past the last visual token."""
        return self.start + self.rows * self.cols


@dataclass(frozen=True)
class PromptLayout:
    """A rendered prompt and what every position of its expanded sequence is.

    Attributes
    ----------
    text : str
        The rendered prompt with one ``<image>`` per block.
    input_ids : ndarray (T,)
        Expanded: one position per visual token.
    offsets : ndarray (T, 2)
        Character span in `text`; a visual token has the span of its ``<image>``, a separator an empty span beside it.
    blocks : list of ImageBlock
        In order of appearance.
    separators : ndarray
        Positions of the start and end rows around blocks.
    user_spans : list of (int, int)
        Character spans of what the user wrote, without template and markers.
    replies : list of (int, int)
        First and one-past-last position of what the model said in earlier turns, with the token that ended it.
    """

    text: str
    input_ids: np.ndarray
    offsets: np.ndarray
    blocks: list[ImageBlock]
    separators: np.ndarray
    user_spans: list[tuple[int, int]] = field(default_factory=list)
    replies: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class BlockGeometry:
    """An `ImageBlock` that has no place in a sequence yet."""

    picture: int
    scale: int
    rows: int
    cols: int
    boxes: np.ndarray
    tiles: np.ndarray

    @property
    def tokens(self) -> int:
        return self.rows * self.cols

    def at(self, start: int) -> ImageBlock:
        return ImageBlock(self.picture, self.scale, start, self.rows, self.cols, self.boxes, self.tiles)


@dataclass(frozen=True)
class TokenGrid:
    """How a tile becomes tokens: patch side in pixels, patches merged per token side, and the token order."""

    patch: int
    merge: int
    transposed: bool = False

    def side(self, size: int) -> int:
        """Tokens along one side of a tile of `size` pixels."""
        return -(-(size // self.patch) // self.merge)


def picture_blocks(
    picture: int, width: int, height: int, options: TilingOptions, grid: TokenGrid, *, tiled: bool
) -> list[BlockGeometry]:
    """The blocks of one picture in the order of their ``<image>`` markers.

    ``dynamic`` gives every tile a block of its own; ``dynamic_s2`` gives one block over the whole picture, whose grid
    is the finest one (or the square of the scale that the checkpoint selects).

    Parameters
    ----------
    picture : int
        Index that the blocks carry.
    width, height : int
        The original picture in pixels.
    tiled : bool
        See `vila_lab.nvila.tiling.plan_crops`.
    """
    crops = plan_crops(width, height, options, tiled=tiled)
    if tiled and options.is_multiscale:
        chosen = crops[options.output_scale]
        return [
            _whole_block(
                picture,
                chosen.columns,
                chosen.rows,
                chosen.scale,
                (0.0, 0.0, float(width), float(height)),
                options,
                grid,
            )
        ]
    blocks: list[BlockGeometry] = []
    for crop in crops:
        frame = picture_box(width, height, options)
        whole = _whole_block(picture, crop.columns, crop.rows, crop.scale, frame, options, grid)
        blocks.extend(_split_tiles(whole, crop.tiles, first_tile=len(blocks)))
    clip = np.array([width, height, width, height], dtype=np.float64)
    return [BlockGeometry(b.picture, b.scale, b.rows, b.cols, np.clip(b.boxes, 0.0, clip), b.tiles) for b in blocks]


def _whole_block(
    picture: int,
    columns: int,
    rows: int,
    scale: int,
    frame: tuple[float, float, float, float],
    options: TilingOptions,
    grid: TokenGrid,
) -> BlockGeometry:
    side = grid.side(options.size)
    unit = cell_boxes(columns, rows, options.size, grid.patch, grid.merge, transposed=grid.transposed)
    left, top, right, bottom = frame
    boxes = unit * [right - left, bottom - top, right - left, bottom - top] + [left, top, left, top]
    tiles = np.arange(rows * columns).reshape(rows, columns).repeat(side, axis=0).repeat(side, axis=1).reshape(-1)
    return BlockGeometry(picture, scale, rows * side, columns * side, boxes, tiles)


def _split_tiles(block: BlockGeometry, tiles: int, first_tile: int) -> list[BlockGeometry]:
    if tiles == 1:
        return [
            BlockGeometry(block.picture, block.scale, block.rows, block.cols, block.boxes, block.tiles + first_tile)
        ]
    side = math.isqrt(block.tokens // tiles)
    return [
        BlockGeometry(
            block.picture,
            block.scale,
            side,
            side,
            block.boxes[block.tiles == k],
            block.tiles[block.tiles == k] + first_tile,
        )
        for k in range(tiles)
    ]
