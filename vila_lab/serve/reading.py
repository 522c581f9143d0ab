"""Messages from strangers, as a prompt: every part looked at, every size bounded before it costs anything. Knows no model.

Nothing that a client sent is handed on as it is: its tables are built anew, and its pictures go on as bytes, so that no word of
its can name a file of this machine.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import PictureError, PromptError
from ..inputs.naming import is_data_address
from ..inputs.sources import data_of, shorten
from ..prompt import Prompt

Fetch = Callable[[str], bytes]

MOST_PICTURES = 256
MOST_PIXELS = 200_000_000  # of all pictures of a request together
MOST_EACH = 50_000_000  # of one
CHARACTERS = 64  # that one position may stand for, at most; a token of these vocabularies is shorter


@dataclass(frozen=True)
class Bounds:
    """How much one request may bring.

    Attributes
    ----------
    positions
        What the model's context holds: no more messages and parts than that, and no more text than would fill it.
    pictures, pixels, pixels_each
    """

    positions: int
    pictures: int = MOST_PICTURES
    pixels: int = MOST_PIXELS
    pixels_each: int = MOST_EACH


def prompt_of(
    messages: Sequence[Mapping[str, Any]],
    bounds: Bounds,
    fetch: Fetch | None = None,
    *,
    apply_exif: bool = False,
    background: str | None = None,
) -> Prompt:
    """The conversation, its pictures read.

    Parameters
    ----------
    fetch
        Gives what is behind an http or https address; None where pictures of other servers are not read.
    apply_exif, background
        As in `vila_lab.Prompt.of`.

    Raises
    ------
    PromptError, PictureError
        The message names the part.
    """
    total = _check_amount(messages, bounds)
    numbers, left = iter(range(1, total + 1)), bounds.pixels

    def read(part: Any) -> dict[str, Any]:
        nonlocal left
        if not isinstance(part, Mapping):
            raise PromptError("a part of a message is a table with a type")
        kind = part.get("type")
        if kind == "text":
            return {"type": "text", "text": part.get("text")}
        if kind != "image_url":
            raise PromptError(f"a part of a message has the type {shorten(repr(kind))}; known are text, image_url")
        where = f"picture {next(numbers)} of {total}"
        try:
            data = _bytes_of(part.get("image_url"), fetch)
            left -= _check_pixels(data, left, bounds)
        except PictureError as error:
            raise PictureError(f"{where}: {error}") from error
        return {"type": "image_url", "image_url": data}

    said: list[Any] = [_message(message, read) for message in messages]
    return Prompt.of(said, apply_exif=apply_exif, background=background)


def _message(message: Mapping[str, Any], read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise PromptError("a message has a role: system, user or assistant")
    if not isinstance(content, str | list):
        raise PromptError("the content of a message is a text or a list of parts")
    said = content if isinstance(content, str) else [read(part) for part in content]
    return {"role": "system" if role == "developer" else shorten(role), "content": said}


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    for message in messages:
        content = message.get("content")
        yield from content if isinstance(content, list) else [content]


def _check_amount(messages: Sequence[Mapping[str, Any]], bounds: Bounds) -> int:
    """How many pictures there are, once it is known that nothing is too many."""
    parts, characters, pictures = 0, 0, 0
    for part in _parts(messages):
        text = part.get("text") if isinstance(part, Mapping) else part
        parts += 1
        characters += len(text) if isinstance(text, str) else 0
        pictures += isinstance(part, Mapping) and part.get("type") == "image_url"
    if pictures > bounds.pictures:
        raise PictureError(f"there are {pictures} pictures, and a request may have {bounds.pictures}; ask about fewer")
    if max(parts, len(messages)) > bounds.positions or characters > CHARACTERS * bounds.positions:
        raise PromptError(
            f"the conversation has {len(messages)} messages, {parts} parts and {characters} characters, and the model holds "
            f"{bounds.positions} positions: ask with less"
        )
    return pictures


def _bytes_of(value: Any, fetch: Fetch | None) -> bytes:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise PictureError("it has no url; send it as data:image/png;base64,...")
    if not url.isascii():
        raise PictureError("its address has characters that no address has; send it as data:image/png;base64,...")
    if is_data_address(url):
        return data_of(url)
    if fetch is not None and url[:8].lower().startswith(("http://", "https://")):
        return fetch(url)
    raise PictureError("it is no data: address; send it as data:image/png;base64,...")


def _check_pixels(data: bytes, left: int, bounds: Bounds) -> int:
    """How many pixels a picture has, by its header, before they are there; 0 where that cannot be told yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = Image.open(io.BytesIO(data)).size
    except Image.DecompressionBombError:
        raise PictureError(f"it has too many pixels; make it smaller than {bounds.pixels_each:,}") from None
    except Exception:  # whatever a decoder raises: what is wrong with it is told when it is read
        return 0
    pixels = size[0] * size[1]
    if pixels > bounds.pixels_each:
        raise PictureError(f"it has {pixels:,} pixels, and may have {bounds.pixels_each:,}; make it smaller")
    if pixels > left:
        raise PictureError(
            f"with it the pictures have more than {bounds.pixels:,} pixels together; make them smaller, or send fewer"
        )
    return pixels
