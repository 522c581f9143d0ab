"""Boxes of visual rows are where a change of the picture changes them: truth found by perturbation, with no rule in sight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.families.checkpoints import COUNTS, GOLDEN, as_golden, golden, prompt, session
from vila_lab.errors import CheckpointError
from vila_lab.families.geometry import even
from vila_lab.tokenmap import Kind

NEAR, NEAR_INTERPOLATED = 3.0, 9.0  # pixels by which a changed row may miss the square: filters reach beyond it
APART = 1.0  # by which an unchanged row may overlap it: bytes of pixels are rounded
ANSWERS, UNTOUCHED = 0.02, 0.01  # of the features' rms


def token_map(name, count):
    family = session(name).family
    return family.prepare(prompt(count), family.options(**as_golden(name))).token_map


def misses(boxes, truth, picture):
    """How far rows that changed lie from the changed square, and how far rows that did not reach into it, at most."""
    squares, rows, response = (truth[f"{what}_{picture}"] for what in ("squares", "positions", "response"))
    near = apart = 0.0
    for square, moved in zip(squares, response, strict=True):
        if moved.max() <= ANSWERS:
            continue
        box = boxes[rows]
        gap = np.maximum(box[:, :2] - square[2:], square[:2] - box[:, 2:]).max(1)  # (rows,), negative where they meet
        changed, has_box = moved > 0.05 * moved.max(), ~np.isnan(gap)
        assert has_box[changed].all()
        near = max(near, gap[changed].max(initial=0))
        apart = max(apart, (-gap[has_box & (moved <= UNTOUCHED)]).max(initial=0))
    return near, apart


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", GOLDEN)
def test_boxes_are_where_rows_change(name, count):
    found = token_map(name, count)
    truth = golden(name, count)
    is_interpolated = name == "llava_onevision" and count == 1
    for picture in range(count):
        near, apart = misses(found.box, truth, picture)
        assert near <= (NEAR_INTERPOLATED if is_interpolated else NEAR)
        assert apart <= APART


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", GOLDEN)
def test_a_picture_owns_the_rows_that_it_changes(name, count):
    """But for rows of padding, which the tower's filter reaches, and which show nothing."""
    found, owner = token_map(name, count), golden(name, count)["owner"]
    shown = found.kind == Kind.IMAGE
    assert np.array_equal(found.picture[shown], owner[shown])
    reached = (owner >= 0) & ~shown
    assert np.all(found.kind[reached] == Kind.SEPARATOR)
    assert np.array_equal(found.picture[reached], owner[reached])
    assert reached.sum() == (5 if name == "llava_onevision" and count > 1 else 0)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_boxes_cover_the_picture_and_not_more(name):
    found = token_map(name, 2)
    for picture, (width, height) in enumerate(found.sizes):
        boxes = found.box[found.positions(f"image_{picture + 1}")]
        assert np.all(boxes >= 0)
        assert np.all(boxes[:, 2:] <= np.array([width, height]) + 1e-6)
        assert np.all(boxes[:, :2] < boxes[:, 2:])
        heat = found.heatmap((found.kind == Kind.IMAGE).astype(float), picture)
        assert heat.sum() == pytest.approx(len(boxes))
        if name not in ("llava", "llava_onevision"):  # a crop leaves sides out, patches that are no whole ones the edge
            assert np.all(heat > 0)


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "idefics3", "llava_next"])
def test_the_truth_tells_a_wrong_rule(name):
    """Boxes a little too large, or in another order, miss: so the test above can fail."""
    found, truth = token_map(name, 1), golden(name, 1)
    larger = misses(found.box * 1.04, truth, 0)
    mine = found.positions("image_1")
    reordered = found.box.copy()
    reordered[mine] = found.box[mine[::-1]]
    assert max(larger) > NEAR
    assert max(misses(reordered, truth, 0)) > 10 * NEAR


def test_another_number_of_rows_is_refused(monkeypatch):
    family = session("qwen2_vl").family
    monkeypatch.setattr(type(family), "rows", lambda seen: even(1, 2, seen.whole))
    with pytest.raises(
        CheckpointError, match=r"picture 1 has \d+ visual rows in the prompt, and the rule of its family gives 2"
    ):
        family.prepare(prompt(1))


def test_rows_that_are_no_square_are_refused(monkeypatch):
    family = session("paligemma").family
    rows = type(family).rows
    monkeypatch.setattr(type(family), "rows", lambda seen: rows(replace(seen, rows=seen.rows + 1)))
    with pytest.raises(CheckpointError, match="no square grid"):
        family.prepare(prompt(1))
