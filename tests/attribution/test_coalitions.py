"""Variants that share their prefixes score as whole passes do, and cost what the tree says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from tests.attribution.conftest import replay_of, target_of
from tests.families.seam import made
from vila_lab.attribution import Replay, coalitions
from vila_lab.attribution.coalitions import Feature, evaluate, evaluate_plainly
from vila_lab.attribution.features import cell_boxes, picture_features, removable, tokens_by_cell
from vila_lab.engine.engine import Engine
from vila_lab.engine.record import Record
from vila_lab.engine.replay import Meter
from vila_lab.engine.target import resolve
from vila_lab.tokenmap import Kind, TokenMap
from vila_lab.tokens import Token


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


@pytest.mark.parametrize("name", ["Gemma 3", "Qwen3-VL"])
def test_shared_prefixes_never_cut_what_sees_itself(name, monkeypatch):
    """Half of a picture left out or replaced, in decoders with blocks and with deep features."""
    monkeypatch.setattr(coalitions, "WORTH_A_PASS", 1)
    family, inputs, _ = made(name)
    visual = np.flatnonzero(inputs["input_ids"][0].numpy() == family.image_token)
    count = inputs["input_ids"].shape[1]
    token_map = TokenMap.build(
        text="", kinds=[Kind.IMAGE if p in visual else Kind.TEXT for p in range(count)], spans=[(-1, -1)] * count,
        sizes=[(1, 1)], picture=[0 if p in visual else -1 for p in range(count)],
        tile=[0 if p in visual else -1 for p in range(count)], scale=[0 if p in visual else -1 for p in range(count)],
        box=[(0.0, 0.0, 1.0, 1.0) if p in visual else None for p in range(count)],
    )  # fmt: skip
    record = Record(
        text="", tokens=[Token("a", 7, -0.1, count), Token("b", 9, -0.1, count + 1)], images=(), token_map=token_map, parts=(), notes=(),
        model="random", norms=np.zeros(0, np.float32), tape=None,
    )  # fmt: skip
    engine = Engine(family, "random")
    replay = Replay(record, engine)
    embedded = family.embed(inputs)
    replay.inputs.embedded = embedded
    other = family.embed({**inputs, family.pixels: torch.randn_like(inputs[family.pixels])})
    features = [
        Feature(f"part {k}", part, (embedded.features[part], other.features[part], None))
        for k, part in enumerate((visual[:2], visual[2:6], visual[6:]))
    ]
    choices = list(product(range(3), repeat=3))
    target = resolve(replay.said, lambda text: [1])
    shared = evaluate(replay, features, choices, target)
    np.testing.assert_allclose(shared, evaluate_plainly(replay, features, choices, target), atol=1e-5)
    assert np.ptp(shared, 0).min() > 1e-3
