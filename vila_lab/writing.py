"""Writes a file whole or not at all. Knows bytes and names, nothing of what is in them."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileAccessError, OptionError
from .inputs.sources import reason, shorten

__all__ = ["check_place", "make_folder", "write_file"]


def write_file(path: str | os.PathLike[str], data: bytes | str | Callable[[], bytes | str]) -> Path:
    """Write beside the file and rename, so that a reader never meets half of it.

    A link is followed, an existing file keeps its mode and a new one gets that of the process's umask, and what is no
    regular file (a folder, a device, a pipe) is refused. On failure, or when interrupted, nothing is left behind.

    Parameters
    ----------
    data
        A text is written as UTF-8. What takes time to make is given as a function, which is called once it is known that the
        place may be written.

    Returns
    -------
    Path
        `path` as given.

    Raises
    ------
    FileAccessError
        It cannot be written; also an `OSError`.
    OptionError
        `path` is neither text nor path.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.txt", "hello").read_text()
    'hello'
    """
    check_place(path)
    found = data() if callable(data) else data
    content = found.encode() if isinstance(found, str) else found
    with _said(path) as shown:
        target = _target(path)
        _replace(target, content, _mode(target, shown))
    return Path(_name(path))


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place that cannot be written, as far as that can be known before there is something to write.

    Raises
    ------
    FileAccessError
        As `write_file`.

    Examples
    --------
    >>> check_place("no such folder/a.html")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    vila_lab.errors.FileAccessError: 'no such folder/a.html' cannot be written: there is no folder ...; make it, or choose another place
    """
    with _said(path) as shown:
        target = _target(path)
        _mode(target, shown)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """A folder to write into, made where it is not there.

    Raises
    ------
    FileAccessError
        If it cannot be made, or something else has its name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_folder(f"{folder}/a/b").is_dir()
    True
    """
    with _said(path):
        Path(_name(path)).expanduser().mkdir(parents=True, exist_ok=True)
    return Path(_name(path))


@contextmanager
def _said(path: str | os.PathLike[str]) -> Iterator[str]:
    """What the system refuses, as one sentence about the path, whose name for messages is given."""
    shown = shorten(repr(_name(path)), 200)
    try:
        yield shown
    except FileAccessError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no room, an impossible name, no home
        raise FileAccessError(f"{shown} cannot be written ({reason(error)}); choose another place") from error


def _target(path: str | os.PathLike[str]) -> Path:
    return Path(_name(path)).expanduser().resolve()


def _name(path: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise OptionError(f"a file is named by a text or a path, not by {path!r}") from error


def _mode(target: Path, shown: str) -> int | None:
    """The mode of the file that is there; None where there is none, and may be one."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        _check_folder(target.parent, shown)
        return None
    if stat.S_ISDIR(mode):
        raise FileAccessError(f"{shown} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise FileAccessError(f"{shown} is a device, a pipe or a socket; name a file")
    if not os.access(target, os.W_OK):
        raise FileAccessError(f"{shown} is write-protected; choose another name")
    _check_folder(target.parent, shown)
    return stat.S_IMODE(mode)


def _check_folder(folder: Path, shown: str) -> None:
    if not folder.is_dir():
        name = shorten(repr(os.fspath(folder)), 200)
        raise FileAccessError(f"{shown} cannot be written: there is no folder {name}; make it, or choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileAccessError(f"{shown} cannot be written: its folder is write-protected; choose another place")


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    beside = target.parent / f".vila-{secrets.token_hex(8)}"
    try:
        try:
            # The kernel applies the umask; asking for it would change it for the other threads.
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    finally:  # again: a Ctrl-C may have come while the first ran
        beside.unlink(missing_ok=True)
