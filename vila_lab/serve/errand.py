"""An errand: a piece of work on the model that somebody waits for in the event loop. Knows the worker, and not what is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..interrupts import stoppable
from ..progress import told_to
from .failures import Refused, refusal_of
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
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
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
                kind, what = await self._events.get()
                if kind == "error":
                    raise what
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
        raise Refused(503, "the server is shutting down")

    # -- in the worker's thread --------------------------------------------------------------------------------------

    def _do(self, job: Job) -> None:
        with stoppable(job.check), told_to(lambda *told: self._tell("progress", told)):
            found = self._work()
        self._tell("result", found)

    def _fail(self, error: BaseException) -> None:
        refused = refusal_of(error)
        if refused.status == 500:
            log.error("some work failed", exc_info=error)
        self._tell("error", refused)

    def _tell(self, kind: str, what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, what))
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.info("some work was done after the server's end")


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
                raise Refused(499, "the client went away")
        return waiting.result()
    finally:
        waiting.cancel()
