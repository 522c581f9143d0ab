"""Leaving things out: by hand, through captum, and by the axioms that the scores promise."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.attribution.conftest import QUESTION, replay_of, target_of
from vila_lab.attribution.captum_seam import interpretable_input, presence_function
from vila_lab.attribution.coalitions import evaluate_plainly
from vila_lab.attribution.features import BASELINES, baseline_picture, picture_features
from vila_lab.errors import OptionError

PICTURE = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")


@pytest.mark.parametrize("baseline", ["mean", "grey", "blur", PICTURE], ids=["mean", "grey", "blur", "picture"])
def test_leave_one_out_by_hand(answer, baseline, golden_session):
    """Ask with the picture really replaced, and compare the answer's log-probabilities."""
    lab = golden_session(answer.model.rsplit("/", 1)[-1])
    found = answer.attribute("leave_one_out", baseline=baseline).per_image().to_numpy()
    ids = torch.tensor([[token.id for token in answer.tokens]])

    def logprobs(images):
        prompt = [images[part] if isinstance(part, int) else part for part in answer.parts]
        inputs = dict(lab.family.prepare(type(replay_of(answer).prompt).of(prompt)).inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = lab.model(**inputs).logits[0, -ids.shape[1] - 1 : -1]
        return logits.log_softmax(-1).gather(1, ids.T)[:, 0].numpy()

    whole = logprobs(answer.images)
    for left, image in enumerate(answer.images):
        images = list(answer.images)
        images[left] = baseline_picture(image, baseline)
        np.testing.assert_allclose(found[:, left], whole - logprobs(images), atol=2e-5)


@pytest.mark.parametrize("method", ["leave_one_out", "shapley", "occlusion", "integrated_gradients"])
def test_a_baseline_is_whatever_can_be_a_picture(answer, method):
    array = np.asarray(PICTURE)
    found, same = (answer.attribute(method, baseline=each) for each in (array, PICTURE))
    np.testing.assert_array_equal(found.values, same.values)
    assert found.baseline == "another picture"
    assert answer.attribute(method, baseline=array.copy()) is found


@pytest.mark.parametrize("baseline", ["remove", "mean"])
@pytest.mark.parametrize("target", [{}, {"token": 1, "contrast": "the differences"}], ids=["all", "contrast"])
def test_shapley_shares_add_up(three, baseline, target):
    attribution = three.attribute("shapley", baseline=baseline, **target)
    checks = attribution.checks
    assert attribution.per_image().to_numpy().sum() == pytest.approx(checks["all"] - checks["none"], abs=1e-6)
    assert checks["completeness"] < 1e-6
    assert abs(checks["all"] - checks["none"]) > 0.01


def test_shapley_is_the_mean_over_all_orders(three):
    replay, target = replay_of(three), target_of(three)
    features = picture_features(replay, "remove")
    expected = np.zeros((len(target.rows), 3))
    for order in permutations(range(3)):
        absent = [1, 1, 1]
        for picture in order:
            without = tuple(absent)
            absent[picture] = 0
            a, b = evaluate_plainly(replay, features, [without, tuple(absent)], target)
            expected[:, picture] += (b - a) / 6
    np.testing.assert_allclose(three.attribute("shapley").per_image(), expected, atol=1e-5)


@pytest.mark.parametrize("baseline", ["remove", "grey"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
def test_captums_own_loops_give_the_same(three, baseline, shared):
    from captum.attr import FeatureAblation, ShapleyValues

    replay, target = replay_of(three), target_of(three, 1)
    features = picture_features(replay, baseline)
    seen = interpretable_input(features)
    forward = presence_function(replay, target, features, shared=shared)
    for captum, mine in ((ShapleyValues, "shapley"), (FeatureAblation, "leave_one_out")):
        theirs = captum(forward).attribute(seen.to_tensor(), baselines=0.0, target=0).numpy()
        np.testing.assert_allclose(three.attribute(mine, 1, baseline=baseline).per_image(), theirs, atol=1e-4)
    assert seen.values == ["image_1", "image_2", "image_3"]


@pytest.mark.parametrize("method", ["leave_one_out", "shapley", "occlusion", "integrated_gradients"])
def test_only_a_picture_that_can_matter_gets_credit(golden_session, golden_image, method):
    """Pictures 1 and 3 are their own baseline, so whatever they are replaced by, nothing changes."""
    plain = Image.new("RGB", (60, 40), (127, 127, 127))
    lab = golden_session("nvila-lite")
    answer = lab.ask([plain, golden_image("d_wide.png"), plain, QUESTION], max_new_tokens=2)
    options = {"steps": 4} if method == "integrated_gradients" else {}
    credit = answer.attribute(method, baseline="grey", **options).per_image().abs().sum()
    assert credit["image_2"] > 1e-2
    assert credit[["image_1", "image_3"]].max() < 1e-4  # nine cells of two tokens, each within 5e-6


def test_drawn_orders_come_close_and_say_how_close(three):
    exact = three.attribute("shapley", 0).per_feature().to_numpy()
    drawn = three.attribute("shapley", 0, samples=40)
    error = drawn.standard_error().to_numpy()
    assert (np.abs(drawn.per_feature().to_numpy() - exact) < 4 * error + 1e-6).all()
    assert drawn.checks["completeness"] < 1e-6
    fewer = three.attribute("shapley", 0, samples=10).standard_error().to_numpy()
    assert error.sum() < fewer.sum()
    assert (three.attribute("shapley", 0).standard_error().to_numpy() == 0).all()


def test_many_pictures_need_samples(golden_session):
    greys = [Image.new("RGB", (20, 20), (k * 10,) * 3) for k in range(20)]
    answer = golden_session("nvila-lite").ask([*greys, "What?"], max_new_tokens=1)
    with pytest.raises(OptionError, match=r"20 pictures need 1048576 passes: give samples="):
        answer.attribute("shapley")
    drawn = answer.attribute("shapley", samples=2)
    assert drawn.per_image().shape == (1, 20)
    assert "2 orders drawn" in drawn.note


@pytest.mark.parametrize("baseline", ["remove", "grey", PICTURE], ids=["remove", "grey", "picture"])
def test_covering_all_of_a_picture_leaves_it_out(answer, baseline):
    whole = answer.attribute("occlusion", image=0, cells=(1, 1), baseline=baseline)
    left = answer.attribute("leave_one_out", baseline=baseline)
    np.testing.assert_allclose(whole.per_image()["image_1"], left.per_image()["image_1"], atol=2e-5)


@pytest.mark.parametrize("baseline", BASELINES)
def test_tiles_are_covered_one_by_one(asked, baseline):
    answer = asked("nvila-lite", "d_wide.png", QUESTION)
    tiles = answer.attribute("occlusion", by="tiles", baseline=baseline)
    count = len(np.unique(answer.token_map.tile[answer.token_map.positions("image_1")]))
    assert tiles.per_feature().shape[1] == count
    np.testing.assert_allclose(tiles.per_feature().sum(axis=1), tiles.per_image()["image_1"], atol=1e-9)


def test_given_boxes_may_overlap(two):
    boxes = [(0, 0, 200, 200), (100, 0, 320, 200)]
    alone = [two.attribute("occlusion", image=0, boxes=[box]).per_feature().to_numpy() for box in boxes]
    both = two.attribute("occlusion", image=0, boxes=boxes).per_feature().to_numpy()
    np.testing.assert_allclose(both, np.concatenate(alone, 1), atol=1e-5)


def test_phrases_are_the_users_words(two):
    assert two.attribute("phrases").features == ("What", "What is,", "then,", "it?")
    by_word = two.attribute("phrases", by="word")
    assert by_word.features == ("What", "What ", "is,", "then,", "it?")
    assert by_word.per_image()[["image_1", "image_2"]].abs().to_numpy().max() == 0
    given = two.attribute("phrases", phrases=["then,"])
    np.testing.assert_allclose(given.per_feature()["then,"], by_word.per_feature()["then,"], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "leave_one_out",
            {"baseline": "black"},
            "unknown baseline 'black'; known: remove, mean, grey, blur, or a picture",
        ),
        ("leave_one_out", {"baseline": 3}, "known: remove"),
        ("shapley", {"samples": 1}, "at least 2"),
        ("occlusion", {"image": 2}, "there is no picture 2"),
        ("occlusion", {"by": "pixels"}, "known: cells, tiles"),
        ("occlusion", {"cells": (0, 2)}, r"cells=\(0, 2\)"),
        ("occlusion", {"boxes": [(0, 0, 9, 9)]}, "say which with image="),
        ("occlusion", {"image": 0, "boxes": [(0, 0, 999, 9)]}, r"is not inside picture 1, which is 320 x 200"),
        ("occlusion", {"image": 0, "boxes": [(5, 5, 5, 9)]}, "is not inside picture 1"),
        ("phrases", {"by": "letter"}, "known: clause, word"),
        ("phrases", {"phrases": ["nothing"]}, "'nothing' does not stand in the prompt's text"),
    ],
)
def test_a_wrong_option_gets_one_sentence(two, method, options, message):
    with pytest.raises(OptionError, match=message):
        two.attribute(method, **options)


@pytest.mark.parametrize("method", ["leave_one_out", "shapley", "occlusion", "integrated_gradients", "logit_lens"])
def test_without_pictures_there_is_nothing_to_leave_out(golden_session, method):
    answer = golden_session("nvila-lite").ask("Hello there", max_new_tokens=1)
    with pytest.raises(OptionError, match="has no picture"):
        answer.attribute(method)
    assert answer.attribute("phrases").features == ("Hello", "there")


def test_the_picture_that_is_asked_about_gets_the_credit(microsoft):
    for method in ("leave_one_out", "shapley"):
        for baseline in ("remove", "mean"):
            shares = microsoft.attribute(method, baseline=baseline).shares()
            assert shares.idxmax() == "image_2"
            assert shares["image_2"] > 0.7


def test_why_this_word_rather_than_that_one(microsoft):
    """The second picture speaks for Microsoft and against Google, whether or not the model said so."""
    for target in ({"token": "Microsoft", "contrast": "Google"}, {"token": 0, "contrast": "Google"}):
        assert microsoft.attribute("shapley", **target).total()["image_2"] > 1
    assert microsoft.attribute("shapley", "Google", "Microsoft", at=0).total()["image_2"] < -1
