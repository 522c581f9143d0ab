"""Chat messages in all their usual spellings, brought to one. Knows pictures and dictionaries, no tokenizer and no model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from PIL import Image

from vila_lab.errors import PromptError
from vila_lab.nvila.image_processing_nvila import flatten_pictures
from vila_lab.nvila.prompting import ROLES, is_messages, without_media_tokens

__all__ = ["conversations_of", "is_placeholder", "parts_of", "pictures_in", "plain_parts", "standard_messages"]

SOURCES = ("image", "image_pil", "path", "url", "base64", "data")
TEXTS = ("text", "input_text", "output_text")
IMAGES = ("image", "image_url", "input_image")


def conversations_of(conversation: Any) -> tuple[list[Any], bool]:
    """One or several conversations as a list, and whether there were several.

    Raises
    ------
    PromptError
        There is none.
    """
    found = getattr(conversation, "messages", conversation)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise PromptError("There is no conversation; give a list of messages with role and content.")
    if all(isinstance(item, list | tuple) or hasattr(item, "messages") for item in found):
        return [getattr(item, "messages", item) for item in found], True
    return [found], False


def standard_messages(conversation: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages as dictionaries of role and content, a content in parts as ``{"type": "text" | "image", ...}``.

    Raises
    ------
    PromptError
        A message has no role, or a part is of a kind that is not known.
    """
    return [_message(item) for item in conversation]


def _message(item: Any) -> dict[str, Any]:
    fields = {name: value for name, value in _fields(item).items() if value is not None}
    role = fields.pop("role", None) or fields.pop("from", None)
    if role is None:
        raise PromptError('A message has no role; write {"role": "user", "content": ...}.')
    content = fields.pop("content", fields.pop("value", None))
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = [_part(part) for part in content if part is not None]
    elif content is not None and not isinstance(content, str):
        content = [_part(content)]
    elif isinstance(content, str):
        content = without_media_tokens(content)
    return {"role": ROLES.get(str(role), str(role)), "content": content, **fields}


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": without_media_tokens(part)}
    if not isinstance(part, Mapping) and not hasattr(part, "type"):
        return {"type": "image", "image": part}
    fields = {name: value for name, value in _fields(part).items() if value is not None}
    kind = fields.pop("type", "text" if "text" in fields else "image")
    if kind in TEXTS and isinstance(fields.get("text"), str):
        return {**fields, "type": "text", "text": without_media_tokens(fields["text"])}
    if kind not in IMAGES:
        raise PromptError(
            f"A part of type {kind!r} holds no usable text or picture; use type 'text' with 'text' or type 'image' with 'image'."
        )
    address = fields.pop("image_url", None)
    if address is not None:
        fields["url"] = address if isinstance(address, str) else _fields(address).get("url")
    return {**fields, "type": "image"}


def _fields(item: Any) -> dict[str, Any]:
    """A mapping's items, or the fields of a message object of another package."""
    if isinstance(item, Mapping):
        return dict(item)
    if hasattr(item, "model_dump"):
        return dict(item.model_dump())
    try:
        return dict(vars(item))
    except TypeError as error:
        raise PromptError(f"A message is a {type(item).__name__}; give mappings with role and content.") from error


def plain_parts(parts: Any) -> Any:
    """A prompt, in messages or in the parts of one turn, with texts and PIL pictures only.

    Raises
    ------
    PictureError, PictureNotFound, PromptError
        A part is neither text nor a picture that can be read.
    """
    if is_messages(parts):
        return [{**each, "content": [_plain(part) for part in parts_of(each)]} for each in standard_messages(parts)]
    if isinstance(parts, list | tuple):
        return [part if isinstance(part, str | Image.Image) else _plain(_part(part)) for part in parts]
    return parts if isinstance(parts, str | Image.Image) or parts is None else [_plain(_part(parts))]


def _plain(part: Mapping[str, Any]) -> str | Image.Image:
    if part["type"] == "text":
        return str(part["text"])
    if is_placeholder(part):
        raise PromptError("An image part holds no picture; put it in the message.")
    return _picture(part)


def is_placeholder(part: Mapping[str, Any]) -> bool:
    """Whether an image part says only where the picture stands."""
    return not any(part.get(key) is not None for key in SOURCES)


def pictures_in(messages: Sequence[Mapping[str, Any]]) -> list[Image.Image | None]:
    """The picture of every image part in order; None for a part that brings none.

    Raises
    ------
    PictureError, PictureNotFound, PromptError
        A part's picture cannot be read.
    """
    parts = [part for message in messages for part in parts_of(message) if part["type"] == "image"]
    return [None if is_placeholder(part) else _picture(part) for part in parts]


def parts_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _picture(part: Mapping[str, Any]) -> Image.Image:
    key = next(key for key in SOURCES if part.get(key) is not None)
    source = part[key]
    if key == "base64" and isinstance(source, str) and not source.startswith("data:"):
        source = f"data:image/png;base64,{source}"
    if isinstance(source, bytes):
        source = f"data:image/png;base64,{base64.b64encode(source).decode('ascii')}"
    if isinstance(source, str) and source.lower().startswith("file:"):
        source = Path(url2pathname(urlparse(source).path))
    pictures = flatten_pictures(source)
    if len(pictures) != 1:
        raise PromptError(f"An image part holds {len(pictures)} pictures; give one part per picture.")
    return pictures[0]
