"""A server in a thread of the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

import vila_lab
from vila_lab.serve.app import create_app

TOKEN, OTHER = "a-token-of-the-tests", "another-token-of-theirs"
OWNERS = {"one": TOKEN, "two": OTHER}


@contextmanager
def serving(lab: vila_lab.Session | None = None, **options: Any) -> Iterator[tuple[str, Any]]:
    """Address and application of a server, of the embedded model where no other is given."""
    app = create_app(lab or vila_lab.load(), OWNERS, **options)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server, listening = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", app
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    with serving() as found:
        yield found


@pytest.fixture(scope="session")
def another_server() -> Callable[..., Any]:
    return serving
