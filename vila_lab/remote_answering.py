"""An answer under way on a server, a token a step. Knows the service's events, no session."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from .connection import Connection
from .engine.answering import Stopped
from .engine.record import Record
from .errors import CaptureError, ServiceError
from .tokens import Token


class RemoteAnswering:
    """A request that a server is answering; what `Answering` is in this process.

    Parameters
    ----------
    connection
    body
        Of a streamed completion whose tokens are told.
    record_of
        From what is told at the end to a record.
    """

    def __init__(
        self, connection: Connection, body: Mapping[str, Any], record_of: Callable[[Mapping[str, Any]], Record]
    ) -> None:
        self._connection, self._record_of = connection, record_of
        self._tokens: list[Token] = []
        self._told: Mapping[str, Any] | None = None
        self._record: Record | None = None
        self._is_stopped = False
        opened = ExitStack()
        # What is wrong with the request is told here, before the first token.
        self._events = opened.enter_context(connection.events("/v1/chat/completions", table=body))
        self._close = weakref.finalize(self, opened.close)  # who lets go of it lets the server stop
        self._name = str(next(self._events)["choices"][0]["vila_lab"]["answer"])

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(self._tokens)

    @property
    def reused(self) -> int:
        return 0 if self._told is None else int(self._told["reused"])

    @property
    def has_ended(self) -> bool:
        return self._told is not None

    def step(self) -> Token:
        """The next token.

        Raises
        ------
        Stopped
            After the last one, or after `stop`.
        VilaLabError
            If the server cannot go on, or is gone.
        """
        if self._is_stopped:
            raise Stopped
        token = self._next()
        if token is None:
            raise Stopped
        return token

    def stop(self) -> None:
        """Have the server say no more; what it said stays."""
        if self._is_stopped or self.has_ended:
            return
        self._is_stopped = True
        with suppress(ServiceError):  # it ended meanwhile, or the server is gone: `record` says so
            self._connection.post(f"/v1/answers/{self._name}/stop")

    def record(self) -> Record:
        """What was said.

        Raises
        ------
        CaptureError
            If nothing was.
        ServiceError
            If the server is gone.
        """
        if not self._tokens:
            self._close()
            raise CaptureError("the answer was stopped before its first token, so nothing is left of it: ask again")
        if self._record is None:
            while self._told is None and self._next() is not None:
                pass
            if self._told is None:
                raise ServiceError("the server ended before the answer did: ask again")
            self._record = self._record_of(self._told)
        return self._record

    def _next(self) -> Token | None:
        """The next token; None at the end, when all is told."""
        for event in self._events:
            for choice in event["choices"]:
                told = choice.get("vila_lab") or {}
                if "record" in told:
                    self._told = told
                if "token" in told:
                    self._tokens.append(_token(told["token"]))
                    return self._tokens[-1]
        self._close()
        return None


def _token(told: Mapping[str, Any]) -> Token:
    others = tuple((str(text), int(number), float(logprob)) for text, number, logprob in told["alternatives"])
    return Token(**{**told, "alternatives": others})
