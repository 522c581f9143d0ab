"""Questions of several clients answered side by side. Knows how one is told what was said, and an engine that answers many.

An answer given so is that of the question alone to the rounding of a batch, so this is done only where a server was told to
(``--batch``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from ..engine.answering import Stopped
from ..engine.engine import Engine
from ..errors import CaptureError, VilaLabError
from ..tokens import Token
from .failures import Refused
from .memo import Memo
from .question import Question
from .worker import Job

More: TypeAlias = "Callable[[int, float], list[Job]]"
GATHERING = 0.03  # seconds


class Together:
    """What a worker does with jobs whose questions may stand beside others.

    Parameters
    ----------
    engine
    memo
        The last answers: who asks one of them again needs no model.
    most
        Questions side by side.
    """

    def __init__(self, engine: Engine, memo: Memo, most: int) -> None:
        self._engine, self._memo, self._most = engine, memo, most
        self._before = 0  # questions that were answered side by side of late

    def __call__(self, jobs: list[Job], more: More) -> None:
        """Answer the questions of some jobs; each fails alone."""
        fresh = self._gathered(jobs, more)
        self._before = max(len(fresh), self._before - 1)
        questions: list[Question] = [job.alike for job in fresh]
        last = [-1] * len(fresh)

        def told(number: int, token: Token) -> None:
            if token.position > last[number]:  # where memory ran out a smaller batch begins again
                last[number] = token.position
                questions[number].say(0, token)
            _check(fresh[number], questions[number])

        requests = [question.requests[0] for question in questions]
        for job, found in zip(fresh, self._engine.run_many(requests, told=told), strict=True):
            if isinstance(found, VilaLabError):
                job.failed(_why(job) or found)
            else:
                job.alike.close(0, found, 0)
                job.alike.end([found])

    def _gathered(self, jobs: list[Job], more: More) -> list[Job]:
        """Jobs that need the model. Clients who were answered together come back together, and those who asked again what was asked
        before at once: as many as of late are waited for, for a moment."""
        end = time.monotonic() + GATHERING
        fresh = self._unsettled(jobs)
        while len(fresh) < min(self._before, self._most) and (left := end - time.monotonic()) > 0:
            fresh += self._unsettled(more(self._most - len(fresh), left))
        return fresh

    def _unsettled(self, jobs: list[Job]) -> list[Job]:
        if any(job.alike.key in self._memo for job in jobs):
            self._memo.look()
        return [job for job in jobs if not _is_settled(job)]


def _is_settled(job: Job) -> bool:
    """Whether a job needs no model: nobody waits for it any more, or it was answered before."""
    why = _why(job)
    if why is not None:
        job.failed(why)
        return True
    question: Question = job.alike
    question.begin()
    return question.answer_again()


def _check(job: Job, question: Question) -> None:
    """End an answer whose client is gone, or whose time is over, or keep what there is of one who has heard enough."""
    why = _why(job)
    if why is not None:
        raise CaptureError(why.message)
    if question.is_stopped:
        raise Stopped


def _why(job: Job) -> Refused | None:
    try:
        job.check()
    except Refused as refused:
        return refused
    return None
