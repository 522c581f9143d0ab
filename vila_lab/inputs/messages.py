"""Message lists as chat services take them, as the parts of a prompt. Knows the spellings, reads no pictures.

OpenAI's chat and responses formats, Hugging Face's and Qwen's processors, Anthropic's messages: all say the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PromptError
from ..options import nearest
from .naming import Text, is_address
from .sources import from_base64

__all__ = ["Source", "is_messages", "messages_of", "parts_of_messages"]

ROLES = ("system", "user", "assistant")

TEXTS = ("text", "input_text")
IMAGES = ("image", "image_url", "input_image", "image_pil")
VIDEOS = ("video", "video_url", "input_video")
PLACES = ("image", "image_url", "url", "path", "image_pil", "base64", "data", "source")


@dataclass(frozen=True)
class Source:
    """A part that is a picture, not read yet: all parts are sorted first, so that a message can count the pictures.

    ``guessed`` tells that it is a string that could have been meant as text, ``video`` that it is named as a video.
    """

    value: Any
    guessed: bool = False
    video: bool = False


def is_messages(value: Any) -> bool:
    """Whether this is a message, a list of messages, or a list of content parts of one."""
    if isinstance(value, Mapping):
        return "role" in value or "type" in value
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
    return listed and bool(value) and all(isinstance(each, Mapping) for each in value)


def parts_of_messages(value: Any, *, videos: bool = False) -> list[Text | Source]:
    """The parts of one message in order; videos where they are allowed.

    Raises
    ------
    PromptError
        Several messages; a part of an unknown kind, or without its content.

    Examples
    --------
    >>> parts_of_messages([{"role": "user", "content": [
    ...     {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, {"type": "text", "text": "What is it?"}]}])
    [Source(value='https://example.org/a.png', guessed=False, video=False), 'What is it?']
    """
    found = messages_of(value, videos=videos)
    if len(found) > 1:
        raise PromptError(f"one message is needed here, and this list holds {len(found)}")
    return found[0][1]


def messages_of(value: Any, *, videos: bool = False) -> list[tuple[str, list[Text | Source]]]:
    """The messages of a conversation as pairs of role and parts; a list of parts without a role is one of the user's.

    Parameters
    ----------
    videos
        Whether a part may be a video.

    Raises
    ------
    PromptError
        A role that is not known; a system message behind others; a picture in a message that is not the user's; no message
        of the user at the end; a part of an unknown kind, or without its content.

    Examples
    --------
    >>> messages_of([{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"},
    ...              {"role": "user", "content": "And 1 more?"}])
    [('user', ['What is 1 + 1?']), ('assistant', ['2']), ('user', ['And 1 more?'])]
    """
    listed = [value] if isinstance(value, Mapping) else list(value)
    if not any("role" in each for each in listed):
        return [("user", _parts(listed, "the message", videos))]
    found = []
    for number, message in enumerate(listed, 1):
        where = "the message" if len(listed) == 1 else f"message {number} of {len(listed)}"
        role = str(message.get("role"))
        if role not in ROLES:
            raise PromptError(f"{where} has the role {role!r}{nearest(role, ROLES)}; known are {', '.join(ROLES)}")
        if role == "system" and number > 1:
            raise PromptError(f"{where} is the system's, which can only come first")
        parts = _parts(_content(message, where), where, videos)
        if role != "user" and any(isinstance(part, Source) for part in parts):
            raise PromptError(f"{where} is the {role}'s and holds a picture; only the user shows pictures")
        found.append((role, parts))
    if found[-1][0] != "user":
        raise PromptError(f"the last message is the {found[-1][0]}'s; ask answers a message of the user")
    return found


def _content(message: Mapping[str, Any], where: str) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str | Mapping):
        return [content]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise PromptError(f"{where} has no content; give it a text or a list of parts")
    return list(content)


def _parts(listed: Sequence[Any], where: str, videos: bool) -> list[Text | Source]:
    return [_part(each, f"part {number} of {len(listed)} of {where}", videos) for number, each in enumerate(listed, 1)]


def _part(part: Any, where: str, videos: bool) -> Text | Source:
    if isinstance(part, str):
        return Text(part)
    if not isinstance(part, Mapping):
        raise PromptError(f"{where} is neither a text nor a table with a type")
    kind = part.get("type")
    if kind in TEXTS or (kind is None and "text" in part):
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{where} has the type {kind!r} and no text")
        return Text(part["text"])
    if kind in IMAGES or (kind is None and any(name in part for name in PLACES)):
        return Source(_held(part, where, PLACES, "picture"))
    if videos and kind in VIDEOS:
        return Source(_held(part, where, ("video", "video_url", *PLACES[2:]), "video"), video=True)
    known = (*TEXTS, *IMAGES, *(VIDEOS if videos else ()))
    raise PromptError(f"{where} has the type {kind!r}{nearest(kind, known)}; known are {', '.join(known)}")


def _held(part: Mapping[str, Any], where: str, places: Sequence[str], what: str) -> Any:
    found = [(name, part[name]) for name in places if part.get(name) is not None]
    if not found:
        raise PromptError(f"{where} holds no {what}; give it under one of {', '.join(places)}")
    name, value = found[0]
    if isinstance(value, Mapping):  # {"image_url": {"url": ...}}, {"source": {"type": "base64", "data": ...}}
        return _held(value, where, places, what)
    is_encoded = name in ("base64", "data") and isinstance(value, str) and not is_address(value)
    return from_base64(value, where) if is_encoded else value
