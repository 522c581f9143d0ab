"""A server from its start to its end: socket, token, signals. Knows uvicorn, and no route."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn

from ..errors import FileAccessError, OptionError
from ..session import Session
from .app import GRACE, create_app
from .fetching import fetch

TOKEN = "VILA_LAB_TOKEN"
LOCAL = ("127.0.0.1", "localhost", "::1")
SHORTEST = 8  # characters of a token


def run(
    lab: Session, host: str, port: int, say: Callable[[str], None], *, remote: bool = False, domains: Sequence[str] = ()
) -> int:
    """Serve until a signal ends it; returns the exit status.

    Parameters
    ----------
    lab
        A resident model.
    host, port
        Where to listen.
    say
        Tells the person who started it.
    remote
        Whether pictures are fetched from other servers, from public addresses alone.
    domains
        Host names that they are fetched from; none given: all.

    Raises
    ------
    OptionError
        If the port or the token makes no sense.
    FileAccessError
        If the address cannot be listened on.
    """
    if not 0 <= port < 2**16:
        raise OptionError(f"--port {port} is no port; choose one from 1 to 65535")
    given = os.environ.get(TOKEN, "")
    if given and (len(given) < SHORTEST or not given.isascii() or any(c.isspace() for c in given)):
        raise OptionError(f"{TOKEN} must have at least {SHORTEST} characters, plain ones and no blanks")
    token = given or secrets.token_urlsafe(24)
    app = create_app(lab, {"owner": token}, tuple({*LOCAL, host}), partial(fetch, domains=domains) if remote else None)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=int(GRACE), server_header=False, h11_max_incomplete_event_size=2**16
    )  # fmt: skip
    server = uvicorn.Server(config)
    try:
        listening = config.bind_socket()
    except SystemExit as error:  # how uvicorn says so
        raise FileAccessError(f"{host}:{port} cannot be listened on; choose another --port") from error
    say(f"http://{host}:{listening.getsockname()[1]} serves {lab.name}")
    if not given:
        say(f"token: {token}")
    server.run([listening])
    return 0
