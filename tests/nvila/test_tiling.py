"""The grid chooser follows the reference, and the boxes of a tiling cover the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_lab.nvila.layout import BlockGeometry, TokenGrid, picture_blocks
from vila_lab.nvila.tiling import TilingOptions, candidate_grids, choose_grid, plan_crops

DYNAMIC = TilingOptions("dynamic", 448)
MULTISCALE = TilingOptions("dynamic_s2", 448, scales=(448, 896, 1344))
SQUASHED = TilingOptions("resize", 448)
PADDED = TilingOptions("pad", 448)
GRID = TokenGrid(patch=14, merge=2)


@pytest.mark.parametrize(
    ("size", "multiscale", "dynamic"),
    [
        ((448, 448), (3, 3), (1, 1)),
        ((224, 224), (3, 3), (1, 1)),
        ((100, 100), (3, 3), (1, 1)),
        ((1000, 1000), (3, 3), (3, 3)),
        ((640, 480), (4, 3), (4, 3)),
        ((800, 600), (4, 3), (4, 3)),
        ((480, 640), (3, 4), (3, 4)),
        ((1920, 1080), (4, 3), (4, 2)),
        ((1080, 1920), (2, 5), (2, 4)),
        ((1500, 1000), (4, 3), (3, 2)),
        ((1024, 256), (6, 2), (4, 1)),
        ((3000, 300), (10, 1), (10, 1)),
    ],
)
def test_worked_choices(size: tuple[int, int], multiscale: tuple[int, int], dynamic: tuple[int, int]) -> None:
    assert choose_grid(*size, 448, 9, 12) == multiscale
    assert choose_grid(*size, 448, 1, 12) == dynamic
    (block,) = picture_blocks(0, *size, MULTISCALE, GRID, tiled=True)
    assert block.tokens == multiscale[0] * multiscale[1] * 256
    lite = picture_blocks(0, *size, DYNAMIC, TokenGrid(14, 3), tiled=True)
    tiles = dynamic[0] * dynamic[1]
    assert sum(each.tokens for each in lite) == (tiles + (tiles > 1)) * 121


def test_order_of_equal_areas() -> None:
    expected = [
        (3, 3),
        (9, 1),
        (1, 9),
        (10, 1),
        (1, 10),
        (2, 5),
        (5, 2),
        (11, 1),
        (1, 11),
        (1, 12),
        (6, 2),
        (12, 1),
        (3, 4),
        (4, 3),
        (2, 6),
    ]
    assert list(candidate_grids(9, 12)) == expected


def test_tiles_of_a_multiscale_picture() -> None:
    crops = plan_crops(640, 480, MULTISCALE, tiled=True)
    assert [(crop.columns, crop.rows, crop.scale) for crop in crops] == [(1, 1, 0), (2, 2, 1), (4, 3, 2)]


SIZES = [(1, 1), (20000, 10), (10, 20000), (333, 77), (77, 333), (640, 480), (449, 447), (1000, 1000)]
MODES = {"dynamic": DYNAMIC, "dynamic_s2": MULTISCALE, "resize": SQUASHED, "pad": PADDED}


def _by_view(blocks: list[BlockGeometry]) -> dict[int, np.ndarray]:
    scales = {block.scale for block in blocks}
    return {scale: np.concatenate([block.boxes for block in blocks if block.scale == scale]) for scale in scales}


def _assert_partition(boxes: np.ndarray, width: int, height: int) -> None:
    """The boxes tile the picture: they stay inside, and every pixel's centre lies in exactly one of them."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width + 1e-9).all()
    assert (boxes[:, 3] <= height + 1e-9).all()
    assert area.sum() == pytest.approx(width * height)
    points = np.random.default_rng(0).uniform((0, 0), (width, height), (200, 2))
    inside = (points[:, None] >= boxes[None, :, :2]).all(-1) & (points[:, None] < boxes[None, :, 2:]).all(-1)
    assert (inside.sum(1) == 1).all()


@pytest.mark.parametrize("merge", [2, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_every_view_covers_the_picture(mode: str, size: tuple[int, int], merge: int) -> None:
    blocks = picture_blocks(0, *size, MODES[mode], TokenGrid(14, merge), tiled=True)
    for boxes in _by_view(blocks).values():
        _assert_partition(boxes, *size)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(sorted(MODES)))
@settings(max_examples=30, deadline=None)
def test_any_size(width: int, height: int, mode: str) -> None:
    for boxes in _by_view(picture_blocks(0, width, height, MODES[mode], GRID, tiled=True)).values():
        _assert_partition(boxes, width, height)


@pytest.mark.parametrize("mode", MODES)
def test_untiled_is_one_block_over_the_picture(mode: str) -> None:
    (block,) = picture_blocks(3, 640, 480, MODES[mode], GRID, tiled=False)
    assert (block.picture, block.rows, block.cols, block.scale) == (3, 16, 16, 0)
    assert set(block.tiles.tolist()) == {0}
    _assert_partition(block.boxes, 640, 480)


def test_unseen_margin_belongs_to_no_token() -> None:
    """384 / 14 leaves 6 pixels: 13 cells of 28 and one of 14 see the first 378 of 384."""
    (block,) = picture_blocks(0, 384, 768, TilingOptions("resize", 384), GRID, tiled=False)
    assert (block.rows, block.cols) == (14, 14)
    np.testing.assert_allclose(block.boxes[13], [364, 0, 378, 56])
    assert block.boxes[:, 3].max() == pytest.approx(2 * 378)


def test_tiles_count_within_the_picture_and_the_thumbnail_is_last() -> None:
    blocks = picture_blocks(0, 640, 480, DYNAMIC, GRID, tiled=True)
    assert [int(block.tiles[0]) for block in blocks] == list(range(13))
    assert [block.scale for block in blocks] == [1] * 12 + [0]
    np.testing.assert_allclose(blocks[5].boxes[0, :2], [160, 160])  # second row, second column of 4 x 3
    np.testing.assert_allclose(blocks[12].boxes[-1, 2:], [640, 480])


def test_multiscale_tokens_are_row_major_over_the_picture() -> None:
    (block,) = picture_blocks(0, 640, 480, MULTISCALE, GRID, tiled=True)
    assert (block.rows, block.cols, block.scale) == (48, 64, 2)
    assert block.tiles[16] == 1
    assert block.tiles[16 * 64] == 4
    np.testing.assert_allclose(block.boxes[65], [10, 10, 20, 20])


def test_transposed_tokens_run_down_the_columns() -> None:
    straight, turned = (
        picture_blocks(0, 100, 50, SQUASHED, TokenGrid(14, 2, transposed), tiled=False)[0].boxes.reshape(16, 16, 4)
        for transposed in (False, True)
    )
    np.testing.assert_array_equal(turned, straight.transpose(1, 0, 2))


def test_padding_has_boxes_without_area() -> None:
    (block,) = picture_blocks(0, 400, 100, PADDED, GRID, tiled=True)
    boxes = block.boxes.reshape(16, 16, 4)
    assert (boxes[0, :, 3] == boxes[0, :, 1]).all()
    np.testing.assert_allclose(boxes[8, 0], [0, 50, 25, 75])
