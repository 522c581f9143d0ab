"""Chat messages in all their usual spellings, brought to one. Knows pictures and dictionaries, no tokenizer and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vila_lab.errors import PromptError
from vila_lab.inputs.messages import PLACES, TEXTS, Source, parts_of_messages
from vila_lab.nvila.prompting import ROLES, is_messages, without_media_tokens
from vila_lab.picture import Picture

__all__ = ["conversations_of", "is_placeholder", "parts_of", "pictures_in", "plain_parts", "standard_messages"]


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
    if fields.get("type", "text") in TEXTS and isinstance(fields.get("text"), str):
        return {**fields, "type": "text", "text": without_media_tokens(fields["text"])}
    if not is_placeholder(fields):
        parts_of_messages([fields])  # which says what is wrong with a part of another kind
    elif fields.get("type") != "image":
        raise PromptError(
            f"A part of type {fields.get('type')!r} holds no usable text or picture; use type 'text' with 'text' or type 'image' with 'image'."
        )
    address = fields.pop("image_url", None)  # Hugging Face's templates know it as url
    url = {} if address is None else {"url": address["url"] if isinstance(address, Mapping) else address}
    return {**fields, **url, "type": "image"}


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
    return not any(part.get(key) is not None for key in PLACES)


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
    (found,) = parts_of_messages([part])
    source = found.value if isinstance(found, Source) else found
    return source if isinstance(source, Image.Image) else Picture.of(source).image
