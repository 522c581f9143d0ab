"""An errand: a piece of work on the model that somebody waits for in the event loop. Knows the worker, and not what is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..interrupts import stoppable
from ..progress import told_to
from .failures import closing, gone, refusal_of
from .mailbox import Mailbox
from .worker import Job, Worker

log = logging.getLogger("vila_lab.serve")
POLL = 0.1  # seconds between two looks whether a client is still there

IsGone = Callable[[], Awaitable[bool]]


class Errand:
    """Some work in the worker's thread.

    Parameters
    ----------
    worker
    owner
        Who asked for it.
    work
        Called there; its result must need no model.
    limit
        Seconds that it may take.
    """

    def __init__(self, worker: Worker, owner: str, work: Callable[[], Any], limit: float) -> None:
        self._work = work
        self._mailbox = Mailbox()
        self._job = worker.submit(owner, self._do, self._fail, limit)

    async def result(self, is_gone: IsGone) -> Any:
        """What the work gives; it ends early if the client is gone.

        Raises
        ------
        Refused
            If it fails.
        """
        try:
            return await attended(self._last(), is_gone)
        finally:
            self._job.cancel()

    async def events(self) -> AsyncIterator[tuple[str, Any]]:
        """How much is done, ("progress", (done, total, what)), and at last ("result", ...); leaving it ends the work.

        Raises
        ------
        Refused
            If it fails.
        """
        try:
            while True:
                kind, what = await self._mailbox.next()
                yield kind, what
                if kind == "result":
                    return
        finally:
            self._job.cancel()

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._job.cancel()

    async def _last(self) -> Any:
        async for kind, what in self.events():
            if kind == "result":
                return what
        raise closing()

    # -- in the worker's thread --------------------------------------------------------------------------------------

    def _do(self, job: Job) -> None:
        with stoppable(job.check), told_to(lambda *told: self._mailbox.tell("progress", told)):
            found = self._work()
        self._mailbox.tell("result", found)

    def _fail(self, error: BaseException) -> None:
        refused = refusal_of(error)
        if refused.status == 500:
            log.error("some work failed", exc_info=error)
        self._mailbox.tell("error", refused)


async def attended(waited: Awaitable[Any], is_gone: IsGone) -> Any:
    """What is waited for, as long as the client is there.

    Raises
    ------
    Refused
        If the client is gone.
    """
    waiting = asyncio.ensure_future(waited)
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=POLL)
            if not waiting.done() and await is_gone():
                raise gone()
        return waiting.result()
    finally:
        waiting.cancel()
