"""From a real answer to its view: every reading, the question's words, tiles, boxes, edits, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import vila_lab
from vila_lab.errors import CaptureError, OptionError
from vila_lab.view import view_of
from vila_lab.view.of_answer import reading_of
from vila_lab.view.payload import pack


@pytest.fixture(scope="module")
def answer():
    folder = vila_lab.demo_images()
    return vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])


def attention_of(view, **kind):
    wanted = {"name": "attention", "layer": None, "heads": "", "sinks": False} | kind
    (found,) = [one for one in view.readings if all(getattr(one, key) == value for key, value in wanted.items())]
    return found


def test_every_layer_by_itself_averages_to_the_first_map(answer):
    view = view_of(answer.record)
    layers = [one for one in view.readings if one.layer is not None]
    assert [one.layer for one in layers] == list(range(answer.layer_means().shape[1]))
    for k in range(2):
        np.testing.assert_allclose(np.mean([one.heatmaps[k] for one in layers], 0), view.heatmaps[k], atol=1e-7)
    np.testing.assert_allclose(np.mean([one.numbers for one in layers], 0), view.ledger, atol=1e-6)
    assert not [one for one in view_of(answer.record, layers=False).readings if one.layer is not None]


def test_a_head_computed_on_demand_is_one_of_those_that_make_the_layer(answer):
    heads = answer.attention(layer=1).sizes["head"]
    alone = [reading_of(answer.record, layer=1, head=head) for head in range(heads)]
    whole = attention_of(view_of(answer.record), layer=1)
    np.testing.assert_allclose(np.mean([one.heatmaps[1] for one in alone], 0), whole.heatmaps[1], atol=1e-6)
    assert "layer 1" in alone[0].method
    assert "head 0 only" in alone[0].method


def test_counting_sinks_in_moves_their_share_to_where_they_lie(answer):
    view = view_of(answer.record)
    with_sinks = attention_of(view, sinks=True)
    np.testing.assert_allclose(with_sinks.numbers.sum(1), 1, atol=1e-6)
    assert (with_sinks.numbers[:, -1] == 0).all()
    assert view.ledger[:, -1].max() > 0
    assert "counted in" in with_sinks.method


def test_head_sets_of_the_session_are_readings(answer):
    named = {one.heads.split()[0] for one in view_of(answer.record).readings if one.heads}
    assert named == set(answer.replay.head_sets)


def test_the_words_of_the_question_join_to_it_and_hold_its_share(answer):
    view = view_of(answer.record)
    assert "".join(word for word in view.words if isinstance(word, str)).strip() == "What is in image 2?"
    assert [word for word in view.words if isinstance(word, int)] == [0, 1]
    assert view.word_shares.shape == (len(view.tokens), sum(isinstance(word, str) for word in view.words))
    assert (view.word_shares.sum(1) <= view.ledger[:, 2] + 1e-6).all()
    assert view.word_shares.sum() > 0


def test_an_attribution_becomes_a_signed_reading_with_its_words(answer):
    found = answer.attribute("leave_one_out")
    (reading,) = [one for one in view_of(answer.record, attributions=[found]).readings if one.name == "leave_one_out"]
    rows = found.per_image()[["image_1", "image_2"]].to_numpy()[: len(reading.numbers)]
    np.testing.assert_allclose(reading.numbers[:, :2], rows, atol=1e-6)
    np.testing.assert_allclose(reading.total_numbers[:2], found.total()[["image_1", "image_2"]], atol=1e-6)
    np.testing.assert_allclose(reading.heatmaps[1][0], found.heatmap(1, 0), atol=1e-9)
    assert not reading.shares
    assert "signed" in reading.method
    assert f"{found.cost.forwards} forwards" in reading.method


def test_an_attribution_of_one_token_leaves_the_others_without_a_number(answer):
    found = answer.attribute("leave_one_out", token=0)
    (reading,) = [one for one in view_of(answer.record, attributions=[found]).readings if one.name == "leave_one_out"]
    assert np.isnan(reading.numbers[1]).all()
    assert np.isfinite(reading.numbers[0, :2]).all()
    assert reading.missing


def test_an_attribution_that_the_answer_keeps_is_shown(answer):
    answer.heatmap(1, None, "leave_one_out")
    assert "leave_one_out" in answer._repr_mimebundle_()["text/html"]


def test_an_attribution_of_another_answer_is_refused(answer):
    folder = vila_lab.demo_images()
    other = vila_lab.load().ask([folder / "g.png", "What is this?"])
    with pytest.raises(CaptureError, match="leave_one_out attribution was computed on another answer"):
        view_of(answer.record, attributions=[other.attribute("leave_one_out", token=0)])


def test_a_metric_card_stands_beside_its_method(answer):
    table = pd.DataFrame({"deletion AUC": [0.25, 0.5], "pointing": [np.nan, np.nan]}, index=["attention", "flat map"])
    card = SimpleNamespace(method="attention", target="Microsoft", table=table)
    view = view_of(answer.record, cards=[card])
    assert view.card == "'Microsoft': deletion AUC 0.25 (flat map 0.50)"
    assert all(not one.card for one in view.readings)
    assert pack(view)["card"] == view.card


def test_boxes_by_picture_reach_the_payload(answer):
    view = view_of(answer.record, boxes={1: (2, 3, 20, 30)})
    assert view.boxes == ((), ((2.0, 3.0, 20.0, 30.0),))
    assert pack(view)["images"][1]["boxes"] == [[2.0, 3.0, 20.0, 30.0]]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ({2: (0, 0, 1, 1)}, "there is no picture 2"),
        ({0: (1, 2, 3)}, "boxes of picture 1 must be"),
        ({0: (0, 0, 1, 9999)}, "is not inside picture 1"),
        ([(0, 0, 1, 1)], "boxes= takes {picture"),
    ],
)
def test_boxes_that_fit_no_picture_are_named(answer, boxes, words):
    with pytest.raises(OptionError, match=words):
        view_of(answer.record, boxes=boxes)


def test_edits_are_said_in_front_of_all_notes(answer):
    view = replace(view_of(answer.record), edits=("image 2 → answer cut in all layers",))
    assert view.all_notes[0] == "Edited while answering: image 2 → answer cut in all layers"
    assert pack(view)["edits"] == ["image 2 → answer cut in all layers"]


def test_a_released_answer_keeps_what_was_computed():
    folder = vila_lab.demo_images()
    answer = vila_lab.load().ask([folder / "g.png", "What is this?"])
    answer.layer_means()
    answer.release()
    view = view_of(answer.record)
    assert {one.layer for one in view.readings} > {0, 1}
    assert not [one for one in view.readings if one.heads]


def test_a_text_only_question_has_words_and_no_pictures():
    view = view_of(vila_lab.load().ask("What is a cat?", max_new_tokens=3).record)
    assert view.images == ()
    assert "".join(view.words).strip() == "What is a cat?"


@pytest.fixture
def afresh():
    folder = vila_lab.demo_images()
    return vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])


def names_of(answer):
    return [one.name for one in view_of(answer.record, attributions=answer.attributions).readings if not one.shares]


def test_whatever_was_attributed_is_in_the_display(afresh, tmp_path):
    afresh.attribute("leave_one_out")
    assert '"leave_one_out"' in afresh._repr_mimebundle_()["text/html"]
    assert '"occlusion"' not in afresh._repr_mimebundle_()["text/html"]
    page = afresh.to_html(tmp_path / "a.html", attributions=["occlusion", afresh.attribute("shapley", samples=2)])
    text = page.read_text(encoding="utf-8")
    assert all(f'"name":"{name}"' in text for name in ("leave_one_out", "occlusion", "shapley, samples=2"))


def test_results_of_one_method_under_different_options_stand_apart(afresh):
    for options in (
        {},
        {"baseline": "mean"},
        {"token": 0},
        {"token": "Google", "at": 0},
        {"token": 0, "contrast": "Google"},
    ):
        afresh.attribute("leave_one_out", **options)
    target = afresh.attribute("leave_one_out", 0).target
    assert set(names_of(afresh)) == {
        "leave_one_out",
        "leave_one_out, baseline='mean'",
        "leave_one_out: 'Google', at=0",
        f"leave_one_out: {target!r} rather than 'Google'",
    }


def test_a_word_with_more_tokens_than_the_answer_is_shown(afresh):
    afresh.attribute("attention", token="a much longer word than what was said in the answer", at=0)
    assert len(afresh.attributions[0].token_map) > len(afresh.token_map)
    assert len(names_of(afresh)) == 1
    assert "much longer word" in afresh._repr_mimebundle_()["text/html"]


def test_the_view_names_the_model(answer, monkeypatch):
    assert view_of(answer.record).model == "embedded"
    monkeypatch.setattr(answer.record, "model", "C:\\models\\NVILA-8B")
    assert view_of(answer.record).model == "NVILA-8B"
