"""No address that a client can write makes the server connect to anything but the open internet."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from vila_lab.errors import PictureError
from vila_lab.inputs import fetching
from vila_lab.inputs.fetching import fetch, is_public

WRITTEN = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0177.0.0.1 0x7f.0.0.1 127.000.000.001 0 0.0.0.0 localhost LOCALHOST localhost.
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254 169.254.0.1 100.64.0.1 100.127.255.255 192.0.0.1
192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
[::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:169.254.169.254] [::127.0.0.1]
[::7f00:1] [::ffff:0:127.0.0.1] [::ffff:0:7f00:1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::7f00:1]
[2002:7f00:1::] [2002:7f00:1::1] [2002:a00:1::] [2002:a9fe:a9fe::] [2001:0:7f00:1::] [2001::80ff:fffe] [fe80::1] [fe80::1%25lo]
[fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] [2001:db8::1] [100::1] [5f00::1]
"""
HOSTS = WRITTEN.split()
OTHERS = [
    "file:///etc/passwd", "ftp://example.org/a.png", "gopher://127.0.0.1:6379/_INFO", "http:///a.png", "http://", "//127.0.0.1/a.png",
    "http://user:word@93.184.216.34/a.png", "http://user@127.0.0.1/", "http://[::1", "http://127.0.0.1:0/", "http://a:99999999/",
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "javascript:alert(1)", "dict://127.0.0.1:11211/stat",
    "http://\u2460\u2461\u2466.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020\u30020\u30021/", "https://127.0.0.1/",
]  # fmt: skip


@pytest.fixture
def dialled(monkeypatch) -> list[str]:
    """Every address that is connected to; none is."""
    found: list[str] = []

    def connect(self: Any, host: str, *given: Any, **options: Any) -> Any:
        found.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    return found


@pytest.mark.parametrize("url", [*(f"http://{host}/a.png" for host in HOSTS), *OTHERS])
def test_nothing_of_the_own_network_is_dialled(url, dialled):
    with pytest.raises(PictureError):
        fetch(url)
    assert dialled == []


def named(monkeypatch: Any, *addresses: str) -> None:
    """Every name has these addresses."""
    entries = [(socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, 80)) for each in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: entries)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["93.184.216.34"], ["93.184.216.34"]), (["2606:2800:220:1::1"], ["2606:2800:220:1::1"]), (["127.0.0.1"], []),
        (["93.184.216.34", "127.0.0.1"], []), (["93.184.216.34", "::1"], []), (["fe80::1%eth0"], []), ([], []),
    ],
)  # fmt: skip
def test_the_address_that_was_checked_is_dialled(addresses, expected, dialled, monkeypatch):
    named(monkeypatch, *addresses)
    with pytest.raises(PictureError):
        fetch("http://pictures.example/a.png")
    assert dialled == expected


def test_only_named_hosts_where_some_are_named(dialled, monkeypatch):
    named(monkeypatch, "93.184.216.34")
    for host in ("b.example", "a.example.b.example", "xa.example", "a.example@b.example"):
        with pytest.raises(PictureError):
            fetch(f"http://{host}/a.png", ["a.example"])
    assert dialled == []
    for host in ("a.example", "A.Example", "a.example."):
        with pytest.raises(PictureError, match="could not be fetched"):
            fetch(f"http://{host}/a.png", ["a.example"])
    assert len(dialled) == 3


def test_public_is_told_by_the_address():
    assert all(
        is_public(ipaddress.ip_address(each))
        for each in ("1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8")
    )


class Pages(BaseHTTPRequestHandler):
    """A server with a page for everything that may go wrong."""

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        if kind.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", kind[3:])
            self.end_headers()
            return
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if kind == "large":
            for _ in range(40):
                self.wfile.write(b"x" * 2**20)
        elif kind == "slow":
            for _ in range(50):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *given: Any) -> None: ...


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    """A local server that counts as public, under its port."""
    found = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    real = fetching.is_public
    monkeypatch.setattr(fetching, "is_public", lambda address: str(address) == "127.0.0.1" or real(address))
    yield f"http://localhost.localdomain:{found.server_address[1]}"
    found.shutdown()
    found.server_close()


@pytest.fixture
def resolved(monkeypatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *given: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "localhost.localdomain" else host, *given, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_what_comes_is_bounded_and_each_hop_is_checked(server, resolved, monkeypatch):
    assert fetch(f"{server}/name") == server.removeprefix("http://").encode()
    assert fetch(f"{server}/to/{server}/name") == server.removeprefix("http://").encode()
    with pytest.raises(PictureError, match="status 404"):
        fetch(f"{server}/missing")
    with pytest.raises(PictureError, match="more than 32 MiB"):
        fetch(f"{server}/large")
    with pytest.raises(PictureError, match="not of the public internet"):
        fetch(f"{server}/to/http://10.0.0.1/")
    with pytest.raises(PictureError, match="must be http or https"):
        fetch(f"{server}/to/file:///etc/passwd")
    with pytest.raises(PictureError, match="on and on"):
        fetch(f"{server}/to/" * 6 + f"{server}/name")
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    with pytest.raises(PictureError, match=r"took more|could not be fetched"):
        fetch(f"{server}/slow")
