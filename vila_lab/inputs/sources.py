"""The bytes behind a name or an address, within limits of time and size. Knows no pictures and no prompts."""

from __future__ import annotations

import base64
import binascii
import io
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote, unquote_to_bytes, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request, build_opener, url2pathname

from ..errors import PictureError, PictureNotFound

__all__ = ["data_of", "expanded", "fetch", "open_file", "path_of", "read_stream", "reason", "shorten"]

URL_SECONDS = 30.0  # for an address as a whole, redirects included
URL_SILENCE = 20.0  # without a byte
PIPE_SILENCE = 0.9  # until a pipe's first byte
PIPE_SECONDS = 2.5  # for a pipe as a whole
MOST_BYTES = 64 * 2**20  # of what is not a file on disk
CHUNK = 2**16


# -- files ---------------------------------------------------------------------------------------------------------------


def open_file(name: str) -> BinaryIO:
    """A file, or what a pipe holds (``/dev/stdin``, ``<(...)``); devices, sockets and folders are refused.

    Raises
    ------
    PictureNotFound, PictureError
    """
    try:
        path = expanded(name)
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.open("rb")
        if stat.S_ISFIFO(mode):
            return io.BytesIO(_read_pipe(path, name))
    except (FileNotFoundError, NotADirectoryError):
        message = f"there is no file {shorten(repr(name), 300)}; check its spelling and the folder it is relative to ({Path.cwd()})"
        raise PictureNotFound(message) from None
    except PictureError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no permission, an impossible name, no home for ~user
        raise PictureError(f"{shorten(repr(name))} cannot be opened ({reason(error)}); choose another file") from error
    if stat.S_ISDIR(mode):
        raise PictureError(f"{name!r} is a directory; name one picture file in it")
    kind = "socket" if stat.S_ISSOCK(mode) else "device"
    raise PictureError(f"{name!r} is a {kind}, not a file; name a picture file")


def expanded(name: str) -> Path:
    """The path of a name; ``~`` is the home folder unless a file's own name begins with it."""
    path = Path(name)
    return path if os.path.lexists(path) else path.expanduser()


def path_of(address: str) -> str:
    """The path behind a ``file:`` address.

    >>> path_of("file:///tmp/my%20cat.png"), path_of("file://localhost/tmp/a.png")
    ('/tmp/my cat.png', '/tmp/a.png')
    """
    place = urlsplit(address)
    if place.netloc not in ("", "localhost"):
        raise PictureError(
            f"{shorten(address)} is on another machine ({place.netloc}); copy the file here, or use http://"
        )
    return url2pathname(address.partition(":")[2].removeprefix("//localhost").removeprefix("//"))


def _read_pipe(path: Path, name: str) -> bytes:
    # Without waiting for a writer, who may never come.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _drain(handle, repr(name))
    finally:
        os.close(handle)


def _drain(handle: int, name: str) -> bytes:
    """All that comes out of a pipe until its writer closes it."""
    begin = time.monotonic()
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    data = bytearray()
    while (left := begin + (PIPE_SECONDS if data else PIPE_SILENCE) - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        part = os.read(handle, CHUNK)
        if not part:
            return bytes(data)
        data += part
        _check_size(len(data), name)
    raise PictureError(
        f"{name} is a pipe {'that does not end' if data else 'without a writer'}; save the picture to a file"
    )


# -- open files ----------------------------------------------------------------------------------------------------------


def read_stream(file: Any) -> bytes:
    """All bytes of an open file, from its beginning where it has one.

    Raises
    ------
    PictureError
        It is closed, was opened as text, cannot be read, or is a pipe that does not end.
    """
    name = f"the open file {getattr(file, 'name', '')!r}" if getattr(file, "name", "") else "the open file"
    try:
        if getattr(file, "closed", False):
            raise PictureError(f"{name} is closed; pass it while it is open, or pass its path")
        if isinstance(file, io.TextIOBase):
            raise PictureError(f"{name} was opened as text; open it with 'rb'")
        if _is_pipe(file):
            return _drain(file.fileno(), name)
        if file.seekable():
            file.seek(0)
        data = file.read(MOST_BYTES + 1)
    except PictureError:
        raise
    except Exception as error:  # somebody else's object may raise what it likes
        raise PictureError(f"{name} cannot be read ({reason(error)}); pass the picture's path or its bytes") from error
    if not isinstance(data, bytes):
        raise PictureError(f"{name} gives {type(data).__name__} instead of bytes; open it with 'rb'")
    _check_size(len(data), name)
    return data


def _is_pipe(file: Any) -> bool:
    try:
        return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):  # a file in memory has no number
        return False


