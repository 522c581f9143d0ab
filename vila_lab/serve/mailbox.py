"""A mailbox: what the worker's thread tells somebody who waits in the event loop. Knows neither of the two."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

log = logging.getLogger("vila_lab.serve")


class Mailbox:
    """Made in the event loop, which alone reads it; anybody may put something in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def tell(self, kind: str, what: Any) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, what))
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.info("something was done after the server's end")

    async def next(self) -> tuple[str, Any]:
        """The next event.

        Raises
        ------
        Refused
            If it is an error.
        """
        kind, what = await self._events.get()
        if kind == "error":
            raise what
        return kind, what
