"""What goes wrong around a server costs nobody else an answer: clients that vanish or dawdle, floods, kills, memory that runs out."""

from __future__ import annotations

import contextlib
import random
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from tests.serve.process import ASK, Process, head
from vila_lab.session import Session

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"messages": HELLO, "max_tokens": 800, "temperature": 50, "n": 16}  # some 1,500 tokens, if nobody stops it
VANISHING, SLOW, GUESSES = 200, 50, 10_000
ALLOWANCE = 6 * 2**20  # bytes


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Iterator[Process]:
    found = Process(tmp_path_factory.mktemp("server"))
    yield found
    if found.is_alive:
        found.end()
    assert "Traceback" not in found.said


@pytest.fixture
def server(kept) -> Process:
    """One server for all tests; started again where a test ended it."""
    if not kept.is_alive:
        kept.start()
    return kept


@pytest.fixture(scope="module")
def hello(lab: Session) -> str:
    return lab.ask("Hello", max_new_tokens=8).text


def assert_well(server: Process, hello: str) -> None:
    """A good question is answered right."""
    found = server.ask(messages=HELLO, max_tokens=8)
    assert (found.status_code, found.json()["choices"][0]["message"]["content"]) == (200, hello)


def seconds_until(is_so: Callable[[], bool], most: float) -> float:
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < most
        time.sleep(0.05)
    return time.monotonic() - start


def is_idle(server: Process) -> bool:
    return server.figure("num_requests_running") == 0 and server.figure("num_requests_waiting") == 0


def vanish(connection: socket.socket, *, rudely: bool) -> None:
    """Close a connection, in order or with a reset."""
    if rudely:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# -- clients that go away --------------------------------------------------------------------------------------------------


def test_clients_that_vanish_leave_nothing_behind(server, hello):
    """In the middle of a stream, or before it began; each asks something else, so that nobody shares an answer."""

    def come_and_go(number: int) -> bool:
        connection = server.sent(**LONG, stream=True, seed=number)
        is_begun = number % 2 == 0
        if is_begun:
            said = b""
            while b"data:" not in said:
                said += connection.recv(1000)
        else:
            time.sleep(random.Random(number).uniform(0, 0.3))
        vanish(connection, rudely=number % 3 == 0)
        return is_begun

    before = server.figure("generation_tokens_total")
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(come_and_go, range(VANISHING))) == VANISHING / 2
    assert seconds_until(lambda: is_idle(server), 5) < 5
    assert server.figure("generation_tokens_total") - before < 25 * VANISHING
    assert_well(server, hello)


def test_a_client_that_does_not_stream_and_goes_away_stops_the_model(server, hello):
    connections = [server.sent(**LONG, seed=number) for number in range(4)]
    seconds_until(lambda: server.figure("num_requests_running") == 1, 10)
    assert server.figure("num_requests_waiting") == 3
    for number, connection in enumerate(connections):
        vanish(connection, rudely=number % 2 == 0)
    seconds_until(lambda: is_idle(server), 3)
    assert_well(server, hello)


# -- bodies ----------------------------------------------------------------------------------------------------------------


def test_bodies_that_dawdle_keep_nobody_waiting(server, hello):
    """Each sends a byte now and then, of its head or of its body."""
    connections = [server.connected() for _ in range(SLOW)]
    for number, connection in enumerate(connections):
        connection.sendall(head("Content-Length: 100000") if number % 2 else head()[:40])
    is_over = threading.Event()

    def dawdle() -> None:
        while not is_over.wait(0.1):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")

    thread = threading.Thread(target=dawdle)
    thread.start()
    try:
        for _ in range(5):
            assert_well(server, hello)
    finally:
        is_over.set()
        thread.join()
        for connection in connections:
            connection.close()
    assert is_idle(server)


