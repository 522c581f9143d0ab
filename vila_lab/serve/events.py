"""Server-sent events: how they are written, and a response of them that is left however it ends. Knows no question."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

EVENTS = "text/event-stream"


def event(data: dict[str, Any]) -> str:
    """A server-sent event.

    >>> event({"a": "b"})
    'data: {"a": "b"}\\n\\n'
    """
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class Events(StreamingResponse):
    """Events as they come.

    Parameters
    ----------
    events
    leave
        Called at the end, also where the client was gone before the first: a generator that never began runs no ``finally``.
    """

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type=EVENTS)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()
