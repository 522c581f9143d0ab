"""Questions answered side by side: the words are those of the question alone, each fails, ends and is left alone."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest

import vila_lab
from vila_lab.engine import engine as engines
from vila_lab.errors import ContextTooLong, VilaLabError
from vila_lab.serve.settings import MOST_BATCH

from .conftest import TOKEN

FOLDER = vila_lab.demo_images()
NAMES = ("g", "m", "a", "n", "pizza", "dog_alone", "wide_train", "cat_and_dog")
LONG = {"do_sample": True, "temperature": 50.0, "seed": 1, "max_new_tokens": 600}


@pytest.fixture(scope="module")
def batched(another_server) -> Any:
    with another_server(batch=8) as found:
        yield found


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """How many questions stood side by side, each time."""
    seen: list[int] = []
    answer_batch = engines.answer_batch

    def counted(family: Any, batch: Any, *given: Any) -> Any:
        seen.append(len(batch))
        return answer_batch(family, batch, *given)

    monkeypatch.setattr(engines, "answer_batch", counted)
    return seen


def at_once(calls: list[Any]) -> list[Any]:
    found: list[Any] = [None] * len(calls)

    def do(k: int) -> None:
        try:
            found[k] = calls[k]()
        except VilaLabError as error:
            found[k] = error

    threads = [threading.Thread(target=do, args=(k,)) for k in range(len(calls))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    return found


def busy(address: str) -> Any:
    """A question that takes a moment, behind which others gather."""
    return vila_lab.connect(address, TOKEN).stream("Hello", **LONG)


def test_words_are_those_alone_and_numbers_to_the_rounding_of_a_batch(batched, sizes):
    lab = vila_lab.load()
    questions = [
        [*(FOLDER / f"{name}.png" for name in NAMES[: 1 + k % 4]), f"What is in image {1 + k % 2}?"] for k in range(8)
    ]
    with busy(batched[0]):
        there = vila_lab.connect(batched[0], TOKEN)
        found = at_once([lambda question=question: there.ask(question) for question in questions])
    assert max(sizes) > 1
    for answer, question in zip(found, questions, strict=True):
        alone = lab.ask(question)
        assert [token.id for token in answer.tokens] == [token.id for token in alone.tokens]
        assert np.abs(answer.layer_means() - alone.layer_means()).max() < 3e-6
        assert (
            answer.attribute("leave_one_out", 0).per_image().shape
            == alone.attribute("leave_one_out", 0).per_image().shape
        )


def test_each_fails_and_ends_alone(batched, sizes):
    there = vila_lab.connect(batched[0], TOKEN)
    streams: list[Any] = []

    def stopped() -> Any:
        stream = there.stream([FOLDER / "g.png", "Hello"], **LONG)
        streams.append(stream)
        next(stream)
        stream.close()
        return stream.answer

    with busy(batched[0]):
        found = at_once(
            [
                lambda: there.ask([FOLDER / "m.png", "What is this?"], max_new_tokens=9),
                lambda: there.ask([FOLDER / "m.png", "What is this?"], max_new_tokens=10**6),
                stopped,
                lambda: there.ask([FOLDER / "a.png", "What is this?"], response_format=["Apple", "Google"]),
            ]
        )
    assert found[0].text == "Microsoft."
    assert isinstance(found[1], ContextTooLong)
    assert "interrupted" in found[2].notes[-1]
    assert len(found[2].tokens) < 600
    assert found[3].text == "Apple"


def test_as_many_as_may_be_asked_for_are_put_together():
    assert MOST_BATCH == engines.BATCH


def test_who_goes_away_frees_the_place(batched):
    with httpx.Client(base_url=batched[0], headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        body = {
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "temperature": 50,
            "max_tokens": 3000,
        }
        for seed in range(6):
            with http.stream("POST", "/v1/chat/completions", json={**body, "seed": seed}) as response:
                next(response.iter_lines())
        end = time.monotonic() + 20
        while "vila_lab_num_requests_running 0.0" not in http.get("/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert vila_lab.connect(batched[0], TOKEN).ask([FOLDER / "g.png", "What is this?"]).text == "Google."