def test_a_body_that_is_announced_too_large_is_refused_at_once(server):
    with server.connected() as connection:
        start = time.monotonic()
        connection.sendall(head(f"Content-Length: {10**10}"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - start < 2


def test_a_body_of_chunks_without_end_is_refused(server, hello):
    chunk, sent = b"100000\r\n" + bytes(2**20) + b"\r\n", 0
    with server.connected() as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):  # refused while it still sends
            while not select.select([connection], [], [], 0)[0] and sent < 200:
                connection.sendall(chunk)
                sent += 1
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert 60 < sent < 200
    assert_well(server, hello)


# -- guesses ---------------------------------------------------------------------------------------------------------------


def statuses_of(server: Process, tokens: list[str]) -> list[bytes]:
    """What is said to tokens that are tried on one connection."""
    with server.connected() as connection:
        connection.sendall(b"".join(head(path="/v1/models", token=token) for token in tokens))
        said = b""
        while said.count(b"HTTP/1.1 ") < len(tokens) or not said.endswith(b"}"):
            received = connection.recv(2**16)
            assert received
            said += received
    return [each[:3] for each in said.split(b"HTTP/1.1 ")[1:]]


def test_wrong_tokens_open_nothing_and_cost_nothing(server, hello):
    sizes = []
    for begin in range(0, GUESSES, 100):
        guesses = [f"a-token-of-the-test{number}" for number in range(begin, begin + 100)]
        assert set(statuses_of(server, guesses)) == {b"401"}
        sizes.append(server.resident)
    assert sizes[-1] < 1.02 * sizes[len(sizes) // 5] + ALLOWANCE
    assert_well(server, hello)


# -- ends ------------------------------------------------------------------------------------------------------------------


def test_what_is_killed_starts_again_on_its_port(server, hello):
    connection, port = server.sent(**LONG, stream=True, seed=1), server.port
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    server.end(signal.SIGKILL)
    connection.close()
    server.start()
    assert server.port == port
    assert_well(server, hello)


def told(server: Process, number: int, is_ending: threading.Event) -> list[str]:
    """How questions end that are asked one after the other until the server is gone; only who came too late may find nobody."""
    found: list[str] = []
    with contextlib.suppress(httpx.ConnectError):
        while True:
            came_late = is_ending.is_set()
            try:
                found.append(_told_once(server, number * 1000 + len(found)))
            except httpx.ConnectError:
                assert is_ending.is_set()
                raise
            except httpx.TransportError:
                assert came_late
                return found
    return found


def _told_once(server: Process, seed: int) -> str:
    body = {"messages": HELLO, "max_tokens": 40, "temperature": 50, "seed": seed}
    if seed % 2:
        return str(server.ask(**body).status_code)
    with server.client() as client, client.stream("POST", ASK, json={**body, "stream": True}) as response:
        said = response.read()
    if response.status_code != 200:
        return str(response.status_code)
    return "200" if said.endswith(b"data: [DONE]\n\n") else "503" if b'"code": 503' in said else repr(said[-200:])


def test_a_server_that_is_told_to_end_under_load_tells_everybody(server):
    is_ending = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(told, server, number, is_ending) for number in range(8)]
        time.sleep(2)
        is_ending.set()
        assert server.end() < 15
        found = {status for each in waiting for status in each.result()}
    assert {"200"} <= found <= {"200", "503"}
    assert "Traceback" not in server.said


# -- memory that runs out --------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_costs_one_request(another_server, lab, monkeypatch):
    """Twice, for the engine makes room and tries again after the first time; then the others who wait are answered."""
    asked = [[{"role": "user", "content": f"Hello {number}"}] for number in range(4)]
    expected = [lab.ask(f"Hello {number}", max_new_tokens=4).text for number in range(4)]
    left, run = [2], lab.family.decode_copies

    def poor(*given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("nothing is left")
        return run(*given)

    lab.forget()
    monkeypatch.setattr(lab.family, "decode_copies", poor)
    with another_server() as (address, _), ThreadPoolExecutor(4) as pool:

        def ask(messages: Any) -> httpx.Response:
            headers = {"Authorization": "Bearer a-token-of-the-tests"}
            return httpx.post(
                f"{address}{ASK}", json={"messages": messages, "max_tokens": 4}, headers=headers, timeout=60
            )

        found = list(pool.map(ask, asked))
        statuses = [each.status_code for each in found]
        assert sorted(statuses) == [200, 200, 200, 503], [each.text for each in found]
        assert "nothing is left" not in found[statuses.index(503)].text
        again = [ask(messages) for messages in asked]
    assert [each.json()["choices"][0]["message"]["content"] for each in again] == expected
