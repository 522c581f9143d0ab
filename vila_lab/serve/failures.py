"""Failures as OpenAI's clients read them: one body for all. Knows errors and status codes, no request."""

from __future__ import annotations

from typing import Any

from ..errors import OutOfMemory, VilaLabError


class Refused(Exception):
    """A request that is not answered.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        One sentence: what is wrong, and the way out.
    headers : dict, optional
    kind : str
        Name of the error, by which another vila_lab raises it again.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.message = message
        self.headers = headers or {}


class Busy(Refused):
    """Too many questions wait."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(429, message, {"Retry-After": str(seconds)})


NO_ROOM = (
    "there is no memory for this, also after all was dropped that can be computed again: ask with fewer or smaller pictures, or fewer "
    "tokens"
)
LONGEST = 1000  # characters of a message: what a client sent is not sent back to it whole


def gone() -> Refused:
    """Nobody waits for the answer any more."""
    return Refused(499, "the client went away")


def closing() -> Refused:
    """The server ends."""
    return Refused(503, "the server is shutting down", {"Retry-After": "10"})


KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(status: int, message: str, kind: str = "") -> dict[str, Any]:
    """What a client is sent; beside OpenAI's own fields the error's name, where it is one of vila_lab's.

    >>> body(404, "there is no such page")["error"]["type"]
    'not_found_error'
    """
    sort = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    shown = message if len(message) <= LONGEST else f"{message[: LONGEST - 3]}..."
    error = {"message": shown, "type": sort, "param": None, "code": status}
    return {"error": {**error, "vila_lab": kind} if kind else error}


def refusal_of(error: BaseException) -> Refused:
    """What a failure is to a client; of what went wrong inside nothing is told."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, OutOfMemory):
        return Refused(503, NO_ROOM, {"Retry-After": "5"}, type(error).__name__)
    if isinstance(error, VilaLabError):
        return Refused(400, str(error), kind=type(error).__name__)
    return Refused(500, "something went wrong inside the server; its log says what")
