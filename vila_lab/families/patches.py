"""Which pixels each patch of a vision tower shows, a rule per way of feeding towers. Knows no attention and runs nothing.

A tower reads its patches in one order, the same in all of its layers; a layer with windows only cuts that order into more pieces.
So a rule gives one row of `Patches` for each patch of a prompt's pictures, in that order. What shows no pixels (a class token,
padding) has no box. The rules:

- `in_tiles`, `in_squares`, `in_canvas`: tiles of one size along the batch axis, in which a class token may stand first;
- `in_groups`, `in_windows`: patches of all pictures packed in the order in which they are merged (Qwen2-VL), or in windows of such
  groups (Qwen2.5-VL);
- `in_lines`: patches of all pictures packed line by line (Pixtral).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..tokenmap import Kind, TokenMap
from .geometry import Canvas, Region, clipped, even, square_around, whole

CLASS_TOKENS: Mapping[str, int] = {"clip_vision_model": 1, "internvl_vision": 1}
"""Tokens in front of a tile's patches, by the tower's model type; none in the others."""


@dataclass(frozen=True, eq=False)
class Patches:
    """All that a tower reads of a prompt's pictures, in the order in which it reads them.

    Attributes
    ----------
    picture : (n,) int32
        Which picture a patch, or the padding or class token beside it, belongs to, from 0.
    tile : (n,) int32
        Which tile of it, from 0.
    box : (n, 4) array
        x0, y0, x1, y1 in pixels of the original picture; NaN where no pixels are shown.

    Examples
    --------
    >>> two = Patches.of(0, [(0, 0, 8, 8), (8, 0, 16, 8)])
    >>> two.showing(0, (9, 4)).tolist(), two.heatmap([0.25, 0.75], 0, [(16, 8)]).tolist()
    ([1], [[0.25, 0.75]])
    """

    picture: NDArray[np.int32]
    tile: NDArray[np.int32]
    box: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.box)

    @staticmethod
    def of(picture: int, box: ArrayLike, tile: int = 0) -> Patches:
        """Patches of one tile.  # (n, 4)"""
        boxes = np.asarray(box, np.float64)
        return Patches(np.full(len(boxes), picture, np.int32), np.full(len(boxes), tile, np.int32), boxes)

    @staticmethod
    def cat(parts: Sequence[Patches]) -> Patches:
        """One behind the other."""
        return Patches(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("picture", "tile", "box"))
        )

    def showing(self, picture: int, point: tuple[float, float] | None = None) -> NDArray[np.int64]:
        """Those that show some of a picture, or one point of it."""
        mine = (self.picture == picture) & ~np.isnan(self.box[:, 0])
        if point is not None:
            x0, y0, x1, y1 = self.box.T
            mine &= (x0 <= point[0]) & (point[0] < x1) & (y0 <= point[1]) & (point[1] < y1)
        return np.flatnonzero(mine)

    def places(self, lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each stands in a layer's items, which have so many patches: the item's number, and its place there.  # (n,), (n,)

        >>> item, place = Patches.of(0, np.zeros((5, 4))).places([2, 3])
        >>> item.tolist(), place.tolist()
        ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
        """
        first = np.cumsum([0, *lengths])[:-1]
        item = np.repeat(np.arange(len(lengths)), lengths)
        return item, np.arange(len(item)) - first[item]

    def heatmap(self, values: ArrayLike, picture: int, sizes: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Spread values over a picture as `TokenMap.heatmap` does.

        Parameters
        ----------
        values : (n,)
        sizes
            (width, height) of all pictures.

        Returns
        -------
        (rows, columns) array
            It sums to the values of the patches that show some of the picture.
        """
        nothing = np.full((len(self), 2), -1, np.int32)
        kind = np.where(np.isnan(self.box[:, 0]), Kind.SEPARATOR, Kind.IMAGE).astype(np.int8)
        shown = TokenMap(kind, self.picture, self.tile, nothing[:, 0], self.box, nothing, "", tuple(sizes))
        return shown.heatmap(values, picture)


@dataclass(frozen=True, eq=False)
class Read:
    """What the rules are told of a prompt's pictures.

    Attributes
    ----------
    token_map : TokenMap
        Of the prompt.
    inputs
        What the processor made of it.
    pixels : str
        Which of them holds the pixels.
    processor, config
        Of the checkpoint.
    """

    token_map: TokenMap
    inputs: Mapping[str, Any]
    pixels: str
    processor: Any
    config: Any

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the original pictures."""
        return self.token_map.sizes

    @property
    def side(self) -> int:
        """Of a tile, in pixels."""
        return int(self.inputs[self.pixels].shape[-1])

    def tiled(self, regions: Sequence[Sequence[Region]]) -> Patches:
        """Patches of tiles, each of which shows a region of its picture; what is no whole patch at the right and bottom is left out.

        Parameters
        ----------
        regions
            For every picture what its tiles show, in pixels of the original picture.
        """
        vision = self.config.vision_config
        height, width = self.inputs[self.pixels].shape[-2:]
        down, across = _pair(vision.patch_size)
        rows, columns = height // down, width // across
        before = np.full((CLASS_TOKENS.get(vision.model_type, 0), 4), np.nan)

        def tile(region: Region) -> NDArray[np.float64]:
            x0, y0, x1, y1 = region
            seen = x0, y0, x0 + (x1 - x0) * columns * across / width, y0 + (y1 - y0) * rows * down / height
            return even(rows, columns, seen).box

        return Patches.cat(
            [
                Patches.of(picture, np.concatenate([before, clipped(tile(region), size)]), number)
                for picture, (size, mine) in enumerate(zip(self.sizes, regions, strict=True))
                for number, region in enumerate(mine)
            ]
        )

    def packed(self, grids: Sequence[tuple[int, int]], order: Callable[[int, int], NDArray[np.int64]]) -> Patches:
        """Patches of pictures that are cut whole into (rows, columns), each picture's in an order.  # order: -> (rows * columns,)"""
        parts = zip(self.sizes, grids, strict=True)
        boxes = [even(*grid, whole(size)).box[order(*grid)] for size, grid in parts]
        return Patches.cat([Patches.of(picture, box) for picture, box in enumerate(boxes)])


Rule: TypeAlias = "Callable[[Read], Patches]"


# -- tiles along the batch axis -----------------------------------------------------------------------------------------


def in_tiles(read: Read) -> Patches:
    """Tiles that show what their visual rows show, in the order of their numbers (Gemma 3, InternVL, Idefics 3 ...)."""
    return read.tiled([_covered(read.token_map, picture) for picture in range(len(read.sizes))])


def in_squares(read: Read) -> Patches:
    """Each picture in the middle of a square of one colour (LLaVA with `do_pad`, LLaVA-OneVision with several pictures)."""
    return read.tiled([[square_around(size)] for size in read.sizes])


def in_canvas(read: Read) -> Patches:
    """The whole picture squashed, and then tiles of a padded enlargement (LLaVA-NeXT, LLaVA-OneVision with one picture)."""
    pinpoints = read.processor.image_processor.image_grid_pinpoints
    return read.tiled([[whole(size), *Canvas.of(size, pinpoints).tiles(read.side)] for size in read.sizes])


def _covered(token_map: TokenMap, picture: int) -> list[Region]:
    """What the visual rows of each tile of a picture cover together."""
    mine = token_map.positions(f"image_{picture + 1}")
    tile, box = token_map.tile[mine], token_map.box[mine]
    ends = [(*box[tile == number, :2].min(0), *box[tile == number, 2:].max(0)) for number in np.unique(tile)]
    return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in ends]


