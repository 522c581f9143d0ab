"""Answering: a request under way, a token a step, and the record of what was said. Knows one question at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from torch.utils.hooks import RemovableHandle

from ..errors import CaptureError
from ..hooks.sites import Site, find_sites
from ..interrupts import keeps_gradients
from ..tokens import Token
from .generation import Generation
from .record import Record
from .request import Request

if TYPE_CHECKING:
    from .engine import Engine


T = TypeVar("T")


class Stopped(Exception):
    """Ends a forward that nobody waits for any more."""


class Answering:
    """A request under way. The engine is held within a call only: between two of them nothing is in the model.

    Parameters
    ----------
    engine
    request

    Raises
    ------
    ContextTooLong
        If prompt and answer do not fit.
    NoEffect
        If an edit means nothing for this prompt.

    Examples
    --------
    >>> import vila_lab
    >>> from vila_lab.engine.request import Request
    >>> from vila_lab.prompt import Prompt
    >>> engine, picture = vila_lab.load().engine, vila_lab.demo_images() / "g.png"
    >>> answering = Answering(engine, Request(Prompt.of([picture, picture, "What is in image 2?"])))
    >>> answering.step().text, answering.record().notes
    ('Google', ('the answer was interrupted after 1 token',))
    """

    @keeps_gradients
    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._asked = engine.with_room(lambda: engine.asked(request))
        self._generation = self._new_generation()

    @property
    def tokens(self) -> tuple[Token, ...]:
        """What was said so far."""
        return tuple(self._generation.saying.tokens)

    @property
    def reused(self) -> int:
        """How many positions of the prompt were not computed again."""
        return self._asked.question.reused

    @property
    def has_ended(self) -> bool:
        """Whether the last token stopped the answer, or reached its limit."""
        return self._generation.saying.has_ended

    @cached_property
    def _sites(self) -> list[Site]:
        """Looked for by the first step: an answer that is asked for whole is not stopped, and need not walk the model."""
        return find_sites(self._engine.family.model)

    def _new_generation(self) -> Generation:
        return Generation(self._asked, reuse=self._engine.usable)

    def stop(self) -> None:
        """Have a step that is at work elsewhere end within a layer, and no other begin; from any thread."""
        self._stop.set()

    @keeps_gradients
    def step(self) -> Token:
        """The next token.

        Raises
        ------
        Stopped
            After `stop`.
        NotANumber
            If the model's logits are NaN and no edit is there to blame.
        """
        return self._with_room(self._step)

    def _step(self) -> Token:
        with self._engine.lock, self._stoppable(), self._generation.in_the_model():
            return self._generation.step()

    @keeps_gradients
    def rest(self, told: Callable[[Token], None] | None = None) -> None:
        """All tokens that are left, the engine held throughout: nobody else's come between, and hooks are put in once.

        Parameters
        ----------
        told
            Called with each token as it comes; then `stop` is noticed before every layer, and ends it with what was said.
        """
        if told is None:
            self._with_room(self._rest)
            return
        with suppress(Stopped):
            self._with_room(lambda: self._rest(told))

    def _rest(self, told: Callable[[Token], None] | None = None) -> None:
        watched = self._stoppable() if told is not None else nullcontext()
        with self._engine.lock, watched, self._generation.in_the_model():
            while not self.has_ended:
                token = self._generation.step()
                if told is not None:
                    told(token)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Where memory ran out the answer is begun again, and comes to the same words; hooks are not called twice."""
        if any(not spec.is_edit for spec in self._asked.request.edits):
            return work()
        said = len(self._generation.saying.tokens)

        def again() -> T:
            self._generation = self._new_generation()
            for _ in range(said):
                self._step()
            return work()

        return self._engine.with_room(work, again)

    @keeps_gradients
    def record(self) -> Record:
        """What is left of it, once every edit is proven; an answer that did not end says that it was interrupted.

        Raises
        ------
        NoEffect
            If an edit changed no logit.
        CaptureError
            If nothing was said.
        """
        return self._engine.with_room(self._record)

    def _record(self) -> Record:
        generation = self._generation
        if not self.tokens:
            raise CaptureError("the answer was interrupted before its first token, so nothing is left of it: ask again")
        with self._engine.lock:
            self._engine.check()
            return self._asked.record(generation.saying, generation.norms.values(), generation.tape())

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """`stop` is noticed before every layer of tower and decoder."""
        here = threading.get_ident()

        def check(*_: Any) -> None:
            if self._stop.is_set() and threading.get_ident() == here:
                raise Stopped

        check()
        hooks: list[RemovableHandle] = []
        try:
            try:
                for site in self._sites:
                    hooks.append(site.module.register_forward_pre_hook(check))
                yield
            finally:
                _remove(hooks)
        finally:  # again: an interrupt may have come just before the first time
            _remove(hooks)


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
