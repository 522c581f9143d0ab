"""Questions of several clients answered side by side. Knows how one is told what was said, and an engine that answers many.

An answer given so is that of the question alone to the rounding of a batch, so this is done only where a server was told to
(``--batch``).
"""

from __future__ import annotations

from ..engine.answering import Stopped
from ..engine.engine import Engine
from ..errors import CaptureError, VilaLabError
from ..tokens import Token
from .failures import Refused
from .memo import Memo
from .question import Question
from .worker import Job


class Together:
    """What a worker does with jobs whose questions may stand beside others.

    Parameters
    ----------
    engine
    memo
        The last answers: who asks one of them again needs no model.
    """

    def __init__(self, engine: Engine, memo: Memo) -> None:
        self._engine, self._memo = engine, memo

    def __call__(self, jobs: list[Job]) -> None:
        """Answer the questions of some jobs; each fails alone."""
        fresh = [job for job in jobs if not self._is_settled(job)]
        questions: list[Question] = [job.alike for job in fresh]
        for question in questions:
            question.begin()

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

    def _is_settled(self, job: Job) -> bool:
        """Whether a job needs no model: nobody waits for it any more, or it was answered before."""
        why = _why(job)
        if why is not None:
            job.failed(why)
            return True
        if self._memo.get(job.alike.key) is None:
            return False
        job.work(job)
        return True


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
