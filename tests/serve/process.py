"""A server as a process of its own, for tests that hurt it: started, asked over plain sockets, killed, started again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

TOKEN = "a-token-of-the-tests"
ASK = "/v1/chat/completions"
SERVE = ("-m", "vila_lab.cli", "serve")


class Process:
    """`vila-lab serve` on one port, as often as it is started.

    Parameters
    ----------
    folder
        Where its log lies.
    command
        What python runs.
    """

    def __init__(self, folder: Path, command: tuple[str, ...] = SERVE) -> None:
        self._log, self._command, self._port = folder / "log", command, 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def said(self) -> str:
        """All that it wrote, over all of its starts."""
        return self._log.read_text(encoding="utf-8")

    @property
    def resident(self) -> int:
        """Bytes of its resident set."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) * 1024

    def start(self) -> None:
        """Start it, on the port that it had, and wait until it answers."""
        environment = {**os.environ, "VILA_LAB_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, *self._command, "--port", str(self._port)]
        begin = len(self.said) if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stderr=log, env=environment)
        end = time.monotonic() + 120
        while (found := re.search(r"http://127\.0\.0\.1:(\d+) serves", self.said[begin:])) is None:
            assert self.is_alive, self.said
            assert time.monotonic() < end
            time.sleep(0.05)
        self._port = int(found[1])
        while not self._is_ready():
            assert time.monotonic() < end
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, kind: signal.Signals = signal.SIGTERM) -> float:
        """End it by a signal; returns how many seconds that took."""
        assert self._process is not None
        start = time.monotonic()
        self._process.send_signal(kind)
        self._process.wait(30)
        return time.monotonic() - start

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=120)

    def ask(self, **body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(ASK, json=body)

    def figure(self, name: str) -> float:
        """A figure of /metrics."""
        with self.client() as client:
            found = re.search(rf"^vila_lab_{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=60)

    def sent(self, **body: Any) -> socket.socket:
        """A connection on which a question was sent, and nothing read yet."""
        data = json.dumps(body).encode()
        connection = self.connected()
        connection.sendall(head(f"Content-Length: {len(data)}") + data)
        return connection


def head(*lines: str, path: str = ASK, token: str = TOKEN) -> bytes:
    """The head of a request."""
    said = [f"{'POST' if path == ASK else 'GET'} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    return "\r\n".join([*said, "Content-Type: application/json", *lines, "", ""]).encode()
