"""Answers to attribute: about interleaved pictures, about tiles, about three scales, and with the embedded model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.inside import hooks_of
from vila_lab.answer import Answer
from vila_lab.attribution import Replay
from vila_lab.engine.target import Target, resolve

QUESTION = "What is, then, it?"


@pytest.fixture(scope="session")
def asked(golden_session, golden_image) -> Callable[..., Answer]:
    """An answer of a tiny random checkpoint; strings that end in .png are pictures."""
    kept: dict[tuple[str, ...], Answer] = {}

    def ask(name: str, *parts: str) -> Answer:
        key = (name, *parts)
        if key not in kept:
            prompt = [golden_image(part) if part.endswith(".png") else part for part in parts]
            kept[key] = golden_session(name).ask(prompt, max_new_tokens=4)
        return kept[key]

    return ask


CASES = {
    "interleaved": ("nvila-lite", "a_land.png", "What", "d_wide.png", QUESTION),
    "tiles": ("nvila-dynamic_s2", "a_land.png", QUESTION),
    "resize": ("nvila-resize", "a_land.png", "d_wide.png", QUESTION),
    "llama": ("VILA1.5-3b-tiny", "a_land.png", "d_wide.png", QUESTION),
}


@pytest.fixture(params=CASES)
def answer(request, asked) -> Answer:
    return asked(*CASES[request.param])


@pytest.fixture
def two(asked) -> Answer:
    """Two pictures with text between."""
    return asked(*CASES["interleaved"])


@pytest.fixture
def three(asked) -> Answer:
    """Three pictures, one of them twice."""
    return asked("nvila-lite", "a_land.png", "d_wide.png", "and", "a_land.png", QUESTION)


@pytest.fixture(scope="session")
def microsoft(lab, demo) -> Answer:
    """The embedded model names what is in the second of two pictures."""
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])
    assert answer.text == "Microsoft."
    return answer


def replay_of(answer: Answer) -> Replay:
    return answer.replay


def target_of(answer: Answer, token: object = None, contrast: str | None = None, **options: object) -> Target:
    replay = replay_of(answer)

    def encode(text: str) -> list[int]:
        return list(replay.family.tokenizer(text, add_special_tokens=False).input_ids)

    return resolve(replay.said, encode, token, contrast, **options)


def state_of(model: torch.nn.Module) -> tuple[object, ...]:
    """Everything of a model that a method could leave changed: hooks, configs, own attributes, what takes gradients."""
    modules = list(model.modules())
    hooks = [hooks_of(m) for m in modules]
    configs = [id(m.config) for m in modules if hasattr(m, "config")]
    names = [sorted(vars(m)) for m in modules]
    return (
        hooks,
        configs,
        names,
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
        torch.is_grad_enabled(),
    )
