"""A question that is being answered, for all who asked the same; and one of those who did. Knows a session, no HTTP.

Thirty students who ask what the teacher asked are told what one of them is told: requests that are equal to the last bit of their
pictures, and do not draw tokens at random, are answered once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

from ..answer import Answer
from ..engine.answering import Answering
from ..engine.memory import image_bytes
from ..engine.record import Record
from ..engine.request import Request
from ..interrupts import stoppable
from ..session import Session
from ..tokens import Token
from .completions import Pieces
from .failures import refusal_of
from .figures import Timer
from .kept import Kept
from .mailbox import Mailbox
from .memo import Memo
from .wanted import Wanted, told
from .worker import Job

log = logging.getLogger("vila_lab.serve")

Heard: TypeAlias = "Callable[[str, Answer], None]"


class Listener(Mailbox):
    """One who asked, and is told pieces, answers and the end.

    Parameters
    ----------
    owner
        Whose request it is.
    wanted
        What it asks for beyond the answer; None for nothing.
    names
        Ids of its answers.
    timer
    streams
        Whether it is told every piece; who waits for the whole is told at the end alone, and the event loop is left in peace.
    """

    def __init__(self, owner: str, wanted: Wanted | None, names: Sequence[str], timer: Timer, *, streams: bool) -> None:
        super().__init__()
        self.owner, self.wanted, self.names, self.timer, self.streams = owner, wanted, tuple(names), timer, streams

    async def events(self) -> AsyncIterator[tuple[str, Any]]:
        """All events but the end."""
        while (event := await self.next())[0] != "end":
            yield event


class Question:
    """Some requests under way, one after the other.

    Parameters
    ----------
    lab
    requests
        Of one prompt; several where several answers are wanted.
    kept
        Where answers go that somebody wants to look at.
    memo
        The last answers.
    heard
        Told of every listener whose it is, and the answer; from the worker's thread.

    Attributes
    ----------
    requests : tuple of Request
    key
        What equal questions have in common; None for one that is equal to none.
    is_stopped : bool
        Whether somebody has heard enough.
    job : Job or None
    """

    def __init__(
        self, lab: Session, requests: Sequence[Request], kept: Kept, memo: Memo, heard: Heard | None = None
    ) -> None:
        self._lab, self._kept, self._memo, self._heard = lab, kept, memo, heard
        self.requests, self.key = tuple(requests), key_of(requests)
        self._pieces = [Pieces(request.stop) for request in requests]
        self._listeners: list[Listener] = []
        self._may_join = True
        self._begun = False
        self.is_stopped = False
        self._lock = threading.Lock()
        self._answering: Answering | None = None
        self.job: Job | None = None

    @property
    def may_stand_beside_others(self) -> bool:
        """Whether it is one request, and without edits."""
        return len(self.requests) == 1 and not self.requests[0].edits

    @property
    def nbytes(self) -> int:
        """Bytes of its pictures."""
        return image_bytes(self.requests[0].prompt.images)

    # -- in the event loop -------------------------------------------------------------------------------------------

    def join(self, listener: Listener) -> bool:
        """Listen as well, to the answers as wholes; False if it is too late for that."""
        with self._lock:
            if not self._may_join:
                return False
            self._listeners.append(listener)
            if self._begun:
                listener.timer.begins()
            return True

    def leave(self, listener: Listener) -> None:
        """Listen no more; with the last one the work ends."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if self._listeners:
                return
            self._may_join = False
        if self.job is not None:
            self.job.cancel()

    def stop(self) -> None:
        """Have the answer end here, with what was said."""
        with self._lock:
            self._may_join = False
            self.is_stopped = True
            if self._answering is not None:
                self._answering.stop()

    # -- in the worker's thread --------------------------------------------------------------------------------------

    def answer(self, job: Job) -> None:
        """Answer, and tell each token as it comes."""
        self.begin()
        if self.key in self._memo:
            self._memo.look()
        with stoppable(job.check):
            if not self.answer_again():
                self.end([self._answer_one(job, number) for number in range(len(self.requests))])

    def answer_again(self) -> bool:
        """Answer as it was answered before, if it was; behind a `Memo.look`."""
        known = self._memo.get(self.key)
        if known is None:
            return False
        for number, record in enumerate(known):
            self._say_again(number, record)
        self.end(known)
        return True

    def begin(self) -> None:
        """It is not waiting any more."""
        with self._lock:
            self._begun = True
            for listener in self._listeners:
                listener.timer.begins()

    def say(self, number: int, token: Token) -> None:
        """Tell a token of one of the answers."""
        piece = number, self._pieces[number].add(token.text), token
        with self._lock:
            for listener in self._listeners:
                listener.timer.token()
                if listener.streams:
                    listener.tell("piece", piece)

    def close(self, number: int, record: Record, reused: int) -> None:
        """Tell the whole of one of the answers."""
        rest = self._pieces[number].rest(record.text)
        with self._lock:
            self._may_join = False
        self._for_all(lambda listener: self._give(listener, number, rest, record, reused))

    def end(self, records: Sequence[Record]) -> None:
        """Tell that these were all."""
        if not self.is_stopped:
            self._memo.put(self.key, records)
        self._for_all(lambda listener: self._end(listener, "stop", "end", None))

    def _answer_one(self, job: Job, number: int) -> Record:
        answering = self._lab.begin(self.requests[number])
        with self._lock:
            self._answering = answering
        if self.is_stopped:
            answering.stop()
        job.follow(answering.stop)
        answering.rest(lambda token: self.say(number, token))
        job.check()
        record = answering.record()
        self.close(number, record, answering.reused)
        return record

    def _say_again(self, number: int, record: Record) -> None:
        """An answer that was given before, as if it came now."""
        for token in record.tokens:
            self.say(number, token)
        self.close(number, record, record.token_map.prompt_length)

    def _give(self, listener: Listener, number: int, rest: str, record: Record, reused: int) -> None:
        """An answer, with all that this one asked for."""
        answer, wanted, name = self._lab.answer_of(record), listener.wanted, listener.names[number]
        more = None
        if wanted is not None:
            more = told(answer, wanted, name, reused)
            if wanted.keep:
                self._kept.add(listener.owner, name, answer)
        if self._heard is not None:
            self._heard(listener.owner, answer)
        listener.timer.read(answer.token_map.prompt_length, reused)
        listener.tell("answer", (number, rest, answer, reused, more))

    def fail(self, error: BaseException) -> None:
        """Tell why there is no answer."""
        self._for_all(lambda listener: self._refuse(listener, error))

    def _refuse(self, listener: Listener, error: BaseException) -> None:
        refused = refusal_of(error)
        if refused.status == 500:
            log.error("a question failed", exc_info=error)
        self._end(listener, "abort" if refused.status == 499 else "error", "error", refused)

    def _end(self, listener: Listener, how: str, kind: str, what: Any) -> None:
        with self._lock:
            if listener not in self._listeners:
                return
            self._listeners.remove(listener)
            self._may_join = False
        listener.timer.ends(how)
        listener.tell(kind, what)

    def _for_all(self, function: Callable[[Listener], None]) -> None:
        """Do something for each; what goes wrong for one is that one's alone."""
        for listener in list(self._listeners):
            try:
                function(listener)
            except Exception as error:
                self._refuse(listener, error)


def key_of(requests: Sequence[Request]) -> Any:
    """What equal questions have in common; None for one that nobody else can have asked: drawn without a seed, or under edits.

    Examples
    --------
    >>> from vila_lab.prompt import Prompt
    >>> key_of([Request(Prompt.of("Hello"))]) == key_of([Request(Prompt.of("Hello"))])
    True
    """
    if any(each.edits or (each.sampling.do_sample and each.sampling.seed is None) for each in requests):
        return None
    prompt = requests[0].prompt
    said = [(turn.role, _parts(turn.parts), turn.ids) for turn in prompt.history]
    whole = [
        (repr(each.options), each.sampling, each.max_new_tokens, each.stop, each.logprobs, each.form)
        for each in requests
    ]
    return (tuple(said), _parts(prompt.parts), prompt.goes_on, tuple(whole))


def _parts(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Texts, and pictures by their content and by what a reader is told of them."""
    return tuple(part if isinstance(part, str) else (part.digest, part.notes) for part in parts)
