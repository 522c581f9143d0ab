"""Ctrl-C at any moment of any method: the model, the lock and the next answer are as if nothing had been asked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import vila_lab
from tests.attribution.conftest import CASES, replay_of, state_of
from vila_lab.answer import Answer
from vila_lab.attribution.registry import NAMES
from vila_lab.session import Session

IMPORTING = """
import os, signal, sys
import vila_lab

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background is started with Ctrl-C ignored

class CtrlC:
    def find_spec(self, name, *_):
        if name == "matplotlib.artist":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"], max_new_tokens=1)
sys.meta_path.insert(0, CtrlC())
try:
    answer.attribute("input_x_gradient", on="pixels")
except KeyboardInterrupt:
    print("interrupted", answer.attribute("input_x_gradient", on="pixels").method)
"""

FEW = {"integrated_gradients": {"steps": 3}, "occlusion": {"cells": (2, 1)}}
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # kernels round by where their operands lie in memory
WITH_BACKWARD = ("grad_x_attention", "relevancy", "input_x_gradient", "integrated_gradients")


class Ctrl:
    """Counts the calls of all decoder layers, forwards or backwards, and interrupts one of them."""

    def __init__(self, answer: Answer, *, backward: bool = False) -> None:
        self.layers = replay_of(answer).family.decoder_layers
        self.backward = backward
        self.calls = 0
        self.last = -1

    def interrupt(self, call: int) -> None:
        self.calls, self.last = 0, call

    def __enter__(self) -> Ctrl:
        self.handles = [layer.register_forward_hook(self._after) for layer in self.layers]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _after(self, module: torch.nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        if not self.backward:
            self._count()
        elif hidden.requires_grad:
            hidden.register_hook(lambda gradient: self._count())

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def fresh(golden_session, golden_image) -> tuple[Session, Answer]:
    """A model of its own, loaded once more, and the same question put to it."""
    name, *parts = CASES["interleaved"]
    folder = golden_image("").parent / "checkpoints" / name
    session = vila_lab.load(folder, device="cpu", dtype=torch.float32)
    assert session.model is not golden_session(name).model
    prompt = [golden_image(part) if part.endswith(".png") else part for part in parts]
    yield session, session.ask(prompt, max_new_tokens=4)
    session.unload()


def assert_clean_after_interrupt(
    two: Answer, fresh: tuple[Session, Answer], method: str, at: float, backward: bool
) -> None:
    replay, options = replay_of(two), FEW.get(method, {})
    before = state_of(replay.model)
    with Ctrl(two, backward=backward) as ctrl:
        two.attribute(method, 0, **options)
        assert ctrl.calls
        ctrl.interrupt(1 + round(at * (ctrl.calls - 1)))
        with pytest.raises(KeyboardInterrupt):
            two.attribute(method, 0, **options)
    assert state_of(replay.model) == before
    assert not replay.lock.locked()
    expected = fresh[1].attribute(method, 0, **options)
    np.testing.assert_allclose(two.attribute(method, 0, **options).values, expected.values, **ROUNDING)


@pytest.mark.parametrize("at", [0, 0.5, 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("method", NAMES)
def test_an_interrupt_in_a_forward_leaves_nothing(two, fresh, method, at):
    assert_clean_after_interrupt(two, fresh, method, at, backward=False)


@pytest.mark.parametrize("at", [0, 0.5, 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("method", WITH_BACKWARD)
def test_an_interrupt_in_a_backward_leaves_nothing(two, fresh, method, at):
    assert_clean_after_interrupt(two, fresh, method, at, backward=True)


def test_an_interrupt_while_a_picture_is_embedded_leaves_nothing(two, fresh):
    """Painted pictures go through the vision tower first, under the same lock."""
    replay = replay_of(two)
    before = state_of(replay.model)
    layer = next(m for name, m in replay.model.named_modules() if "vision" in name and name.endswith("layers.0"))

    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise KeyboardInterrupt

    handle = layer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            two.attribute("leave_one_out", baseline="grey")
    finally:
        handle.remove()
    assert state_of(replay.model) == before
    assert not replay.lock.locked()
    expected = fresh[1].attribute("leave_one_out", baseline="grey").values
    np.testing.assert_allclose(two.attribute("leave_one_out", baseline="grey").values, expected, **ROUNDING)


def test_after_an_interrupt_the_session_answers(two, fresh):
    session, answer = fresh
    with Ctrl(answer) as ctrl:
        ctrl.interrupt(4)
        with pytest.raises(KeyboardInterrupt):
            answer.attribute("shapley")
    again = session.ask(replay_of(answer).prompt, max_new_tokens=4)
    np.testing.assert_allclose([t.logprob for t in again.tokens], [t.logprob for t in answer.tokens], **ROUNDING)


def test_an_import_is_whole_after_ctrl_c():
    """Python does not import what is half there once more, so that every later call would fail."""
    found = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout == "interrupted input_x_gradient\n"
