"""Variants that share their prefixes score as whole passes do, and cost what the tree says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from tests.attribution.conftest import replay_of, target_of
from tests.families.checkpoints import parts, session
from vila_lab.attribution import coalitions
from vila_lab.attribution.coalitions import Feature, evaluate, evaluate_plainly
from vila_lab.attribution.features import baseline_picture, cell_boxes, picture_features, removable, tokens_by_cell
from vila_lab.engine.replay import Meter


@pytest.mark.parametrize("baseline", ["remove", "grey"])
@pytest.mark.parametrize("contrast", [None, "the differences"])
def test_shared_prefixes_change_nothing(answer, baseline, contrast):
    replay, target = replay_of(answer), target_of(answer, slice(1, 3), contrast)
    features = picture_features(replay, baseline)
    choices = list(product((0, 1), repeat=len(features)))
    plain = evaluate_plainly(replay, features, choices, target)
    shared = evaluate(replay, features, choices, target)
    assert np.abs(shared - plain).max() < 1e-5
    assert np.ptp(plain, axis=0).max() > 0.01


def test_cells_of_a_picture_whose_runs_interleave(two):
    replay, target = replay_of(two), target_of(two)
    groups = tokens_by_cell(two.token_map, 1, cell_boxes(two.images[1].size, (2, 2)))
    features, choices = removable(replay, groups)
    assert sorted(np.concatenate(groups).tolist()) == two.token_map.positions("image_2").tolist()
    plain = evaluate_plainly(replay, features, choices, target)
    assert np.abs(evaluate(replay, features, choices, target) - plain).max() < 1e-5


def test_out_of_view_is_masked_out(answer):
    """Positions that are not computed are, for all others, positions whose columns a 4-D mask hides."""
    replay, target = replay_of(answer), target_of(answer)
    features = picture_features(replay, "remove")
    choice = (1,) + (0,) * (len(features) - 1)
    sequence = replay.followed(replay.embedded, target.passes[0].fed).vectors
    length = len(sequence)
    mask = torch.ones(length, length).tril().bool()
    mask[:, features[0].positions] = False
    mask |= torch.eye(length).bool()  # a hidden position still sees itself, or its own row would be empty
    additive = torch.zeros(1, 1, length, length).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = replay.model(inputs_embeds=sequence[None], attention_mask=additive).logits[0]
    rows = [replay.prompt_length - 1 + row for row in target.passes[0].rows]
    masked = target.values([logits[rows]])
    found = evaluate(replay, features, [choice], target)[0]
    assert np.abs(found - masked.numpy()).max() < 1e-5


def test_overlapping_groups_share_their_parts(two):
    replay = replay_of(two)
    groups = [np.array([20, 21, 22]), np.array([22, 23])]
    features, choices = removable(replay, groups)
    for group, choice in zip(groups, choices, strict=True):
        out = np.concatenate([f.positions for f, c in zip(features, choice, strict=True) if c])
        assert sorted(out.tolist()) == group.tolist()


def test_a_choice_asked_twice_is_computed_once(two):
    replay, target = replay_of(two), target_of(two)
    features = picture_features(replay, "remove")
    replay.meter = Meter()
    twice = evaluate(replay, features, [(0, 1), (0, 1), (0, 0)], target)
    assert replay.meter.forwards == 2
    assert (twice[0] == twice[1]).all()


@pytest.mark.parametrize(("baseline", "blocks"), [("remove", 15), ("grey", 30)])
def test_exact_shapley_over_four_pictures_computes_so_many_picture_blocks(lab, demo, baseline, blocks, monkeypatch):
    monkeypatch.setattr(coalitions, "WORTH_A_PASS", 32)  # the embedded model's pictures are small: 36 tokens
    answer = lab.ask([*(demo / f"{name}.png" for name in "gman"), "What is in image 2?"], max_new_tokens=1)
    attribution = answer.attribute("shapley", baseline=baseline)
    positions = answer.token_map.prompt_length
    before = int(answer.token_map.positions("image_1")[0])
    tail = positions - int(answer.token_map.positions("image_4")[-1]) - 1
    least = before + blocks * 36 + 16 * tail
    short = (
        4 * before + 4 * 16
    )  # stretches too short for a pass of their own: the template in four branches, separators
    assert least / positions <= attribution.cost.computed <= (least + short) / positions
    assert attribution.cost.forwards == 16


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "paligemma", "paligemma2", "llava_onevision"])
def test_shared_prefixes_never_cut_what_sees_itself(name, monkeypatch):
    """Parts of a picture left out or replaced, in decoders with blocks, with deep features and with windows."""
    monkeypatch.setattr(coalitions, "WORTH_A_PASS", 1)
    answer = session(name).ask(parts(2), max_new_tokens=2)
    replay, target = replay_of(answer), target_of(answer)
    mine = answer.token_map.rows_of(0)
    (other,) = replay.variants(0, [baseline_picture(answer.images[0], "mean")])
    asked = replay.embedded.features
    thirds = np.array_split(np.arange(len(mine)), 3)
    features = [
        Feature(f"part {k}", mine[some], (asked[mine[some]], other[some], None)) for k, some in enumerate(thirds)
    ]
    choices = list(product(range(3), repeat=3))
    shared = evaluate(replay, features, choices, target)
    np.testing.assert_allclose(shared, evaluate_plainly(replay, features, choices, target), atol=1e-5)
    assert np.ptp(shared, 0).min() > 1e-4
