"""The metric card: its rows, its wording, its errors."""

from __future__ import annotations

import numpy as np
import pytest

import vila_lab
from vila_lab.errors import CaptureError, OptionError
from vila_lab.evidence.card import DIRECTIONS

BOX = (10, 10, 100, 100)


@pytest.mark.parametrize("method", ["attention", "leave_one_out", "relevancy"])
def test_every_method_stands_beside_maps_that_know_nothing(answer, method):
    card = answer.metric_card(method, boxes={1: BOX})
    assert list(card.table.index) == [method, "flat map", "random map", "random weights"]
    assert set(card.table.columns) == set(DIRECTIONS)
    assert np.isfinite(card.table.to_numpy()).all()
    html = card._repr_html_()
    assert all(name in html for name in (*DIRECTIONS, "flat map", "random weights"))
    assert ("not make a map causal evidence" in repr(card)) == (method != "leave_one_out")


def test_the_flat_map_scores_chance(answer):
    card = answer.metric_card("attention", boxes={0: (0, 0, *(side / 2 for side in answer.token_map.sizes[0]))})
    assert card.table.loc["flat map", "energy in box"] == pytest.approx(0.25)
    assert card.table.loc["flat map", "pointing"] == pytest.approx(0.25, abs=0.15)  # cells do not end at the middle


def test_without_boxes_nothing_points(answer):
    assert "pointing" not in answer.metric_card("attention", 0).table


def test_attentions_sinks_are_counted_though_its_map_leaves_them_out(answer):
    assert answer.metric_card("attention").table.loc["attention", "sink share"] > 0


def test_what_the_answer_stands_on_goes_first(microsoft):
    table = microsoft.metric_card("leave_one_out", 0).table
    assert table.loc["leave_one_out", "deletion AUC"] < table.loc["flat map", "deletion AUC"]
    assert table.loc["leave_one_out", "insertion AUC"] > table.loc["flat map", "insertion AUC"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gaze"}, "unknown method 'gaze'; known: attention"),
        ({"method": "phrases"}, "no map to measure"),
        ({"method": "attention", "boxes": {0: (0, 0, 9999, 5)}}, "is not inside picture 1"),
        ({"method": "attention", "boxes": {5: BOX}}, "there is no picture 5"),
        ({"method": "attention", "boxes": [BOX]}, "boxes= takes {picture"),
        ({"method": "attention", "boxes": {0: 5}}, "the boxes of picture 1 must be"),
        ({"method": "attention", "boxes": {0: (1, 2, 3)}}, "the boxes of picture 1 must be"),
        ({"method": "attention", "baseline": "black"}, "unknown baseline 'black'"),
    ],
    ids=["method", "phrases", "box", "picture", "boxes", "number", "three", "baseline"],
)
def test_a_wrong_option_gets_one_sentence(answer, arguments, message):
    with pytest.raises(OptionError, match=message):
        answer.metric_card(**arguments)


def test_without_a_picture_there_is_nothing_to_measure(lab):
    answer = lab.ask("Hello", max_new_tokens=1)
    for call in (lambda: answer.metric_card("attention"), lambda: answer.plot("curves")):
        with pytest.raises(OptionError, match="the prompt has no picture"):
            call()


def test_a_picture_as_a_baseline_is_named_in_words(answer):
    assert answer.metric_card("attention", 0, baseline=np.zeros((8, 8, 3), np.uint8)).baseline == "another picture"


def test_a_saved_answer_has_no_model(answer, tmp_path):
    with pytest.raises(CaptureError, match="ask again"):
        vila_lab.open(answer.save(tmp_path / "a.vila")).metric_card("attention")
