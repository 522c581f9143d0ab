"""Ctrl-C at any line of what changes a model for a while: afterwards the model is as before, or it is refused."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

import vila_lab
from tests.inside import hooks_of
from vila_lab import interrupts
from vila_lab.engine import answering, engine, generation, lock, proof, question
from vila_lab.engine import replay as replaying
from vila_lab.engine.lock import ModelLock
from vila_lab.engine.request import Request
from vila_lab.errors import CaptureError
from vila_lab.evidence import baselines
from vila_lab.hooks import Capture, call, context, editing, recorder, sinks, tape
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import EdgeBias
from vila_lab.hooks.sinks import ResidualNorms
from vila_lab.hooks.spans import Span
from vila_lab.prompt import Prompt

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Python's own handler, which is not there in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Injector:
    """Raises KeyboardInterrupt at the k-th line event in some files' functions."""

    def __init__(self, files: set[str], at: int) -> None:
        self.files, self.at, self.seen = files, at, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.line if self._is_ours(frame.f_code) else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line

    def _is_ours(self, code: CodeType) -> bool:
        return code.co_filename in self.files


def interrupted_at(files: set[str], at: int, work: Callable[[], Any]) -> tuple[bool, int]:
    """Whether the interrupt came, and how many lines ran."""
    injector = Injector(files, at)
    before = sys.gettrace()
    sys.settrace(injector)
    try:
        work()
    except KeyboardInterrupt:
        return True, injector.seen
    finally:
        sys.settrace(before)
    return False, injector.seen


def every_line(*modules: Any, work: Callable[[], Any], most: int = 400) -> Iterator[int]:
    """Interrupt the work at each of its lines in turn; at a sample of them where there are many."""
    files = {str(Path(module.__file__)) for module in modules}
    work()  # what is computed once is computed now
    _, lines = interrupted_at(files, 0, work)
    assert lines
    for at in range(1, lines + 1, max(1, lines // most)):
        came, _ = interrupted_at(files, at, work)
        assert came
        yield at


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.second.bias.requires_grad_(False)


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


def traces(model: Any) -> Any:
    """All that a capture or an edit could leave in a model."""
    return [
        (
            name,
            id(getattr(module, "config", None)),
            sorted(key for key in vars(module) if key.startswith("_vila_lab")),
            hooks_of(module),
        )
        for name, module in model.named_modules()
    ]


def test_shuffled_weights_are_put_back_after_an_interrupt_at_any_line():
    model = Small()
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def work() -> None:
        with baselines.shuffled(model):
            assert not torch.equal(model.first.weight, before[0])

    for at in every_line(baselines, interrupts, work=work):
        assert all(map(torch.equal, model.parameters(), before)), at
        assert interrupts.UNFINISHED not in vars(model), at


def test_frozen_parameters_learn_again_after_an_interrupt_at_any_line():
    model = Small()
    before = [parameter.requires_grad for parameter in model.parameters()]

    def work() -> None:
        with replaying.frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())

    for at in every_line(replaying, interrupts, work=work):
        assert [parameter.requires_grad for parameter in model.parameters()] == before, at


def test_a_turn_ends_after_an_interrupt_at_any_line():
    one = ModelLock()

    def work() -> None:
        with one:
            pass

    for at in every_line(lock, work=work):
        assert not one.locked(), at
        with ThreadPoolExecutor(1) as other:  # free for everybody, not only for the thread that was interrupted
            assert not other.submit(one.locked).result(5), at


@pytest.mark.parametrize("kind", ["capture", "editing", "norms"])
def test_no_hook_is_left_after_an_interrupt_at_any_line(kind, lab):
    model = lab.model.language_model
    before = traces(model)
    made: dict[str, Callable[[], Any]] = {
        "capture": lambda: Capture(model),
        "editing": lambda: Editing(model, [EdgeBias(Span.of([1]), Span(onward=2), {0: None, 1: None})]),
        "norms": lambda: ResidualNorms(lab.family.decoder_layers[0]),
    }

    def work() -> None:
        with made[kind]():
            model(torch.arange(3)[None], use_cache=True)

    for at in every_line(context, recorder, editing, call, sinks, interrupts, work=work, most=80):
        assert traces(model) == before, at


@pytest.mark.parametrize("how", ["asked", "token by token"])
def test_an_interrupted_question_leaves_a_session_that_answers(how, lab):
    demo = vila_lab.demo_images()
    parts = [demo / "g.png", demo / "m.png", "What is in image 2?"]
    expected = lab.ask(parts, max_new_tokens=3)
    before = traces(lab.model)

    def work() -> None:
        with lab.knockout("image_1 -> image_2") as edit:
            if how == "asked":
                lab.ask(parts, max_new_tokens=1)
            else:
                next(lab.engine.run(Request(Prompt.of(parts), max_new_tokens=2, edits=(edit.spec,))))

    files = (context, recorder, editing, call, sinks, lock, interrupts, engine, answering, generation, proof, question)
    for at in every_line(*files, work=work, most=15):
        gc.collect()  # what an interrupt left suspended ends when it is let go of
        assert traces(lab.model) == before, at
        assert not lab.edits, at
        assert not lab.engine.lock.locked(), at
        assert torch.is_grad_enabled(), at
    after = lab.ask(parts, max_new_tokens=3)
    assert [t.logprob for t in after.tokens] == [t.logprob for t in expected.tokens]


def test_a_tape_that_is_moved_stays_whole_after_an_interrupt_at_any_line(lab):
    demo = vila_lab.demo_images()
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"], max_new_tokens=2)
    expected = answer.record.tape().weights(2)

    def work() -> None:
        answer.record.tape().to("cpu")

    for at in every_line(tape, work=work, most=60):
        assert torch.equal(answer.record.tape().weights(2), expected), at


def test_a_model_that_was_left_unfinished_is_refused_until_it_is_loaded_again():
    lab = vila_lab.load(dtype=torch.float64)  # a session of its own: others go on with theirs
    lab.model.__dict__[interrupts.UNFINISHED] = "its weights are shuffled"
    try:
        with pytest.raises(CaptureError, match=r"weights are shuffled.*lab\.unload\(\)"):
            lab.ask("Hello", max_new_tokens=1)
    finally:
        lab.unload()
    again = vila_lab.load(dtype=torch.float64)
    assert again.ask("Hello", max_new_tokens=1).tokens
    again.unload()


# -- deferred signals ----------------------------------------------------------------------------------------------------


def test_ctrl_c_waits_until_the_block_has_ended():
    done = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with interrupts.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_is_put_back_after_an_interrupt_at_any_line():
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with interrupts.uninterrupted():
            pass

    for at in every_line(interrupts, work=work):
        assert signal.getsignal(signal.SIGINT) is before, at


def test_other_threads_have_no_signals_to_defer():
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with interrupts.uninterrupted():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert not failed


def test_real_signals_during_shuffling_leave_the_weights_as_they_were():
    """Not at chosen lines but at chosen times, with the signal that Ctrl-C sends."""
    model = torch.nn.Linear(700, 700)
    before = model.weight.detach().clone()
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    came = 0
    try:
        for k in range(60):
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 2e-4 * (k + 1))
                    with baselines.shuffled(model):
                        pass
                except KeyboardInterrupt:
                    came += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.equal(model.weight, before), k
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert came
