"""The token map's round trip: from a box of pixels to tokens and back, for every tiling, on pictures of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_lab.errors import OptionError, PromptError
from vila_lab.families.nvila import token_map_of
from vila_lab.nvila.layout import PromptLayout, TokenGrid, picture_blocks
from vila_lab.nvila.tiling import TilingOptions
from vila_lab.tokenmap import Kind, TokenMap

# One entry per way of turning a picture into tokens: the checkpoints' own numbers.
TILINGS = {
    "one tile, 2x2": (TilingOptions("resize", 448), TokenGrid(14, 2), False),
    "one tile, 3x3": (TilingOptions("resize", 448), TokenGrid(14, 3), False),
    "embedded": (TilingOptions("resize", 96), TokenGrid(8, 2), False),
    "tiles and thumbnail, 3x3": (TilingOptions("dynamic", 448), TokenGrid(14, 3), True),
    "tiles and thumbnail, 2x2": (TilingOptions("dynamic", 448), TokenGrid(14, 2), True),
    "three scales": (TilingOptions("dynamic_s2", 448, scales=(448, 896, 1344)), TokenGrid(14, 2), True),
}
SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000)) | st.sampled_from(
    [(1, 1), (20000, 10), (10, 20000), (448, 448), (449, 447)]
)


def map_of(size: tuple[int, int], tiling: str, pictures: int = 1) -> TokenMap:
    options, grid, tiled = TILINGS[tiling]
    geometry = [block for k in range(pictures) for block in picture_blocks(k, *size, options, grid, tiled=tiled)]
    blocks, separators, position = [], [], 2
    for block in geometry:
        placed = block.at(position)
        blocks.append(placed)
        separators.append(placed.stop)
        position = placed.stop + 1
    length = position + 3
    offsets = np.zeros((length, 2), int)
    offsets[-3:] = [(0, 2), (2, 4), (4, 6)]
    layout = PromptLayout("What is", np.zeros(length, int), offsets, blocks, np.array(separators), [(0, 4)])
    return token_map_of(layout, [size] * pictures)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, tiling=st.sampled_from(sorted(TILINGS)), data=st.data())
def test_tokens_of_a_box_are_those_whose_box_meets_it(size, tiling, data):
    tokens = map_of(size, tiling)
    width, height = size
    x0 = data.draw(st.floats(0, width * 0.9))
    y0 = data.draw(st.floats(0, height * 0.9))
    box = (
        x0,
        y0,
        x0 + data.draw(st.floats(0.01, 1)) * (width - x0) + 1e-6,
        y0 + data.draw(st.floats(0.01, 1)) * (height - y0) + 1e-6,
    )
    found = set(tokens.tokens_in(0, box).tolist())
    for position in tokens.positions("image_1"):
        left, top, right, bottom = tokens.box[position]
        overlap = max(0.0, min(right, box[2]) - max(left, box[0])) * max(0.0, min(bottom, box[3]) - max(top, box[1]))
        assert (overlap > 0) == (position in found)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, tiling=st.sampled_from(sorted(TILINGS)))
def test_every_scale_covers_every_pixel_once(size, tiling):
    tokens = map_of(size, tiling)
    mine = tokens.positions("image_1")
    width, height = size
    for scale in np.unique(tokens.scale[mine]):
        boxes = tokens.box[mine[tokens.scale[mine] == scale]]
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
        assert area == pytest.approx(width * height, rel=1e-9)
        for x, y in ((0.01, 0.01), (0.5, 0.5), (0.99, 0.99), (0.01, 0.99)):
            inside = (
                (boxes[:, 0] <= x * width)
                & (x * width < boxes[:, 2])
                & (boxes[:, 1] <= y * height)
                & (y * height < boxes[:, 3])
            )
            assert inside.sum() == 1


@settings(max_examples=40, deadline=None)
@given(size=SIZES, tiling=st.sampled_from(sorted(TILINGS)), seed=st.integers(0, 1000))
def test_a_heatmap_keeps_the_sum_of_its_tokens(size, tiling, seed):
    tokens = map_of(size, tiling, pictures=2)
    values = np.random.default_rng(seed).random(len(tokens))
    for picture in range(2):
        heat = tokens.heatmap(values, picture)
        assert heat.shape == tokens.grid(picture)
        assert heat.min() >= 0
        assert heat.sum() == pytest.approx(values[tokens.positions(f"image_{picture + 1}")].sum(), rel=1e-9)


@pytest.mark.parametrize("tiling", sorted(TILINGS))
@pytest.mark.parametrize("size", [(300, 100), (37, 211), (640, 480)])
def test_one_token_paints_its_own_box_and_nothing_else(tiling, size):
    tokens = map_of(size, tiling)
    position = int(tokens.positions("image_1")[7])
    values = np.zeros(len(tokens))
    values[position] = 1.0
    heat = tokens.heatmap(values, 0, grid=(96, 96))
    x0, y0, x1, y1 = tokens.box[position]
    ys, xs = np.nonzero(heat)
    width, height = size
    assert xs.min() / 96 * width <= x0 + 1e-6
    assert (xs.max() + 1) / 96 * width >= x1 - 1e-6
    assert (xs.max() - 1) / 96 * width < x1
    assert ys.min() / 96 * height <= y0 + 1e-6
    assert (ys.max() + 1) / 96 * height >= y1 - 1e-6
    assert (ys.max() - 1) / 96 * height < y1


def test_a_single_tile_keeps_its_cells():
    tokens = map_of((300, 100), "embedded")
    assert tokens.grid(0) == (6, 6)
    values = np.zeros(len(tokens))
    mine = tokens.positions("image_1")
    values[mine] = np.arange(36)
    np.testing.assert_allclose(tokens.heatmap(values, 0), np.arange(36).reshape(6, 6), rtol=1e-12)


def test_groups_split_the_sequence():
    tokens = map_of((300, 100), "tiles and thumbnail, 3x3", pictures=2).with_answer(4)
    groups = ["image_1", "image_2", "prompt", "answer"]
    assert tokens.indicator(groups).sum(1).tolist() == [1.0] * len(tokens)
    assert tokens.positions("answer").tolist() == list(range(len(tokens) - 4, len(tokens)))
    assert set(tokens.positions("images")) == set(tokens.positions("image_1")) | set(tokens.positions("image_2"))
    assert tokens.positions("text").size == 2
    assert set(tokens.picture[tokens.kind == Kind.SEPARATOR]) == {0, 1}


def test_with_answer_replaces_the_answer():
    tokens = map_of((30, 30), "embedded")
    assert len(tokens.with_answer(5).with_answer(2)) == len(tokens) + 2


def test_frame_tells_each_position():
    frame = map_of((30, 30), "embedded").with_answer(1).to_frame()
    assert (frame.kind == "image").sum() == 36
    assert frame[frame.kind == "image"].picture.eq(1).all()
    assert frame[frame.kind != "image"].x0.isna().all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.positions("image_3"), "there is no image_3: the prompt has 1 picture, image_1"),
        (lambda t: t.positions("pictures"), "unknown group of positions 'pictures'"),
        (lambda t: t.tokens_in(0, (5, 5, 5, 9)), "is empty"),
        (lambda t: t.tokens_in(1, (0, 0, 1, 1)), "there is no picture 1"),
        (lambda t: t.heatmap(np.zeros(3), 0), "the values have 3 positions"),
    ],
    ids=["image", "group", "box", "picture", "short"],
)
def test_a_wrong_question_gets_one_sentence(ask, message):
    with pytest.raises(OptionError, match=message):
        ask(map_of((30, 30), "embedded"))


def test_fields_of_different_length_are_refused():
    with pytest.raises(PromptError, match="must have one length"):
        TokenMap.build(
            text="a", kinds=[0, 0], spans=[(0, 1)], sizes=[], picture=[-1], tile=[-1], scale=[-1], box=[None]
        )
