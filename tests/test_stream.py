"""An answer as it comes is the answer; wherever it is stopped, what was said is whole, and nothing works on."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import vila_lab
from tests.inside import hooks_in
from vila_lab.errors import CaptureError, OptionError
from vila_lab.stream import Stream

QUESTION = "What are the differences?"


@pytest.fixture
def lab(golden_session) -> vila_lab.Session:
    found: vila_lab.Session = golden_session("nvila-lite")
    return found


@pytest.fixture
def parts(golden_image) -> list[Any]:
    return [golden_image("a_land.png"), golden_image("b_port.png"), QUESTION]


def said(answer: vila_lab.Answer) -> Any:
    return answer.text, answer.tokens, answer.notes


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 2.0, "seed": 4}], ids=["greedy", "drawn"])
def test_what_comes_is_what_ask_gives(lab, parts, options):
    expected = lab.ask(parts, max_new_tokens=7, **options)
    stream = lab.stream(parts, max_new_tokens=7, **options)
    texts = []
    for token in stream:
        texts.append(token.text)
        assert stream.text == "".join(texts)
    assert said(stream.answer) == said(expected)
    assert stream.answer is stream.answer
    np.testing.assert_array_equal(stream.answer.attention().values, expected.attention().values)
    assert stream.answer.ledger().equals(expected.ledger())
    assert list(stream) == []


def test_the_answer_may_be_asked_for_at_once(lab, parts):
    stream = lab.stream(parts, max_new_tokens=5)
    next(stream)
    assert said(stream.answer) == said(lab.ask(parts, max_new_tokens=5))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("how", ["closed", "left", "interrupted"])
def test_where_it_is_stopped_what_was_said_is_whole(lab, parts, how, count):
    before = hooks_in(lab.model)
    expected = lab.ask(parts, max_new_tokens=count)
    stream = lab.stream(parts, max_new_tokens=12)
    for _ in range(count):
        next(stream)
    if how == "closed":
        stream.close()
    elif how == "left":
        with stream:
            pass
    else:

        def ctrl_c(*_: Any) -> None:
            raise KeyboardInterrupt

        handle = lab.family.decoder_layers[1].register_forward_hook(ctrl_c)  # the first layer has recorded already
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        handle.remove()
    assert hooks_in(lab.model) == before
    assert not lab.engine.lock.locked()
    assert list(stream) == []
    answer = stream.answer
    assert [token.id for token in answer.tokens] == [token.id for token in expected.tokens]
    assert answer.notes == (f"the answer was interrupted after {count} token{'s' * (count > 1)}",)
    np.testing.assert_array_equal(answer.attention().values, expected.attention().values)
    assert answer.ledger().equals(expected.ledger())
    np.testing.assert_array_equal(answer.attribute("leave_one_out").values, expected.attribute("leave_one_out").values)


def test_before_the_first_token_there_is_no_answer(lab, parts):
    stream = lab.stream(parts)
    stream.close()
    with pytest.raises(CaptureError, match="before its first token"):
        _ = stream.answer


@pytest.mark.parametrize("where", ["tower", "decoder"])
def test_a_step_in_another_thread_ends_within_a_layer(lab, parts, where):
    """Closed while the model is in the middle of reading the prompt."""
    layers = lab.family.decoder_layers if where == "decoder" else list(lab.model.vision_tower.encoder.layers)
    entered, go, ran = threading.Event(), threading.Event(), []

    def wait(*_: Any) -> None:
        entered.set()
        assert go.wait(20)

    handles = [layers[0].register_forward_hook(wait), layers[-1].register_forward_hook(lambda *_: ran.append(1))]
    stream = lab.stream(parts)
    with ThreadPoolExecutor(1) as other:
        found = other.submit(lambda: list(stream))
        assert entered.wait(20)
        stream.close()
        go.set()
        assert found.result(20) == []
    for handle in handles:
        handle.remove()
    assert not ran, "a layer ran after the stream was closed"
    assert not lab.engine.lock.locked()
    assert lab.ask(parts, max_new_tokens=2).tokens


def test_a_stream_that_is_let_go_of_starts_no_thread_and_keeps_nothing(lab, parts):
    before, threads = hooks_in(lab.model), threading.active_count()
    gc.collect()
    answers = lab.memory().answers
    stream = lab.stream(parts, max_new_tokens=12)
    next(stream)
    assert threading.active_count() == threads
    del stream
    gc.collect()
    assert hooks_in(lab.model) == before
    assert lab.memory().answers == answers


def test_it_streams_under_the_edits_of_when_it_was_asked(lab, parts):
    with lab.knockout("image_1 -> *") as edit:
        stream = lab.stream(parts, max_new_tokens=4)
        expected = lab.ask(parts, max_new_tokens=4)
    assert lab.edits == ()
    assert [token.id for token in stream] == [token.id for token in expected.tokens]
    assert stream.answer.edits == (edit.label,)


def test_what_cannot_be_asked_is_said_at_once(lab, parts):
    with pytest.raises(OptionError, match="max_new_tokens"):
        lab.stream(parts, max_new_tokens=0)
    with pytest.raises(OptionError, match="do_sample=True"):
        lab.stream(parts, temperature=0.5)


def test_in_a_notebook_it_grows_and_ends_as_the_answer(lab, parts, monkeypatch):
    shown: list[Any] = []

    class Handle:
        def update(self, content: Any, **options: Any) -> None:
            shown.append(content)

    def display(content: Any, **options: Any) -> Handle:
        shown.append(content)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    stream = lab.stream(parts, max_new_tokens=4)
    stream._ipython_display_()
    texts = [each["text/plain"] for each in shown[:-1]]
    assert texts[0] == ""
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(texts) == 5
    assert shown[-1] is stream.answer


def test_it_says_what_it_is(lab, parts):
    stream = lab.stream(parts, max_new_tokens=1)
    assert isinstance(stream, Stream)
    assert repr(stream) == "Stream('', open)"
    list(stream)
    assert repr(stream).endswith(", ended)")