# -- patches of all pictures in one sequence ----------------------------------------------------------------------------


def in_groups(read: Read) -> Patches:
    """In squares of patches that become one visual row, these row by row (Qwen2-VL, Qwen3-VL, GLM-4V)."""
    merge = int(read.processor.image_processor.merge_size)
    return read.packed(_grids(read), lambda rows, columns: grouped(rows, columns, merge))


def in_windows(read: Read) -> Patches:
    """In windows of such squares; layers that see a whole picture at once keep this order (Qwen2.5-VL)."""
    vision = read.config.vision_config
    merge = int(vision.spatial_merge_size)
    window = int(vision.window_size) // merge // int(vision.patch_size)  # squares along its side
    return read.packed(_grids(read), lambda rows, columns: grouped(rows, columns, window * merge, merge))


def in_lines(read: Read) -> Patches:
    """Row by row (Pixtral, Mistral 3)."""
    patch = int(read.processor.patch_size)
    grids = [(height // patch, width // patch) for height, width in read.inputs["image_sizes"].tolist()]
    return read.packed(grids, lambda rows, columns: np.arange(rows * columns))


def grouped(rows: int, columns: int, *sides: int) -> NDArray[np.int64]:
    """A grid's cells, counted row by row, in the order in which squares of them stand, and smaller squares in these.

    >>> grouped(2, 4, 2)
    array([0, 1, 4, 5, 2, 3, 6, 7])
    >>> grouped(1, 3, 2)  # what is left at the end is a smaller one
    array([0, 1, 2])
    """
    down, across = np.divmod(np.arange(rows * columns), columns)
    keys = [each // side for side in sides for each in (down, across)]
    return np.lexsort([across, down, *reversed(keys)])  # the last key counts first


def _grids(read: Read) -> list[tuple[int, int]]:
    """Patches down and across of each picture."""
    return [(int(rows), int(columns)) for _, rows, columns in read.inputs["image_grid_thw"].tolist()]


def _pair(side: Any) -> tuple[int, int]:
    """A size as height and width."""
    height, width = side if isinstance(side, Sequence) else (side, side)
    return int(height), int(width)