# -- addresses -----------------------------------------------------------------------------------------------------------


def data_of(address: str) -> bytes:
    """What a ``data:`` address holds.

    >>> data_of("DATA:text/plain;base64,aGk="), data_of("data:image/svg+xml,%3Csvg/%3E")
    (b'hi', b'<svg/>')
    """
    head, _, body = address.partition(",")
    if not head.rstrip().lower().endswith("base64"):
        return unquote_to_bytes(body)
    return from_base64(body, shorten(address))


def from_base64(text: str, shown: str) -> bytes:
    """Bytes of base64 in either alphabet, with or without line breaks and padding."""
    plain = b"".join(unquote_to_bytes(text).split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{shown} is not valid base64 ({error}); encode the file again") from error


def fetch(url: str) -> bytes:
    """What an address answers.

    Given up after `URL_SECONDS` as a whole: a server that sends a byte now and then keeps every single read within its
    time. So the work is done in a thread of its own, and at the end its connections are shut.

    Raises
    ------
    PictureNotFound, PictureError
    """
    shown = shorten(url)
    sockets: list[Any] = []
    outcome: list[bytes | Exception] = []

    def work() -> None:
        try:
            outcome.append(_get(url, shown, _opener(sockets)))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True, name="vila_lab fetch")
    thread.start()
    try:
        thread.join(URL_SECONDS)
    finally:
        for each in sockets:
            _shut(each)
    if not outcome:
        raise PictureError(f"{shown} did not answer within {URL_SECONDS:g} s; download it and pass the file")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _get(url: str, shown: str, opener: OpenerDirector) -> bytes:
    try:
        request = Request(quote(url, safe="%/:?#[]@!$&'()*+,;=~"), headers={"User-Agent": "vila-lab"})
        with opener.open(request, timeout=min(URL_SILENCE, URL_SECONDS)) as response:
            data: bytes = response.read(MOST_BYTES + 1)
    except HTTPError as error:
        error.close()
        kind = PictureNotFound if error.code in (404, 410) else PictureError
        raise kind(
            f"{shown} answers {error.code} {shorten(' '.join(str(error.reason).split()))}; check it in a browser, or pass a file"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise PictureError(f"{shown} cannot be fetched ({reason(error)}); download it and pass the file") from error
    _check_size(len(data), shown)
    return data


def _opener(sockets: list[Any]) -> OpenerDirector:
    """An opener whose connections leave their sockets in a list."""

    def noting(kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
        class Noted(kind):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return Noted

    class Plain(HTTPHandler):
        def http_open(self, req: Request) -> Any:
            return self.do_open(noting(HTTPConnection), req)

    class Secure(HTTPSHandler):
        def https_open(self, req: Request) -> Any:
            return self.do_open(noting(HTTPSConnection), req)

    return build_opener(Plain, Secure)


def _shut(connection: Any) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it ended by itself
        return


def _check_size(count: int, name: str) -> None:
    if count > MOST_BYTES:
        raise PictureError(f"{name} is larger than {MOST_BYTES // 2**20} MiB; save it and pass the file")


# -- words ---------------------------------------------------------------------------------------------------------------


def head_of(file: BinaryIO, name: str, length: int, kind: type[PictureError] = PictureError) -> bytes:
    """The first bytes of a file, which is left at its beginning.

    Raises
    ------
    PictureError
        Or the other `kind`: it cannot be read, or is empty.
    """
    try:
        head = file.read(length)
        file.seek(0)
    except OSError as error:
        raise kind(f"{name} cannot be read ({reason(error)}); choose another file") from error
    if not head:
        raise kind(f"{name} is empty (0 bytes); save or download it again")
    return head


def reason(error: BaseException) -> str:
    """The shortest true account of an error: the system's words for it where it has some."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason(inner)
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def shorten(text: str, length: int = 80) -> str:
    """A text for a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
