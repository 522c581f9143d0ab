"""What a server is told at its start, and what that opens to whom. Knows no model, and starts nothing."""

from __future__ import annotations

import ipaddress
import math
import os
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileAccessError, OptionError
from .doors import BODY_SECONDS, EVERYWHERE, LARGEST, OPEN, OPEN_BELOW
from .tokens import OWNER, Owner, Owners, check_token, read_owners

TOKEN = "VILA_LAB_TOKEN"
LOCAL = ("127.0.0.1", "localhost", "::1")
TIME_LIMIT = 300.0  # seconds that one question may take
MOST_BATCH = 16  # questions side by side: as many as the engine puts together (`vila_lab.engine.engine.BATCH`)

PLAIN = (
    "warning: plain http beyond this machine: whoever listens on the way reads tokens, pictures and answers; "
    "give --tls-cert and --tls-key, or put a proxy with TLS before it"
)


@dataclass(frozen=True)
class Settings:
    """What `vila-lab serve` is told; made only if it makes sense.

    Attributes
    ----------
    host, port
        Where to listen.
    names
        Further names under which the server is asked.
    tokens
        A file of named tokens.
    remote
        Whether pictures are fetched from other servers, from public addresses alone.
    domains
        Host names that they are fetched from; none given: all.
    tls_cert, tls_key
        Files in PEM form; both, or none for plain http.
    time_limit
        Seconds that one question may take.
    batch
        How many questions are answered side by side.
    classroom
        Whether class mode is on.

    Raises
    ------
    OptionError, FileAccessError
        If one of them makes no sense; the message names its flag.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    tokens: Path | None = None
    remote: bool = False
    domains: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    time_limit: float = TIME_LIMIT
    batch: int = 1
    classroom: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise OptionError(f"--port {self.port} is no port; choose one from 1 to 65535")
        if not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise OptionError(f"--time-limit {self.time_limit:g} is no time; give seconds, such as {TIME_LIMIT:.0f}")
        if not 1 <= self.batch <= MOST_BATCH:
            raise OptionError(f"--batch {self.batch} is out of range; choose 1 to {MOST_BATCH}")
        if not self.host.strip():
            raise OptionError("--host is empty; give an address to listen on, such as 127.0.0.1")
        _check_tls(self.tls_cert, self.tls_key)

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names under which the server may be asked."""
        own = (socket.gethostname(), socket.getfqdn()) if self.host in EVERYWHERE else ()
        return tuple(dict.fromkeys((*LOCAL, self.host, *own, *self.names)))

    def address(self, port: int) -> str:
        """Where the server is found, once it listens on a port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{port}"

    def owners(self, say: Callable[[str], None]) -> tuple[Owners, str | None]:
        """Who may ask, and the owner's token if it was made just now.

        Raises
        ------
        OptionError, FileAccessError
            If a token or their file makes no sense.
        """
        given = os.environ.get(TOKEN, "")
        token = check_token(given, TOKEN) if given else secrets.token_urlsafe(24)
        owners = Owners([Owner(OWNER, token)])
        for owner in read_owners(self.tokens, say) if self.tokens else ():
            owners.add(owner)
        return owners, None if given else token


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise OptionError(f"{given} needs {missing} beside it")
    for flag, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise FileAccessError(f"{flag} {path}: it cannot be read ({error.strerror})") from error
    _load_pair(certificate, key)


def _load_pair(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise OptionError(f"--tls-cert {certificate}: it holds no certificate in PEM form") from error
    try:
        # Without a password of ours OpenSSL would ask for one at the terminal, and wait.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OptionError(f"--tls-key {key} does not belong to --tls-cert {certificate}") from error
        raise OptionError(f"--tls-key {key}: it holds no private key in PEM form without a password") from error


def tell(settings: Settings, say: Callable[[str], None]) -> int:
    """Say what a server with these settings opens to whom, and never a token; returns the exit status.

    Raises
    ------
    OptionError, FileAccessError
        As the server itself would.
    """
    owners, made = settings.owners(say)
    for line in (*_reach(settings), *_people(settings, owners, made is not None), *_limits(settings)):
        say(line)
    return 0


def _reach(settings: Settings) -> list[str]:
    where = settings.address(settings.port) if settings.port else f"{settings.address(0)} (a free port)"
    who = "this machine alone" if settings.is_local else "everybody on the network who can reach this machine"
    lines = [f"{where}: open to {who}, {'with TLS' if settings.tls_cert else 'without TLS'}"]
    if not (settings.is_local or settings.tls_cert):
        lines.append(PLAIN)
    number = ", and by number" if settings.host in EVERYWHERE else ""
    return [*lines, f"asked under the names: {', '.join(settings.hosts)}{number}"]


def _people(settings: Settings, owners: Owners, is_made: bool) -> list[str]:
    lines = [f"no token is needed for: {', '.join(OPEN)}, {OPEN_BELOW}..."]
    for name in owners.names():
        most = owners.quota(name)
        quota = "no quota" if most is None else f"{most} questions an hour"
        origin = f" ({'made at the start and printed once' if is_made else TOKEN})" if name == OWNER else ""
        lines.append(f"token of {name}{origin}: {quota}")
    if settings.classroom:
        lines.append("class mode: whoever has the join code is given a token and a quota")
    if not settings.remote:
        return [*lines, "pictures of other servers: not fetched"]
    return [*lines, f"pictures of other servers: fetched from {', '.join(settings.domains) or 'any public address'}"]


def _limits(settings: Settings) -> list[str]:
    # They know streams and answers, and so torch: a wrong flag is told before that is imported.
    from .kept import MOST_BYTES, MOST_EACH, SECONDS
    from .worker import WAITING, WAITING_EACH

    return [
        f"a request: {LARGEST // 2**20} MiB, within {BODY_SECONDS:.0f} s",
        f"questions that wait: {WAITING}, of one client {WAITING_EACH}",
        f"a question: {settings.time_limit:g} s",
        _batch(settings.batch),
        f"answers are kept, for who asked alone: {MOST_BYTES // 2**20} MiB, of one client {MOST_EACH}, {SECONDS:.0f} s",
    ]


def _batch(count: int) -> str:
    if count == 1:
        return "questions are answered one by one, each to the bit as in a notebook"
    return f"up to {count} questions are answered side by side, each to the rounding of a batch as in a notebook"
