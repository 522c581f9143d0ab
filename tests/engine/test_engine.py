"""One way to run a model: tokens as they come, a record at the end, questions beside each other, and nothing left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import vila_lab
from tests.inside import hooks_in
from vila_lab.edits.edges import EdgeEdit
from vila_lab.edits.looks import HiddenHook
from vila_lab.engine.engine import DEFAULT_NEW_TOKENS, Engine
from vila_lab.engine.record import Record
from vila_lab.engine.request import Request
from vila_lab.engine.sampling import Sampling
from vila_lab.errors import CaptureError, ContextTooLong, NoEffect, OptionError
from vila_lab.hooks.call import ACTING
from vila_lab.prompt import Prompt
from vila_lab.tokens import Token
from vila_lab.upstream import attention_name

LAYERS = dict.fromkeys(range(3))
CUT = EdgeEdit("image_1 -> *", LAYERS, -torch.inf, "all heads")


@pytest.fixture
def engine(golden_session) -> Engine:
    found: Engine = golden_session("nvila-lite").engine
    return found


@pytest.fixture
def prompt(golden_image) -> Prompt:
    return Prompt.of([golden_image("a_land.png"), golden_image("b_port.png"), "What are the differences?"])


@pytest.fixture
def forwards(engine) -> Iterator[list[int]]:
    """Rows of every forward of the decoder."""
    found: list[int] = []
    layer = engine.family.decoder_layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: found.append(args[0].shape[1]))
    yield found
    handle.remove()


def finished(run: Generator[Token, None, Record]) -> tuple[list[Token], Record]:
    tokens = []
    while True:
        try:
            tokens.append(next(run))
        except StopIteration as end:
            return tokens, end.value


def state_of(engine: Engine) -> tuple[Any, ...]:
    """All that a question could leave behind; other tests of this process have had the model before."""
    modules = list(engine.family.model.modules())
    return (
        [id(module.config) for module in modules if hasattr(module, "config")],
        [attention_name(module.config) for module in modules if hasattr(module, "config")],
        any(ACTING in vars(module) for module in modules),
        hooks_in(engine.family.model),
        engine.lock.locked(),
        torch.is_grad_enabled(),
    )


@pytest.fixture
def untouched(engine) -> Callable[[], bool]:
    """Whether the model is as it was before the test."""
    before = state_of(engine)
    assert before[-2:] == (False, True)
    return lambda: state_of(engine) == before


@pytest.mark.parametrize("edits", [(), (CUT,)], ids=["plain", "edited"])
def test_tokens_as_they_come_are_those_of_the_record(engine, prompt, untouched, edits):
    request = Request(prompt, max_new_tokens=6, edits=edits)
    tokens, record = finished(engine.run(request))
    assert tuple(tokens) == record.tokens
    whole = engine.answer(request)
    assert (whole.text, whole.tokens, whole.edits) == (record.text, record.tokens, record.edits)
    np.testing.assert_array_equal(whole.attention().values, record.attention().values)
    np.testing.assert_array_equal(whole.norms, record.norms)
    assert len(record.norms) == len(record.token_map) - 1
    assert untouched()


@pytest.mark.parametrize("how", ["closed", "let go of", "let go of elsewhere"])
def test_a_run_that_is_left_stops_within_a_token_and_leaves_nothing_behind(engine, prompt, forwards, untouched, how):
    run = engine.run(Request(prompt, max_new_tokens=20, edits=(CUT,)))
    tokens = [next(run) for _ in range(3)]
    before = len(forwards)
    assert untouched()
    if how == "closed":
        run.close()
    elif how == "let go of":
        del run
    else:
        runs = [run]
        del run
        with ThreadPoolExecutor(1) as other:
            other.submit(runs.clear).result()
    gc.collect()
    assert len(forwards) == before == len(tokens)
    assert not engine.lock.locked()
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(engine.answer, Request(prompt, max_new_tokens=3, edits=(CUT,))).result(30)
    assert list(answer.tokens) == [*tokens[:2], answer.tokens[2]]


def test_between_two_tokens_the_model_is_as_it_was(engine, prompt, untouched):
    run = engine.run(Request(prompt, max_new_tokens=3, edits=(CUT,)))
    assert untouched()
    for _ in run:
        assert untouched()


def test_questions_under_way_beside_each_other_do_not_meet(engine, prompt, golden_image):
    seen: list[tuple[str, int]] = []
    requests = [
        Request(prompt, max_new_tokens=7),
        Request(prompt, max_new_tokens=5, edits=(CUT,)),
        Request(Prompt.of([golden_image("c_sq.png"), "And?"]), max_new_tokens=6),
        Request(prompt, sampling=Sampling(True, temperature=2.0, seed=3), max_new_tokens=6),
        Request(prompt, max_new_tokens=4, edits=(HiddenHook(lambda event: seen.append(("hook", event.step)), (1,), "answer"),)),
    ]  # fmt: skip
    alone = [engine.answer(request) for request in requests]
    seen.clear()
    runs: list[Any] = [engine.run(request) for request in requests]
    ends: dict[int, Record] = {}
    while len(ends) < len(runs):
        for k, run in enumerate(runs):
            if k not in ends:
                try:
                    next(run)
                except StopIteration as end:
                    ends[k] = end.value
    for k, record in enumerate(alone):
        assert ends[k].tokens == record.tokens
        np.testing.assert_array_equal(ends[k].attention().values, record.attention().values)
        np.testing.assert_array_equal(ends[k].norms, record.norms)
    assert seen == [("hook", step) for step in range(4)]


def test_a_run_goes_on_in_another_thread(engine, prompt):
    request = Request(prompt, max_new_tokens=5, edits=(CUT,))
    run = engine.run(request)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        tokens = [(one, other)[k % 2].submit(next, run).result() for k in range(5)]
        _, record = finished(run)
    assert tuple(tokens) == record.tokens == engine.answer(request).tokens
    np.testing.assert_array_equal(record.attention().values, engine.answer(request).attention().values)


@pytest.mark.slow
def test_two_threads_one_under_an_edit_200_times(engine, prompt, untouched):
    requests = [Request(prompt, max_new_tokens=3), Request(prompt, max_new_tokens=3, edits=(CUT,))]
    expected = [engine.answer(request).tokens for request in requests]
    assert expected[0] != expected[1]
    found: dict[int, list[Any]] = {0: [], 1: []}

    def keep_asking(which: int) -> None:
        for number in range(200):
            request = requests[which]
            found[which].append(
                finished(engine.run(request))[1].tokens if number % 2 else engine.answer(request).tokens
            )

    threads = [threading.Thread(target=keep_asking, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: [expected[k]] * 200 for k in (0, 1)}
    assert untouched()


@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 12}, {"bad_words_ids": [[61], [40]]}],
    ids=str,
)
def test_what_a_familys_generation_config_asks_is_done_as_generate_does_it(engine, prompt, monkeypatch, settings):
    family = engine.family
    config = family.generation_config(family.options_of({}))
    config.update(**settings)
    monkeypatch.setattr(family, "generation_config", lambda options: config)
    prepared = family.prepare(prompt)
    config.max_new_tokens, config.max_length = 12, None
    ids = family.model.generate(**prepared.inputs, generation_config=config)[0, len(prepared.token_map) :].tolist()
    config.max_new_tokens = None
    assert [token.id for token in engine.answer(Request(prompt, max_new_tokens=12)).tokens] == ids


def test_pictures_are_embedded_once_for_an_answer_and_its_proof(engine, prompt, monkeypatch):
    counted = []
    embed = engine.family.embed
    monkeypatch.setattr(engine.family, "embed", lambda *given: counted.append(1) or embed(*given))
    engine.clean.clear()
    engine.answer(Request(prompt, max_new_tokens=2, edits=(CUT,)))
    assert len(counted) == 1


def test_an_edit_without_effect_is_found_at_the_end(engine, prompt, untouched):
    same = EdgeEdit("image_1 -> *", LAYERS, 1e-9, "all heads")
    run = engine.run(Request(prompt, max_new_tokens=2, edits=(same,)))
    assert len([next(run) for _ in range(2)]) == 2
    with pytest.raises(NoEffect, match="changes nothing"):
        next(run)
    assert untouched()


def test_what_a_request_may_not_be(engine, prompt):
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(OptionError, match="max_new_tokens"):
            Request(prompt, max_new_tokens=wrong)
    with pytest.raises(ContextTooLong, match="lower max_new_tokens"):
        next(engine.run(Request(prompt, max_new_tokens=10**6)))
    request = Request(prompt)
    with pytest.raises(AttributeError):
        request.max_new_tokens = 3  # type: ignore[misc]


def test_without_a_limit_an_answer_ends_by_itself_or_at_the_default():
    lab, folder = vila_lab.load(), vila_lab.demo_images()
    tokens, record = finished(lab.engine.run(Request(Prompt.of([folder / "g.png", "What is this?"]))))
    assert len(tokens) < DEFAULT_NEW_TOKENS
    assert tokens[-1].stop
    assert not record.notes


def test_a_hook_that_asks_its_own_model_is_told(engine, prompt, untouched):
    hook = HiddenHook(lambda event: engine.answer(Request(prompt, max_new_tokens=1)), (1,), "answer")
    with pytest.raises(CaptureError, match="at work for this very call"):
        next(engine.run(Request(prompt, edits=(hook,))))
    assert untouched()


def test_a_character_that_is_cut_shows_what_there_is(engine, prompt, monkeypatch):
    """The last token of an answer that was cut has nothing behind it that could complete it."""
    monkeypatch.setattr(
        engine.family.tokenizer, "decode", lambda ids, **options: "\ufffd" if len(ids) % 2 else "猫" * (len(ids) // 2)
    )
    assert [token.text for token in engine.answer(Request(prompt, max_new_tokens=3)).tokens] == ["", "猫", ""]
    assert [token.text for token in engine.answer(Request(prompt, max_new_tokens=1)).tokens] == ["\ufffd"]
