"""Metrics on maps whose value is known: flat, inverted, perfect, tied."""

from __future__ import annotations

import numpy as np
import pytest

from vila_lab.attribution.registry import target_of
from vila_lab.errors import OptionError
from vila_lab.evidence.bootstrap import interval
from vila_lab.evidence.metrics import Curves, boxes_by_picture, curves, energy_in_box, pointing, sink_share

SIZE = (60, 40)
BOX = (15.0, 0.0, 30.0, 20.0)  # two cells of an 4 x 4 grid


def perfect() -> np.ndarray:
    heat = np.zeros((4, 4))
    heat[:2, 1] = 1
    return heat


@pytest.mark.parametrize(
    ("heat", "hit", "energy"),
    [
        (perfect(), 1.0, 1.0),
        (1 - perfect(), 0.0, 0.0),
        (np.ones((4, 4)), 2 / 16, 2 / 16),
        (np.zeros((4, 4)), 2 / 16, 2 / 16),
        (-perfect(), 2 / 16, 2 / 16),
    ],
    ids=["perfect", "inverted", "flat", "empty", "negative"],
)
def test_known_maps_score_known_values(heat, hit, energy):
    assert pointing(heat, SIZE, [BOX]) == pytest.approx(hit)
    assert energy_in_box(heat, SIZE, [BOX]) == pytest.approx(energy)


def test_a_tie_across_the_boxs_border_is_half_a_hit():
    heat = np.zeros((4, 4))
    heat[0, 1] = heat[3, 3] = 1
    assert pointing(heat, SIZE, [BOX]) == 0.5


def test_random_maps_point_right_as_often_as_a_flat_one_says():
    maps = np.random.default_rng(0).random((2000, 4, 4))
    found = np.mean([pointing(heat, SIZE, [BOX]) for heat in maps])
    assert found == pytest.approx(pointing(np.ones((4, 4)), SIZE, [BOX]), abs=0.03)


def test_width_and_height_are_not_mixed_up():
    heat = np.zeros((2, 6))
    heat[0, 5] = 1
    assert pointing(heat, (120, 20), [(100, 0, 120, 10)]) == 1
    assert pointing(heat, (120, 20), [(0, 10, 20, 20)]) == 0


def test_a_box_smaller_than_a_cell_can_be_hit():
    heat = np.zeros((2, 2))
    heat[1, 0] = 1
    assert pointing(heat, (20, 20), [(1, 11, 3, 13)]) == 1
    assert energy_in_box(heat, (20, 20), [(1, 11, 3, 13)]) == pytest.approx(0.04)


def test_the_numbers_of_given_curves():
    found = Curves((0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0), (1,) * 7 + (0,), (0,) + (1,) * 7)
    assert found.deletion_auc == pytest.approx(0.875)
    assert found.insertion_auc == pytest.approx(0.975)
    assert found.comprehensiveness == 0
    assert found.sufficiency == 0


def test_deletion_ends_where_insertion_begins(answer):
    replay = answer.replay
    target = target_of(replay, 0)
    scores = np.zeros(len(answer.token_map))
    scores[answer.token_map.positions("image_2")] = 1
    found = curves(replay, target, scores)
    assert found.deletion[0] == pytest.approx(found.insertion[-1], rel=1e-5)
    assert found.deletion[-1] == pytest.approx(found.insertion[0], rel=1e-5)
    assert found.deletion[0] == pytest.approx(answer.tokens[0].probability, rel=1e-3)


def test_deletion_takes_the_best_first(answer):
    """With the tokens of picture 2 ranked first, taking their share away is leaving picture 2 out."""
    replay = answer.replay
    mine = answer.token_map.positions("image_2")
    share = len(mine) / len(answer.token_map.positions("images"))
    assert share == 0.5
    scores = np.zeros(len(answer.token_map))
    scores[mine] = 1
    found = curves(replay, target_of(replay, 0), scores)
    left = answer.attribute("leave_one_out", 0)
    without = left.checks["all"] - left.total()["image_2"]
    assert np.log(found.deletion[found.fractions.index(0.5)]) == pytest.approx(without, abs=1e-4)


def test_sinks_are_counted_by_absolute_value(answer):
    attribution = answer.attribute("attention", sinks=True)
    sinks = answer.sinks
    expected = attribution.values[:, sinks].sum() / attribution.values.sum()
    assert sink_share(attribution, sinks) == pytest.approx(expected)
    assert sink_share(answer.attribute("attention"), sinks) == 0


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({0: (0, 0, 61, 10)}, "is not inside picture 1, which is 60 x 40"),
        ({2: BOX}, "there is no picture 2: the prompt has 1"),
        ([BOX], "boxes= takes"),
    ],
    ids=["outside", "no such picture", "no dict"],
)
def test_a_wrong_box_gets_one_sentence(boxes, message):
    with pytest.raises(OptionError, match=message):
        boxes_by_picture(boxes, [SIZE])


def test_one_box_or_several():
    assert boxes_by_picture({0: BOX}, [SIZE]) == boxes_by_picture({0: [BOX]}, [SIZE]) == {0: [BOX]}


def test_the_interval_holds_the_mean_and_narrows():
    values = np.random.default_rng(0).random(400)
    few, many = interval(values[:25]), interval(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    with pytest.raises(OptionError, match="nothing to average"):
        interval([])
