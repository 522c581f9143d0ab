"""Nothing is computed twice: what was attributed is found again by its call, unless the model is another by now."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vila_lab
from vila_lab.attribution.computed import Computed, call_of, frozen
from vila_lab.errors import OptionError


@pytest.fixture
def answer():
    folder = vila_lab.demo_images()
    return vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])


def grey(size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, "grey")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"token": None, "contrast": None}),
        ({"token": 0}, {"token": -3}),
        ({"token": [0, 1]}, {"token": slice(2)}),
        ({"token": 0}, {"token": [np.int64(0)]}),
        ({"score": "logprob", "at": None}, {}),
        ({"baseline": "remove"}, {}),
        ({"baseline": grey()}, {"baseline": grey()}),
    ],
)
def test_an_equal_call_gives_the_same_result(answer, one, other):
    assert answer.attribute("leave_one_out", **one) is answer.attribute("leave_one_out", **other)
    assert len(answer.attributions) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"token": 0}),
        ({"token": 0}, {"token": 0, "contrast": "Google"}),
        ({}, {"score": "logodds"}),
        ({"baseline": "grey"}, {"baseline": "blur"}),
        ({"baseline": grey()}, {"baseline": Image.new("RGB", (8, 8), "red")}),
        ({"token": "Google", "at": 0}, {"token": "Apple", "at": 0}),
    ],
)
def test_another_call_gives_another_result(answer, one, other):
    assert answer.attribute("leave_one_out", **one) is not answer.attribute("leave_one_out", **other)
    assert len(answer.attributions) == 2


def test_an_option_that_cannot_be_compared_is_computed_each_time(answer):
    baseline = torch.full((8, 8, 3), 90, dtype=torch.uint8)
    found = [answer.attribute("leave_one_out", baseline=baseline) for _ in range(2)]
    assert found[0] is not found[1]
    np.testing.assert_array_equal(found[0].values, found[1].values)
    assert answer.attributions == tuple(found)


def test_lists_make_a_call_like_tuples():
    heads = [[0, 1], [2, 3]]
    assert call_of("attention", None, None, {"heads": heads}) == call_of(
        "attention", None, None, {"heads": ((0, 1), (2, 3))}
    )
    assert frozen(np.arange(3)) == frozen(np.arange(3))
    assert frozen(np.arange(3)) != frozen(np.arange(3.0))


def test_what_is_refused_is_refused_again(answer):
    for _ in range(2):
        with pytest.raises(OptionError, match="has no option 'stepps'"):
            answer.attribute("leave_one_out", stepps=3)
    assert answer.attributions == ()


def test_changed_weights_and_hooks_are_noticed():
    folder = vila_lab.demo_images()
    lab = vila_lab.load(dtype="bfloat16")
    answer = lab.ask([folder / "g.png", "What is in image 1?"])
    before = answer.attribute("leave_one_out")
    weight = next(lab.model.parameters())
    with torch.no_grad():
        weight.mul_(2)
    assert answer.attribute("leave_one_out") is not before
    handle = lab.model.register_forward_hook(lambda *given: None)
    seen = [answer.attribute("leave_one_out") for _ in range(2)]
    handle.remove()
    lab.unload()
    assert seen[0] is not seen[1]


def test_a_set_of_heads_that_was_chosen_anew_is_another(answer):
    lab = vila_lab.load()
    kept = dict(lab.head_sets)
    try:
        lab.head_sets["mine"] = ((0, 0),)
        before = answer.attribute("attention", heads="mine")
        assert answer.attribute("attention", heads="mine") is before
        lab.head_sets["mine"] = ((5, 1),)
        assert not np.allclose(answer.attribute("attention", heads="mine").values, before.values)
    finally:
        lab.head_sets.clear()
        lab.head_sets.update(kept)


def test_an_experiment_computes_afresh(answer):
    found = answer.attribute("leave_one_out")
    assert answer.experiment("attribute", method="leave_one_out") is not found
    assert answer.known_or_run("attribute", method="leave_one_out") is found


def test_what_was_asked_for_last_stays_within_the_bytes(answer):
    found = [answer.attribute("leave_one_out", token=k) for k in range(3)]
    few = Computed(most_bytes=2 * found[0].nbytes)
    for k, one in enumerate(found):
        few.put(k, None, one)
        few.get(0, None)
    assert few.results == (found[2], found[0])


def test_the_bytes_of_results_count_as_the_answers(answer):
    before = answer.nbytes
    found = answer.attribute("leave_one_out")
    assert answer.nbytes - before >= found.values.nbytes


def test_the_options_that_were_given_stay_with_the_result(answer, tmp_path):
    found = answer.attribute("shapley", samples=4, seed=0, baseline=grey())
    baseline, samples = sorted(found.options)
    assert samples == "samples=4"
    assert baseline.startswith("baseline=<Image ")
    assert vila_lab.Attribution.open(found.save(tmp_path / "a")).options == found.options
