"""One question at a time: other threads wait, and a hook that asks its own model is told instead of waiting for ever."""

from __future__ import annotations

import threading

import pytest

import vila_lab
from vila_lab.engine.lock import ModelLock
from vila_lab.errors import CaptureError


def test_another_thread_waits_for_its_turn():
    turn, order = ModelLock(), []

    def second() -> None:
        with turn:
            order.append("second")

    with turn:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert not turn.locked()


def test_a_turn_within_a_turn_is_refused_and_the_turn_ends():
    turn = ModelLock()
    with turn, pytest.raises(CaptureError, match="ask afterwards"), turn:
        pass
    assert not turn.locked()
    with turn:
        assert turn.locked()


def test_a_hook_that_asks_its_own_session_is_told():
    lab, demo = vila_lab.load(), vila_lab.demo_images()
    question = [demo / "g.png", demo / "m.png", "What is in image 2?"]
    with (
        lab.on_attention(lambda event: lab.ask(question), layers=0),
        pytest.raises(CaptureError, match="ask afterwards"),
    ):
        lab.ask(question)
    assert lab.ask(question).text == "Microsoft."
