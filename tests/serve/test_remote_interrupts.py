"""Ctrl-C at any moment of what is asked over the wire leaves the session usable, and the server with nothing to do for it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import vila_lab

from .conftest import TOKEN

FOLDER = vila_lab.demo_images()
QUESTION = [FOLDER / "g.png", FOLDER / "m.png", "What is in image 2?"]
LONG = {"do_sample": True, "temperature": 50.0, "max_new_tokens": 400}


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


WORK = {
    "ask": lambda lab, answer, seed: lab.ask("Hello", seed=seed, **LONG),
    "stream": lambda lab, answer, seed: lab.stream("Hello", seed=seed, **LONG).answer,
    "ask_many": lambda lab, answer, seed: lab.ask_many([[FOLDER / "g.png", "Hello"]] * 3, seed=seed, **LONG),
    "experiment": lambda lab, answer, seed: answer.attribute("shapley", samples=50, seed=seed),
    "tape": lambda lab, answer, seed: answer.attention(layer=seed % 6),
}


# One that comes while Python finalizes an object is printed there and goes no further; that is Python's way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WORK)
def test_an_interrupt_leaves_nothing_behind(server, name):
    draw = random.Random(name)
    with vila_lab.connect(server[0], TOKEN) as there:
        answer = there.ask(QUESTION)
        came = 0
        for k in range(12):
            work: Any = WORK[name]
            try:
                with interrupted_after(draw.uniform(0.002, 0.15)):
                    work(there, answer, 1000 + k)
            except KeyboardInterrupt:
                came += 1
        assert came or name == "tape"
        assert there.ask(QUESTION).tokens == answer.tokens
        assert there.stream(QUESTION).answer.tokens == answer.tokens
        assert answer.attribute("leave_one_out").shares().idxmax() == "image_2"
        assert answer.attention(layer=0).shape[0] == 3
        end = time.monotonic() + 15
        headers = {"Authorization": f"Bearer {TOKEN}"}
        while not {"vila_lab_num_requests_running 0.0", "vila_lab_num_requests_waiting 0.0"} <= set(
            httpx.get(f"{server[0]}/metrics", headers=headers).text.splitlines()
        ):
            assert time.monotonic() < end, "the server still works for somebody who left"
            time.sleep(0.05)
