"""Maps that know nothing know nothing, and shuffling weights leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vila_lab.evidence.baselines import flat_map, random_map, random_weights_map, shuffled


def test_a_flat_map_is_flat_on_every_picture(answer):
    flat = flat_map(answer.attribute("leave_one_out"))
    assert flat.values.sum(1) == pytest.approx(1)
    shares = flat.shares()
    assert shares["image_1"] == pytest.approx(
        len(answer.token_map.positions("image_1")) / len(answer.token_map.positions("images"))
    )
    assert np.ptp(flat.heatmap(0)) < 1e-12


def test_a_random_map_follows_its_seed(answer):
    attribution = answer.attribute("attention")
    one, same, other = (random_map(attribution, seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert one.sum(1) == pytest.approx(1)


def test_weights_are_shuffled_inside_and_restored_bit_by_bit(tiny):
    before = [parameter.detach().clone() for parameter in tiny.model.parameters()]
    inside: list[torch.Tensor] = []

    def fail() -> None:
        with shuffled(tiny.model, 1):
            inside.extend(parameter.detach().clone() for parameter in tiny.model.parameters())
            raise KeyError("left on an error")

    with pytest.raises(KeyError):
        fail()
    after = list(tiny.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, inside, strict=True))
    assert all(torch.equal(a.flatten().sort()[0], b.flatten().sort()[0]) for a, b in zip(before, inside, strict=True))


def test_an_interrupt_while_weights_are_shuffled_brings_them_back(answer, tiny):
    before = [parameter.detach().clone() for parameter in tiny.model.parameters()]

    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise KeyboardInterrupt

    handle = tiny.family.decoder_layers[-1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            random_weights_map(answer.replay, "relevancy")
    finally:
        handle.remove()
    after = list(tiny.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in after)
    assert not answer.replay.lock.locked()


def test_the_map_of_shuffled_weights_differs_and_the_answer_stays(answer, tiny):
    mine = answer.attribute("attention")
    blind = random_weights_map(answer.replay, "attention")
    assert blind.method == "attention, random weights"
    assert not np.allclose(mine.values, blind.values)
    afresh = answer.experiment("attribute", method="attention")
    np.testing.assert_allclose(afresh.values, mine.values, rtol=1e-4, atol=1e-5)
    assert not answer.replay.lock.locked()
