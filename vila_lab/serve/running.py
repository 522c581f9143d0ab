"""A server from its start to its end: socket, token, signals. Knows uvicorn, and no route."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import FileAccessError
from ..inputs.fetching import fetch
from ..session import Session
from .app import GRACE, create_app
from .doors import send_refusal
from .failures import closing
from .settings import PLAIN, Settings

LAST = 14.0  # seconds from the first signal after which the process ends, whatever it is doing
SENDING = 2  # seconds that answers have to be sent, once the model stands still


def run(load: Callable[[], Session], settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until a signal ends it; returns the exit status.

    Parameters
    ----------
    load
        Gives a resident model; called once the address is ours.
    settings
        See there.
    say
        Tells the person who started it.

    Raises
    ------
    OptionError
        If a token makes no sense.
    FileAccessError
        If the address cannot be listened on, or a file of tokens not be read.
    """
    owners, made = settings.owners(say)
    with listening(settings.host, settings.port) as bound:
        lab = load()
        fetcher = partial(fetch, domains=settings.domains) if settings.remote else None
        app = create_app(
            lab,
            owners,
            settings.hosts,
            fetcher,
            time_limit=settings.time_limit,
            batch=settings.batch,
            classroom=settings.classroom,
        )
        server = Server(app, settings)
        say(f"{settings.address(bound.getsockname()[1])} serves {lab.name}")
        if made:
            say(f"token: {made}")
        if app.state.classroom:
            say(f"join code of the class: {app.state.classroom.code}")
        if not (settings.is_local or settings.tls_cert):
            say(PLAIN)
        server.run([bound])
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound, and not yet answers.

    Raises
    ------
    FileAccessError
        If it cannot be.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere the option lets two processes share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = error.strerror or error
        raise FileAccessError(
            f"{host}:{port} cannot be listened on ({reason}); choose another --port or --host"
        ) from error
    return bound


class Server(uvicorn.Server):
    """uvicorn's server, which after a signal ends within `LAST` seconds, and after a second one at once.

    While the question that runs is finished, it still listens, so that who comes now is told why there is no answer.

    Parameters
    ----------
    app
        With the worker that is closed first, as `app.state.worker`.
    settings
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            _Quiet(app), log_level="warning", timeout_graceful_shutdown=SENDING, server_header=False,
            ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key, h11_max_incomplete_event_size=2**16,
        )  # fmt: skip
        super().__init__(config)
        self._worker = app.state.worker
        self._ending = threading.Event()
        threading.Thread(target=self._end_at_last, name="vila_lab end", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What the first signal does; at a second one the system ends the process, also where Python gets no turn."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        super().handle_exit(sig, frame)
        self._ending.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs end, then stop to listen, then end."""
        closing = asyncio.ensure_future(asyncio.to_thread(self._worker.close, GRACE))
        await asyncio.wait([closing], timeout=GRACE + 1)
        await super().shutdown(sockets)

    def _end_at_last(self) -> None:
        self._ending.wait()
        time.sleep(LAST)
        os.kill(os.getpid(), signal.SIGTERM)


class _Quiet:
    """An app whose requests, where uvicorn's patience with them ends, end without a traceback in its log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if scope["type"] == "http" and not begun:
                await send_refusal(closing(), send)
