"""Pictures of other servers, fetched so that no client can make this one talk to its own network. Knows addresses, no picture.

A name is resolved once, every address it has must be public, and the one that was checked is dialled: a name that points
elsewhere a moment later changes nothing. Each redirect passes the same way. Proxies of the environment are not asked, for they
would resolve for us. "Public" is read off the address itself: forms that carry another address inside are unwrapped first.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from ..errors import PictureError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LARGEST = 32 * 2**20  # bytes of a picture's file
SECONDS = 15.0  # for all of it, redirects included
HOPS = 4
CARRIERS = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96", "2002::/16", "2001::/32"))
)
"""IPv6 networks whose addresses carry an IPv4 address: NAT64, IPv4-compatible, IPv4-translated, 6to4, Teredo."""

UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that was ever given out for the open internet."""

CLOSED = tuple(
    map(ipaddress.ip_network, ("fec0::/10", "192.0.0.0/24", "100.64.0.0/10", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"))
)
"""Not for the public, whatever this version of Python's tables say."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet's.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("93.184.216.34", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        # One that carries another address leads to wherever a gateway takes it, and no picture needs that.
        if address not in UNICAST or any(address in network for network in CARRIERS):
            return False
    closed = any(address.version == network.version and address in network for network in CLOSED)
    return address.is_global and not closed and not address.is_multicast


class PublicBackend(httpcore.SyncBackend):
    """Connects to public addresses alone."""

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Resolve a name, check every address it has, dial the first."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PictureError("the address of a picture has a name that cannot be found") from error
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or not all(map(is_public, addresses)):
            raise PictureError("the address of a picture is not of the public internet")
        return super().connect_tcp(str(addresses[0]), port, *args, **options)

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        raise PictureError("the address of a picture is not of the public internet")


def fetch(url: str, domains: Sequence[str] = ()) -> bytes:
    """The file behind an address.

    Parameters
    ----------
    domains
        Host names that may be asked; none given: all.

    Raises
    ------
    PictureError
        One sentence, without what the other server said.
    """
    end = time.monotonic() + SECONDS
    with httpcore.ConnectionPool(network_backend=PublicBackend(), max_connections=1) as pool:
        for _ in range(HOPS + 1):
            _check(url, domains)
            found = _asked(pool, url, end)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
    raise PictureError("the address of a picture leads on and on")


def _check(url: str, domains: Sequence[str]) -> None:
    if not url.isascii():
        raise PictureError(
            "the address of a picture has characters that no address has; write its host name in punycode"
        )
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise PictureError("the address of a picture is none") from error
    if parts.scheme.lower() not in ("http", "https") or not host or parts.username is not None or port == 0:
        raise PictureError("the address of a picture must be http or https, with a host and without a password")
    if domains and host.lower() not in {domain.lower() for domain in domains}:
        raise PictureError(f"pictures are fetched from {', '.join(domains)} alone")


def _asked(pool: httpcore.ConnectionPool, url: str, end: float) -> bytes | str:
    """The content, or where it is instead."""
    limit = dict.fromkeys(("connect", "read", "write", "pool"), max(end - time.monotonic(), 0.1))
    headers = [(b"Host", urlsplit(url).netloc.encode()), (b"Accept", b"image/*"), (b"User-Agent", b"vila_lab")]
    try:
        with pool.stream("GET", url, headers=headers, extensions={"timeout": limit}) as response:
            if response.status in (301, 302, 303, 307, 308):
                return _location(response.headers)
            if response.status != 200:
                raise PictureError(f"the server of a picture answers with status {response.status}")
            return _content(response.iter_stream(), end)
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
        OSError,
        ValueError,
    ) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError("a picture could not be fetched from its server") from error


def _location(headers: Iterable[tuple[bytes, bytes]]) -> str:
    found = next((value for name, value in headers if name.lower() == b"location"), None)
    if found is None:
        raise PictureError("the address of a picture leads nowhere")
    return found.decode("latin-1")


def _content(chunks: Iterable[bytes], end: float) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > LARGEST:
            raise PictureError(f"a picture has more than {LARGEST // 2**20} MiB; send a smaller one")
        if time.monotonic() > end:
            raise PictureError(f"a picture took more than {SECONDS:.0f} s to come")
    return bytes(content)
