"""Gradient methods against plain autograd through eager attention, with every T x T matrix in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.attribution.conftest import replay_of, target_of
from vila_lab.attribution import recording
from vila_lab.attribution.captum_seam import score_function
from vila_lab.attribution.gradient_inputs import inputs_of
from vila_lab.attribution.integrated_gradients import DOUBLED, clenshaw_curtis
from vila_lab.errors import CaptureError, OptionError
from vila_lab.upstream import attention_name


@pytest.fixture
def eager(answer):
    """Log-probabilities of the answer's tokens with their graph, embeddings and attention matrices, under eager."""
    replay, target = replay_of(answer), target_of(answer)
    model = replay.model
    before = attention_name(model.config)
    model.set_attn_implementation("eager")
    try:
        embeddings = replay.followed(replay.embedded, target.passes[0].fed).vectors[None].requires_grad_()
        output = model(inputs_embeds=embeddings, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    rows = [replay.prompt_length - 1 + row for row in target.query_rows()]
    scores = output.logits[0, rows].log_softmax(-1)[range(len(rows)), target.ids()]
    assert len(output.attentions) == 3
    return scores, embeddings, output.attentions, rows


def close(attribution, expected, tolerance=1e-5):
    mine = attribution.values[:, : expected.shape[1]]
    assert np.abs(mine - expected).max() < tolerance * max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3
    assert not attribution.values[:, expected.shape[1] :].any()


@pytest.mark.parametrize("readers", ["all", "answer"])
def test_gradient_times_attention_is_that_of_eager(answer, eager, readers):
    scores, _, attentions, rows = eager
    expected = []
    for score in scores:
        gradients = torch.autograd.grad(score, attentions, retain_graph=True)
        products = torch.stack([a.detach() * g for a, g in zip(attentions, gradients, strict=True)])[:, 0]
        chosen = products if readers == "all" else products[:, :, rows]
        expected.append(chosen.sum((0, 1, 2)))
    close(answer.attribute("grad_x_attention", readers=readers), torch.stack(expected).numpy())


def test_relevancy_is_the_row_of_the_whole_matrix(answer, eager):
    scores, _, attentions, rows = eager
    expected = []
    for score, row in zip(scores, rows, strict=True):
        gradients = torch.autograd.grad(score, attentions, retain_graph=True)
        relevancy = torch.eye(attentions[0].shape[-1])
        for weights, gradient in zip(attentions, gradients, strict=True):
            helped = (weights.detach() * gradient)[0].clamp(min=0).mean(0)
            relevancy = relevancy + helped @ relevancy
        expected.append(relevancy[row] - torch.eye(len(relevancy))[row])
    close(answer.attribute("relevancy"), torch.stack(expected).numpy())


def test_rollout_is_the_row_of_the_whole_product(answer, eager):
    _, _, attentions, rows = eager
    product = torch.eye(attentions[0].shape[-1])
    for weights in attentions:
        mixed = 0.5 * weights.detach()[0].mean(0) + 0.5 * torch.eye(len(product))
        product = mixed @ product
    close(answer.attribute("rollout", sinks=True), product[rows].numpy())


@pytest.mark.parametrize("method", ["relevancy", "rollout"])
def test_chunks_of_rows_change_nothing(two, monkeypatch, method):
    whole = two.attribute(method).values
    monkeypatch.setattr(recording, "CHUNK_SCORES", 1)
    np.testing.assert_allclose(two.attribute(method).values, whole, atol=1e-6)


def test_input_times_gradient_is_autograds(answer, eager):
    scores, embeddings, _, _ = eager
    gradients = [torch.autograd.grad(score, embeddings, retain_graph=True)[0] for score in scores]
    expected = torch.stack([(embeddings.detach() * gradient)[0].sum(-1) for gradient in gradients])
    close(answer.attribute("input_x_gradient"), expected.numpy())


@pytest.mark.parametrize("method", ["grad_x_attention", "input_x_gradient"])
@pytest.mark.parametrize("contrast", ["the differences", "A"])
def test_a_linear_methods_contrast_is_the_difference(two, method, contrast):
    """Only of the prompt: behind it the two words' own tokens stand."""
    end = two.token_map.prompt_length
    both = two.attribute(method, 1, contrast).values[0, :end]
    mine = two.attribute(method, 1).values[0, :end]
    other = two.attribute(method, contrast, at=1).values[:, :end].sum(0)
    np.testing.assert_allclose(both, mine - other, atol=1e-4)


@pytest.mark.parametrize(
    "target", [{"token": 0}, {"token": 1, "contrast": "the differences"}], ids=["token", "contrast"]
)
def test_integrated_gradients_add_up_to_the_difference(two, target):
    attribution = two.attribute("integrated_gradients", **target, steps=24)
    replay = replay_of(two)
    inputs = inputs_of(replay, "embeddings", "mean")
    goal = target_of(two, **target)
    with torch.no_grad():
        asked = replay.values(goal)
        baseline = replay.values(goal, inputs.prompt(inputs.baseline[0]))
    assert attribution.per_image().to_numpy().sum() == pytest.approx(float(asked - baseline), abs=1e-3)
    assert attribution.checks["completeness"] < 1e-3
    assert attribution.checks["difference"] == pytest.approx(float(asked - baseline), abs=1e-5)


def test_too_few_steps_are_pointed_out(two):
    found = two.attribute("integrated_gradients", 0, steps=1)
    assert f"the shares of {two.tokens[0].text!r} miss its score's difference by" in found.note
    assert found.note.endswith("take more steps")
    assert "miss" not in two.attribute("integrated_gradients", 0).note


def test_steps_are_doubled_until_the_shares_add_up(two):
    """As many as each token needs, none of them twice, and the number is told."""
    found = two.attribute("integrated_gradients")
    taken = int(found.checks["steps"])
    assert f"{taken} steps" in found.note
    assert found.cost.forwards == taken + 1
    assert found.cost.backwards <= (taken + 1) * len(found.token)
    by_hand = two.attribute("integrated_gradients", steps=taken)
    gap = np.abs(by_hand.values.sum(1) - found.values.sum(1))
    assert (gap <= np.maximum(0.02 * np.abs(by_hand.values.sum(1)), 2e-3)).all()
    fewer = two.attribute("integrated_gradients", steps=taken // 2)
    assert taken == DOUBLED[0] or "miss" in fewer.note


@pytest.mark.parametrize("rows", [{"token": 0}, {}], ids=["token", "all"])
def test_captums_own_integrated_gradients_are_the_same(two, rows):
    from captum.attr import IntegratedGradients

    replay, goal = replay_of(two), target_of(two, **rows)
    inputs = inputs_of(replay, "embeddings", "mean")
    theirs = IntegratedGradients(score_function(replay, goal, inputs.prompt))
    found = two.attribute("integrated_gradients", **rows, steps=32).values
    for out in range(len(goal.rows)):
        value = inputs.value.detach().requires_grad_()
        scores = theirs.attribute(value, inputs.baseline, target=out, n_steps=32, internal_batch_size=1)
        expected = inputs.by_position(scores.detach())
        np.testing.assert_allclose(found[out, : len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 16, 33])
def test_weights_integrate_polynomials(steps):
    places = (1 - np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    for power in range(steps + 1):
        assert clenshaw_curtis(steps) @ places**power == pytest.approx(1 / (power + 1), abs=1e-12)


@pytest.mark.parametrize("on", ["embeddings", "pixels"])
def test_a_miss_of_more_than_a_percent_is_pointed_out(two, on):
    for steps in (2, 4, 8):
        found = two.attribute("integrated_gradients", 0, on=on, steps=steps)
        gap = abs(found.values.sum() - found.checks["difference"])
        assert found.checks["completeness"] == pytest.approx(gap)
        assert ("miss" in found.note) == (gap > max(0.01 * abs(found.checks["difference"]), 1e-3))


@pytest.mark.parametrize("name", ["nvila-lite", "nvila-resize", "VILA1.5-3b-tiny"])
def test_pixels_belong_to_the_tokens_made_from_them(asked, name):
    """A change of one token's pixels is seen, to first order, in that token's score and in no other's."""
    answer = asked(name, "a_land.png", "d_wide.png", "What is, then, it?")
    inputs = inputs_of(replay_of(answer), "pixels", "grey")
    visual = answer.token_map.positions("images")
    counts = inputs.by_position(torch.ones_like(inputs.value))
    assert counts.sum() == inputs.value[0].numel()
    assert (counts[visual] > 0).all()
    corner = torch.zeros_like(inputs.value)
    corner[0, 0, :, 0, 0] = 1
    (place,) = np.flatnonzero(inputs.by_position(corner))
    box = answer.token_map.box[place]
    assert answer.token_map.picture[place] == 0
    assert box[:2].tolist() == answer.token_map.box[answer.token_map.positions("image_1"), :2].min(0).tolist()


def test_pixels_of_merged_scales_are_refused(asked):
    answer = asked("nvila-dynamic_s2", "a_land.png", "What is, then, it?")
    with pytest.raises(OptionError, match="take on='embeddings'"):
        answer.attribute("input_x_gradient", on="pixels")


def test_pixel_gradients_add_up_over_channels_and_pixels(two):
    attribution = two.attribute("input_x_gradient", 0, on="pixels")
    replay, target = replay_of(two), target_of(two, 0)
    inputs = inputs_of(replay, "pixels", "grey")
    value = inputs.value[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(replay.values(target, inputs.prompt(value))[0], value)
    assert attribution.values.sum() == pytest.approx(float((value * gradient).sum().detach()), abs=1e-4)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradients", {"baseline": "remove"}, "baseline='remove' is not one"),
        ("integrated_gradients", {"on": "words"}, "known: embeddings, pixels"),
        ("integrated_gradients", {"steps": 0}, "at least 1"),
        ("input_x_gradient", {"on": "words"}, "known: embeddings, pixels"),
        ("grad_x_attention", {"readers": "some"}, "known: all, answer"),
    ],
)
def test_a_wrong_option_gets_one_sentence(two, method, options, message):
    with pytest.raises(OptionError, match=message):
        two.attribute(method, **options)


@pytest.mark.parametrize("method", ["grad_x_attention", "relevancy", "input_x_gradient"])
def test_a_model_without_gradients_says_so(two, monkeypatch, method):
    replay = replay_of(two)
    plain = type(replay.model).forward

    def cut(self, **inputs):
        output = plain(self, **inputs)
        output.logits = output.logits.detach()
        return output

    monkeypatch.setattr(type(replay.model), "forward", cut)
    with pytest.raises(CaptureError, match=r"gives no gradients .* attn_implementation='sdpa'"):
        two.experiment("attribute", method=method)


@pytest.mark.parametrize("method", ["grad_x_attention", "relevancy"])
def test_attention_without_a_backward_pass_says_so(two, monkeypatch, method):
    monkeypatch.setattr("vila_lab.hooks.call.base_function", lambda site: _no_backward)
    with pytest.raises(CaptureError, match="gives no gradients"):
        two.experiment("attribute", method=method)


def _no_backward(module, query, key, value, mask, **options):
    rows = query.detach().transpose(1, 2)
    return torch.zeros_like(rows), None


def test_the_certain_word_keeps_a_gradient_in_log_odds(microsoft):
    """Where p is near 1 log p is flat; log-odds are not, and the picture that matters still gets the most."""
    shares = microsoft.attribute("grad_x_attention", 0, score="logodds")
    flat = microsoft.attribute("grad_x_attention", 0)
    assert np.abs(shares.values).max() > np.abs(flat.values).max()
