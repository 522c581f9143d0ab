"""Doors: what every request passes on its way in (host, token, size, quota), and what none may leave by: a traceback. Knows ASGI."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .failures import Refused, body, refusal_of
from .tokens import Owner, Owners, Quotas, owners_of

log = logging.getLogger("vila_lab.serve")
OPEN = ("/", "/docs", "/healthz", "/readyz", "/openapi.json", "/class/join")
"""Pages that need no token: they tell nothing about anybody."""

OPEN_BELOW = "/page/"
"""What the page is made of; no token either."""

COUNTED = re.compile(r"/v1/(chat/completions|compare|answers/[^/]+/experiments/.+)")
"""What puts the model to work: a quota counts it."""

HOST = re.compile(r"(\[(?P<number>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(:\d*)?")
EVERYWHERE = ("0.0.0.0", "::")
LARGEST = 64 * 2**20  # bytes of a body
TOO_LARGE = f"the request is larger than {LARGEST // 2**20} MiB; send fewer or smaller pictures"
BODY_SECONDS = 120.0  # for a body to come
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""On every response, as long as it has none of that name itself. None lets a page of another origin read anything."""


def client_of(scope: Mapping[str, Any]) -> str:
    """Whose request it is: the name of its token."""
    return str(scope["vila_lab_client"])


def is_open(path: str) -> bool:
    """Whether a path needs no token.

    >>> [is_open(path) for path in ("/", "/readyz", "/page/page.js", "/page", "/v1/models", "/metrics")]
    [True, True, True, False, False, False]
    """
    return path in OPEN or path.startswith(OPEN_BELOW)


def counts(scope: Mapping[str, Any]) -> bool:
    """Whether a request is one of those that a quota counts.

    >>> counts({"method": "POST", "path": "/v1/chat/completions"}), counts({"method": "GET", "path": "/v1/models"})
    (True, False)
    """
    return scope["method"] == "POST" and COUNTED.fullmatch(scope["path"]) is not None


class Doors:
    """ASGI middleware; see the module.

    Parameters
    ----------
    app
    tokens
        Whose they are: `Owners`, to which more may come while the service runs, or what `owners_of` makes some of.
    hosts
        Names under which the server may be asked: another in the Host header is a page elsewhere that had its name point here.
        A server that listens everywhere ("0.0.0.0", "::") is also asked by number: a number leads nowhere else.
    quotas
        Of the same owners; by default made for them.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Owners | Mapping[str, str] | Iterable[Owner],
        hosts: Sequence[str],
        quotas: Quotas | None = None,
    ) -> None:
        self._app = app
        self._owners = owners_of(tokens)
        self._quotas = quotas or Quotas(self._owners)
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is nothing behind a websocket, so none is opened
            await send({"type": "websocket.close", "code": 1008})
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(guarded(message))

        try:
            self._pass(scope)
            await self._app(scope, _measured(receive), sending)
        except Exception as error:
            refused = refusal_of(error)
            if refused.status == 500:
                log.error("a request failed", exc_info=error)
            if not begun:  # else the status is sent: all that is left is to end
                await send_refusal(refused, send)

    def _pass(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get("host", ""))
        client = scope["vila_lab_client"] = self._client(scope["path"], headers.get("authorization", ""))
        _check_size(headers.get("content-length", "0"))
        if counts(scope):
            self._quotas.take(client)

    def _check_host(self, host: str) -> None:
        found = HOST.fullmatch(host)
        name = (found["number"] or found["name"]).lower() if found else ""
        if name in self._hosts:
            return
        if not self._hosts.isdisjoint(EVERYWHERE) and _is_number(name):
            return
        raise Refused(421, "this server is not asked under that name")

    def _client(self, path: str, authorization: str) -> str:
        """Whose token a request has."""
        if is_open(path):
            return ""
        kind, _, token = authorization.partition(" ")
        client = self._owners.of(token.strip())
        if kind.lower() != "bearer" or client is None:
            raise Refused(401, "a token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})
        return client


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_size(length: str) -> None:
    if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > LARGEST:
        raise Refused(413, TOO_LARGE)


def _measured(receive: Receive) -> Receive:
    """A body is measured as it comes, for it may not say its size, and may come too slowly to be meant.

    Its refusals are the framework's own: of all others that come up while it reads a body it makes a plain 400.
    """
    seen, is_whole, end = 0, False, time.monotonic() + BODY_SECONDS

    async def receiving() -> Message:
        nonlocal seen, is_whole
        if is_whole:  # what is waited for now is the client's going away
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except TimeoutError as error:
            raise HTTPException(408, f"the request took more than {BODY_SECONDS:.0f} s to come") from error
        is_whole = not message.get("more_body", False)
        seen += len(message.get("body", b""))
        if seen > LARGEST:
            raise HTTPException(413, TOO_LARGE)
        return message

    return receiving


def guarded(message: Message) -> Message:
    """A message of ASGI, with what every response must say if it is the one that begins a response."""
    if message["type"] != "http.response.start":
        return message
    said = list(message.get("headers", ()))
    names = {name.decode("latin-1").lower() for name, _ in said}
    more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name not in names]
    return {**message, "headers": said + more}


async def send_refusal(refused: Refused, send: Send) -> None:
    """Answer a request with why it is not answered."""
    data = json.dumps(body(refused.status, refused.message, refused.kind), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(data)), **refused.headers}
    listed = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send(guarded({"type": "http.response.start", "status": refused.status, "headers": listed}))
    await send({"type": "http.response.body", "body": data})
