"""Writes a file whole or not at all. Knows bytes and names, nothing of what is in them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from .errors import FileAccessError
from .inputs.sources import reason, shorten

__all__ = ["write_file"]


def write_file(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write beside the file and rename, so that a reader never meets half of it.

    A link is followed, an existing file keeps its mode and a new one gets that of the process's umask, and what is no
    regular file (a folder, a device, a pipe) is refused. On failure, or when interrupted, nothing is left behind.

    Parameters
    ----------
    data
        A text is written as UTF-8.

    Returns
    -------
    Path
        `path` as given.

    Raises
    ------
    FileAccessError
        It cannot be written; also an `OSError`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.txt", "hello").read_text()
    'hello'
    """
    content = data.encode() if isinstance(data, str) else data
    shown = shorten(repr(os.fspath(path)), 200)
    try:
        target = Path(path).expanduser().resolve()
        mode = _mode(target, shown)
        _replace(target, content, mode)
    except FileAccessError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no room, no such folder, an impossible name, no home
        raise FileAccessError(f"{shown} cannot be written ({reason(error)}); choose another place") from error
    return Path(path)


def _mode(target: Path, shown: str) -> int | None:
    """The mode of the file that is there; None where there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise FileAccessError(f"{shown} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise FileAccessError(f"{shown} is a device, a pipe or a socket; name a file")
    if not os.access(target, os.W_OK):
        raise FileAccessError(f"{shown} is write-protected; choose another name")
    return stat.S_IMODE(mode)


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
