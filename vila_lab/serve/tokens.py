"""Who may ask the service, and how often: named tokens and their quotas. Knows no request and no model."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import stat
import threading
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileAccessError, OptionError
from ..options import nearest
from .failures import Busy

OWNER = "owner"  # whose token stands in the environment, or is made
SHORTEST = 8  # characters of a token
LONGEST_NAME = 64
HOUR = 3600.0
KEYS = ("token", "questions_per_hour")


def check_token(token: Any, whose: str) -> str:
    """A token that can stand in a header.

    Raises
    ------
    OptionError
        It never holds the token itself.

    Examples
    --------
    >>> check_token("short", "the token of ana")
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: the token of ana must have at least 8 characters, plain ones and no blanks
    """
    plain = isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token
    if not plain or len(token) < SHORTEST:
        raise OptionError(f"{whose} must have at least {SHORTEST} characters, plain ones and no blanks")
    return str(token)


@dataclass(frozen=True)
class Owner:
    """Somebody who may ask.

    Attributes
    ----------
    name : str
    token : str
        Not shown.
    questions_per_hour : int, optional
        None for as many as can be answered.

    Raises
    ------
    OptionError
        If one of them makes no sense.
    """

    name: str
    token: str = field(repr=False)
    questions_per_hour: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable() or len(self.name) > LONGEST_NAME:
            raise OptionError(f"the name {self.name[:80]!r} must have 1 to {LONGEST_NAME} characters that can be shown")
        check_token(self.token, f"the token of {self.name}")
        most = self.questions_per_hour
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
            raise OptionError(f"questions_per_hour of {self.name} must be a whole number from 1, not {most!r}")


class Owners:
    """Everybody who may ask; more may come while the service runs, from any thread.

    Examples
    --------
    >>> owners = Owners([Owner("ana", "a-token-of-hers", 200)])
    >>> owners.of("a-token-of-hers"), owners.of("a-guess"), owners.quota("ana")
    ('ana', None, 200)
    """

    def __init__(self, owners: Iterable[Owner] = ()) -> None:
        self._lock = threading.Lock()
        self._known: tuple[tuple[bytes, Owner], ...] = ()  # replaced and never changed: readers need no lock
        for owner in owners:
            self.add(owner)

    def __iter__(self) -> Iterator[Owner]:
        return (owner for _, owner in self._known)

    def add(self, owner: Owner) -> None:
        """Let one more ask.

        Raises
        ------
        OptionError
            If the name or the token is somebody else's.
        """
        digest = _digest(owner.token)
        with self._lock:
            for known, other in self._known:
                if other.name == owner.name:
                    raise OptionError(f"{owner.name} has a token already; choose another name")
                if hmac.compare_digest(known, digest):
                    raise OptionError(f"{owner.name} has the same token as {other.name}; give each their own")
            self._known = (*self._known, (digest, owner))

    def of(self, token: str) -> str | None:
        """The name of whose token it is, None if nobody's.

        The time that it takes tells nothing: digests are of one length, and every one is compared.
        """
        given = _digest(token)
        found = [owner.name for digest, owner in self._known if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they came."""
        return tuple(owner.name for owner in self)

    def quota(self, name: str) -> int | None:
        """How many questions somebody has in an hour; None for as many as can be answered."""
        return next((owner.questions_per_hour for owner in self if owner.name == name), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def owners_of(tokens: Owners | Mapping[str, str] | Iterable[Owner]) -> Owners:
    """Everybody who may ask, from tokens by name, or from owners; what is `Owners` already stays the same object."""
    if isinstance(tokens, Owners):
        return tokens
    if isinstance(tokens, Mapping):
        return Owners(Owner(name, token) for name, token in tokens.items())
    return Owners(tokens)


def read_owners(path: Path, say: Callable[[str], None]) -> list[Owner]:
    """The owners in a TOML file: a table for each, named after who it is, with a token and perhaps questions_per_hour.

    Parameters
    ----------
    say
        Told in one line if others on this machine can open the file.

    Raises
    ------
    FileAccessError
        If the file cannot be read.
    OptionError
        If something in it makes no sense; the message names the table, and never holds a token.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe without a writer would be waited for without end
            raise FileAccessError(f"--tokens {path}: it is no plain file")
        written = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileAccessError):
            raise
        raise FileAccessError(f"--tokens {path}: it cannot be read ({error.strerror})") from error
    try:
        content = tomllib.loads(written.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--tokens {path}: it is no TOML ({error})") from None  # the cause may quote a token
    if not content:
        raise OptionError(f'--tokens {path}: it names nobody; write a table for each, [ana] and token = "..." below it')
    try:
        found = [_owner(name, table) for name, table in content.items()]
        Owners(found)
    except OptionError as error:
        raise OptionError(f"--tokens {path}: {error}") from error
    if mode & 0o077 and os.environ.get("CREDENTIALS_DIRECTORY") != str(
        path.parent
    ):  # systemd's, for this service alone
        say(f"warning: --tokens {path} is open to other users of this machine; close it with chmod 600")
    return found


def _owner(name: str, table: Any) -> Owner:
    if not isinstance(table, dict):
        raise OptionError(f'{name} is no table; write [{name}] and token = "..." below it')
    for key in table:
        if key not in KEYS:
            raise OptionError(f"{name} has {key}{nearest(key, KEYS)}, which is not known; known are {', '.join(KEYS)}")
    if name == OWNER:
        raise OptionError(f"{OWNER} is whose token stands in VILA_LAB_TOKEN; choose another name")
    if "token" not in table:
        raise OptionError(f'{name} has no token; write token = "..." below [{name}]')
    return Owner(name, table["token"], table.get("questions_per_hour"))


class Quotas:
    """How often everybody asked within the last hour; from any thread.

    Parameters
    ----------
    owners
        Whose quotas they are.
    clock
        Tells seconds that only grow.
    """

    def __init__(self, owners: Owners, clock: Callable[[], float] = time.monotonic) -> None:
        self._owners = owners
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[str, deque[float]] = {}

    def take(self, name: str) -> None:
        """Count one question.

        Raises
        ------
        Busy
            If there is none left; it is not counted, and Retry-After says when one is.
        """
        most = self._owners.quota(name)
        if most is None:
            return
        with self._lock:
            now = self._clock()
            asked = self._asked.setdefault(name, deque())
            while asked and asked[0] + HOUR <= now:
                asked.popleft()
            if len(asked) >= most:
                seconds = max(1, math.ceil(asked[0] + HOUR - now))
                raise Busy(
                    f"{name} has {most} questions an hour, and asked them; the next is free in {seconds} s", seconds
                )
            asked.append(now)
