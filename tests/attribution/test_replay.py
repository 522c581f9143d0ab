"""Running an answer's prompt again: the same scores, the same pictures, and nothing kept of a model that is gone."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import vila_lab
from tests.attribution.conftest import replay_of, target_of
from vila_lab.engine.replay import Replay, frozen
from vila_lab.errors import CaptureError
from vila_lab.session import Session


def test_teacher_forcing_gives_the_probabilities_of_the_answer(answer):
    values = replay_of(answer).values(target_of(answer))
    assert values.tolist() == pytest.approx([token.logprob for token in answer.tokens], abs=2e-5)


def test_replacing_a_picture_by_itself_changes_nothing(answer):
    replay = replay_of(answer)
    again = replay.with_pictures(dict(enumerate(answer.images)))
    torch.testing.assert_close(again.vectors, replay.embedded.vectors)


def test_replacing_a_picture_touches_only_its_tokens(two):
    replay = replay_of(two)
    grey = two.images[1].point(lambda value: 127)
    moved = (replay.with_pictures({1: grey}).vectors - replay.embedded.vectors).abs().amax(-1)
    changed = (moved > 1e-4).nonzero().ravel().tolist()  # the same pixels give the same numbers up to rounding only
    assert changed == two.token_map.positions("image_2").tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_a_variant_of_one_picture_is_embedded_as_in_the_prompt(answer, count):
    replay = replay_of(answer)
    greys = [answer.images[0].point(lambda value, k=k: 100 + k) for k in range(count)]
    mine = answer.token_map.positions("image_1")
    for image, variant in zip(greys, replay.variants(0, greys), strict=True):
        torch.testing.assert_close(variant, replay.with_pictures({0: image}).features[mine], atol=1e-5, rtol=1e-5)


def test_put_to_another_model_the_question_is_the_same(two, golden_image):
    """Another model's embeddings and scores, on the same prompt and answer."""
    mine = replay_of(two)
    folder = golden_image("").parent / "checkpoints" / "nvila-lite"
    session = vila_lab.load(folder, device="cpu", dtype=torch.float64)
    there = Replay(mine.record, session.engine)
    assert there.model is session.model
    assert (there.said, there.prompt, there.token_map) == (mine.said, mine.prompt, mine.token_map)
    assert there.lock is not mine.lock
    assert there.meter is not mine.meter
    assert there.embedded.vectors.dtype == torch.float64
    assert there.values(target_of(two)).tolist() == pytest.approx(mine.values(target_of(two)).tolist(), abs=1e-4)
    session.unload()


def test_parameters_are_thawed_as_they_were(two):
    model = replay_of(two).model
    first = next(model.parameters())
    first.requires_grad_(False)
    try:
        with frozen(model):
            assert not any(p.requires_grad for p in model.parameters())
        with pytest.raises(KeyError), frozen(model):
            raise KeyError
        assert [p.requires_grad for p in model.parameters()].count(False) == 1
    finally:
        first.requires_grad_(True)


def test_without_its_model_an_answer_says_so(two, golden_image, tmp_path):
    opened = vila_lab.open(two.save(tmp_path / "a.vila"))
    session = Session(vila_lab.load(golden_image("").parent / "checkpoints" / "nvila-lite", device="cpu").family, "x")
    answer = session.ask([golden_image("a_land.png"), "What?"], max_new_tokens=1)
    del session
    gc.collect()
    for orphan in (opened, answer):
        with pytest.raises(CaptureError, match="no model any more"):
            orphan.attribute("leave_one_out")


def test_an_answer_does_not_keep_an_unloaded_model(golden_image):
    folder = golden_image("").parent / "checkpoints" / "nvila-lite"
    session = vila_lab.load(folder, device="cpu", dtype="float16")
    answer = session.ask([golden_image("a_land.png"), "What?"], max_new_tokens=1)
    found = answer.attribute("leave_one_out")
    session.unload()
    gc.collect()
    assert answer.attribute("leave_one_out") is found  # it stays
    with pytest.raises(CaptureError, match="no model any more"):
        answer.attribute("shapley")


def test_a_released_answer_can_be_attributed_again(two):
    before = two.attribute("leave_one_out").values
    two.release()
    afresh = two.experiment("attribute", method="leave_one_out")
    np.testing.assert_allclose(afresh.values, before, atol=1e-5)
