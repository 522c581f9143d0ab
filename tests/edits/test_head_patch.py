"""Heads patched one at a time are the run that they say, batches and caches notwithstanding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vila_lab
from vila_lab.errors import NoEffect, OptionError
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import HeadOutputLook, HeadPatch

EVERY = [(layer, head) for layer in range(6) for head in range(4)]


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


@pytest.fixture(scope="module")
def answers(lab, demo):
    return [lab.ask([demo / "g.png", demo / name, "What is in image 2?"]) for name in ("m.png", "a.png")]


def test_all_heads_together_bring_the_other_answer_about(lab, answers):
    """The rows' own vectors are the same words in both prompts, so everything else comes through the heads."""
    nothing, everything = lab.patch_heads(*answers, sets=[EVERY[:1], EVERY]).to_numpy()
    assert everything == pytest.approx(1, abs=1e-4)
    assert abs(nothing) < 0.1


def test_a_head_alone_is_one_whole_pass_with_its_output_exchanged(lab, answers):
    layer, head = 5, 3
    one, other = (answer.replay for answer in answers)
    length = one.prompt_length
    rows = tuple(range(int(np.flatnonzero(one.token_map.picture[:length] >= 0)[-1]) + 1, length))
    outputs = {}

    def logits(replay, edits):
        with torch.no_grad(), Editing(replay.model, edits):
            return replay.decode(replay.embedded, keep=[length - 1])[0][0].double()

    logits(other, [HeadOutputLook(lambda at, output: outputs.setdefault(at, output[0, list(rows)].clone()), (layer,))])
    found = lab.patch_heads(*answers, token=0)
    ids = [answer.tokens[0].id for answer in answers]

    def difference(row):
        return float(row[ids[1]] - row[ids[0]])

    base, goal = difference(logits(one, [])), difference(logits(other, []))
    patched = difference(logits(one, [HeadPatch(layer, outputs[layer], rows, ((head,),))]))
    assert (found.attrs["clean"], found.attrs["from"]) == pytest.approx((base, goal), abs=1e-4)
    assert float(found[layer, head]) == pytest.approx((patched - base) / (goal - base), abs=1e-5)
    assert abs(patched - base) > 0.05


def test_batches_and_sets_of_one_change_nothing(lab, answers):
    whole = lab.patch_heads(*answers).to_numpy().ravel()
    np.testing.assert_allclose(lab.patch_heads(*answers, batch=5).to_numpy().ravel(), whole, atol=1e-5)
    alone = lab.patch_heads(*answers, sets=[[head] for head in EVERY[16:20]]).to_numpy()
    np.testing.assert_allclose(alone, whole[16:20], atol=1e-5)


def test_what_cannot_be_patched_is_one_sentence(lab, answers, demo):
    with pytest.raises(NoEffect, match="there is no head 4"):
        lab.patch_heads(*answers, sets=[[(0, 4)]])
    with pytest.raises(OptionError, match="batch must be at least 1"):
        lab.patch_heads(*answers, batch=0)
    with pytest.raises(OptionError, match="nothing tells them apart"):
        lab.patch_heads(answers[0], answers[0])
    with pytest.raises(OptionError, match="two prompts of one shape"):
        lab.patch_heads(answers[0], lab.ask([demo / "a.png", "What is in image 1?"]))
    words = [lab.ask(f"Say {word}.", max_new_tokens=2) for word in ("cat", "dog")]
    with pytest.raises(OptionError, match=r"no picture|nothing tells them apart"):
        lab.patch_heads(*words)
