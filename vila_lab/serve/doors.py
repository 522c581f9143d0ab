"""Doors: what every request passes before a route sees it: host, token, size; and what none may leave by: a traceback. Knows ASGI."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .failures import Refused, body, refusal_of

log = logging.getLogger("vila_lab.serve")
OPEN = ("/healthz", "/readyz", "/openapi.json")
"""Pages that need no token: they tell nothing about anybody."""

LARGEST = 64 * 2**20  # bytes of a body
HEADERS = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


def client_of(scope: Mapping[str, Any]) -> str:
    """Whose request it is: the name of its token."""
    return str(scope["vila_lab_client"])


class Doors:
    """ASGI middleware; see the module.

    Parameters
    ----------
    app
    tokens
        By the name of who has it.
    hosts
        Names under which the server may be asked: another in the Host header is a page elsewhere that had its name point here.
    """

    def __init__(self, app: ASGIApp, tokens: Mapping[str, str], hosts: Sequence[str]) -> None:
        self._app = app
        self._tokens = {name: token.encode() for name, token in tokens.items()}
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_host(headers)
            scope["vila_lab_client"] = self._owner(scope["path"], headers)
            _check_size(headers)
            await self._app(scope, _measured(receive), sending)
        except Exception as error:
            refused = refusal_of(error)
            if refused.status == 500:
                log.error("a request failed", exc_info=error)
            if begun:  # the status is sent: all that is left is to end
                return
            await _send(refused, sending)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self._hosts:
            raise Refused(421, "this server is not asked under that name")

    def _owner(self, path: str, headers: Mapping[str, str]) -> str:
        """Whose token a request has."""
        if path in OPEN:
            return ""
        kind, _, given = headers.get("authorization", "").partition(" ")
        found = [name for name, token in self._tokens.items() if hmac.compare_digest(token, given.strip().encode())]
        if kind.lower() != "bearer" or not found:
            raise Refused(401, "a token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})
        return found[0]


def _check_size(headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST:
        raise Refused(413, f"the request is larger than {LARGEST // 2**20} MiB; send fewer or smaller pictures")


def _measured(receive: Receive) -> Receive:
    """A body that does not say its size is measured as it comes."""
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST:
            raise Refused(413, f"the request is larger than {LARGEST // 2**20} MiB; send fewer or smaller pictures")
        return message

    return receiving


async def _send(refused: Refused, send: Send) -> None:
    data = json.dumps(body(refused.status, refused.message), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(data)), **refused.headers}
    listed = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": listed})
    await send({"type": "http.response.body", "body": data})
