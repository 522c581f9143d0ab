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
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class Busy(Refused):
    """Too many questions wait."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(429, message, {"Retry-After": str(seconds)})


KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(status: int, message: str) -> dict[str, Any]:
    """What a client is sent.

    >>> body(404, "there is no such page")["error"]["type"]
    'not_found_error'
    """
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def refusal_of(error: BaseException) -> Refused:
    """What a failure is to a client; of what went wrong inside nothing is told."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, OutOfMemory):
        return Refused(503, str(error), {"Retry-After": "5"})
    if isinstance(error, VilaLabError):
        return Refused(400, str(error))
    return Refused(500, "something went wrong inside the server; its log says what")
