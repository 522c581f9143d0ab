"""The drawn world: what a scene says it holds is what is painted there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pool import CELLS, draw_one, draw_pool, pack
from training.sets import coarse
from training.weather import weathered
from vila_lab.tiny.backgrounds import HELD_OUT_STYLES, STYLES, TEXTURES
from vila_lab.tiny.names import INDEX, OBJECTS, THINGS
from vila_lab.tiny.world import draw_scene, held_out, sprites

NAMES = st.lists(st.sampled_from([t.name for t in THINGS]), min_size=1, max_size=4, unique=True)
CANVAS = st.tuples(st.integers(48, 300), st.integers(48, 300))


def test_every_thing_has_a_sprite():
    assert set(sprites()) == set(INDEX)
    assert all(max(sprite.size) == 96 for sprite in sprites().values())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), names=NAMES, size=CANVAS)
def test_boxes_lie_inside_and_masks_fit_them(seed, names, size):
    scene = draw_scene(np.random.default_rng(seed), names, size=size)
    assert sorted(scene.names) == sorted(names)
    assert scene.image.size == size
    for placed in scene.placed:
        x0, y0, x1, y1 = placed.box
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        assert placed.mask.shape == (y1 - y0, x1 - x0)
    centres = [placed.centre[0] for placed in scene.placed]
    assert centres == sorted(centres)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), names=NAMES)
def test_things_do_not_overlap(seed, names):
    scene = draw_scene(np.random.default_rng(seed), names, size=(160, 120))
    covered = np.zeros((120, 160), int)
    for placed in scene.placed:
        x0, y0, x1, y1 = placed.box
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1


def test_pixels_differ_from_the_background_exactly_where_the_mask_says():
    scene = draw_scene(np.random.default_rng(5), ["cat"], style="plain", size=(120, 90))
    pixels = np.asarray(scene.image).astype(int)
    ((x0, y0, x1, y1),) = (placed.box for placed in scene.placed)
    outside = np.ones((90, 120), bool)
    outside[y0:y1, x0:x1] = False
    assert (pixels[outside] == pixels[outside][0]).all()
    inside = np.abs(pixels[y0:y1, x0:x1] - pixels[outside][0]).sum(-1) > 0
    assert (inside | ~scene.placed[0].mask).mean() > 0.99


def test_a_seed_is_a_scene():
    one, other = (draw_scene(np.random.default_rng(3), ["dog", "key"]) for _ in range(2))
    assert np.array_equal(one.image, other.image)
    assert [p.box for p in one.placed] == [p.box for p in other.placed]


def test_labels_name_the_thing_that_covers_the_cell():
    scene = draw_scene(np.random.default_rng(1), ["pizza"], size=(96, 96))
    labels = scene.labels(CELLS)
    x, y = (int(c) * CELLS // 96 for c in scene.placed[0].centre)
    assert labels[y, x] == INDEX["pizza"]
    assert set(np.unique(labels)) == {-1, INDEX["pizza"]}


@pytest.mark.parametrize("style", STYLES + TEXTURES)
def test_about_one_pair_in_seven_is_held_out(style):
    share = np.mean([held_out(t.name, style) for t in THINGS])
    assert 0.08 < share < 0.2


def test_training_pictures_keep_off_held_out_pairs_and_styles():
    drawn = [draw_one(np.random.default_rng(seed)) for seed in range(200)]
    assert {scene.style for scene in drawn} == {*STYLES, *TEXTURES}
    assert not {*HELD_OUT_STYLES} & {*STYLES, *TEXTURES}
    singles = [scene for scene in drawn if len(scene.names) == 1]
    assert not any(held_out(scene.names[0], scene.style) for scene in singles)


@pytest.mark.parametrize("style", STYLES + TEXTURES + HELD_OUT_STYLES)
def test_every_background_is_drawn_and_a_seed_of_its_own(style):
    scenes = [draw_scene(np.random.default_rng(seed), ["Apple"], style=style, size=(120, 96)) for seed in (0, 0, 1)]
    first, again, other = (np.asarray(scene.image) for scene in scenes)
    assert first.shape == (96, 120, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    (x0, y0, x1, y1), mask = scenes[0].placed[0].box, scenes[0].placed[0].mask
    inside = first[y0:y1, x0:x1][mask].astype(float).mean()
    outside = np.ones(first.shape[:2], bool)
    outside[y0:y1, x0:x1] = False
    assert abs(inside - first[outside].astype(float).mean()) > 60  # a mark can be seen, light on dark or dark on light


def test_an_unknown_background_is_named():
    with pytest.raises(ValueError, match="'tartan'; known: plain"):
        draw_scene(np.random.default_rng(0), ["cat"], style="tartan")


def test_weather_changes_the_light_and_leaves_things_in_their_place():
    scene = draw_scene(np.random.default_rng(3), ["cat"], style="plain", size=(120, 96))
    (box,) = (placed.box for placed in scene.placed)
    outside = np.ones((96, 120), bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    for seed in range(30):
        image = weathered(np.random.default_rng(seed), scene.image)
        assert image.size == scene.image.size
        assert image.mode == "RGB"
        pixels = np.asarray(image, float)
        assert (
            pixels[~outside].std(axis=0).mean() > 1.5 * pixels[outside].std(axis=0).mean()
        )  # still only the cat stands out


def test_the_pool_does_not_depend_on_the_workers():
    one, two = (draw_pool(300, seed=7, workers=w) for w in (1, 2))
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(one.things, two.things)


def test_a_pool_row_describes_its_scene():
    scenes = [draw_scene(np.random.default_rng(k), ["cat", "hat"][: 1 + k % 2]) for k in range(6)]
    pool = pack(scenes)
    assert pool.counts.tolist() == [len(s.placed) for s in scenes]
    assert [r for r, s in enumerate(scenes) if s.names == ("cat",)] == pool.with_thing[INDEX["cat"], 1]


def test_coarse_labels_follow_the_majority_of_the_foreground():
    labels = np.full((1, CELLS, CELLS), -1, np.int8)
    labels[0, 0, 0] = 4  # one patch of four is enough
    labels[0, 0, 2], labels[0, 1, 2], labels[0, 1, 3] = 7, 7, 9
    found = coarse(labels)[0]
    assert found[0] == 4
    assert found[1] == 7
    assert (found[2:] == -1).all()


def test_the_names_asked_for_are_there():
    assert len(OBJECTS) >= 52
    assert len(THINGS) - len(OBJECTS) >= 12
    assert len({t.chinese for t in THINGS}) == len({t.name for t in THINGS}) == len(THINGS)
