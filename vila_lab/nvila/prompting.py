"""From the parts a user gives to turns of text with ``<image>`` markers. Knows no tokenizer and no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vila_lab.errors import PictureError, PictureNotFound, PromptError
from vila_lab.nvila.conversation import SENTINEL, Turn

IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<vila/video>"
MEDIA_TOKENS = (SENTINEL, IMAGE_TOKEN, VIDEO_TOKEN)  # in the order in which they are added to a vocabulary
ROLES = {"human": "user", "gpt": "assistant"}
PICTURE_KEYS = ("image", "image_pil", "path", "url")


class LiteralMediaTokenWarning(UserWarning):
    """A media token was typed inside a text; it was removed, because pictures are placed by the list."""


@dataclass
class AssembledTurn:
    """One turn: its text, and which characters of it the user wrote."""

    role: str
    text: str = ""
    ids: tuple[int, ...] = ()  # of an answer: its own tokens
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def turn(self) -> Turn:
        return Turn(self.role, self.text)

    def write(self, text: str, *, by_user: bool) -> None:
        if by_user and text:
            self.spans.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def strip(self) -> None:
        """Remove blanks on both sides, as the reference does with every turn before it is tokenised."""
        stripped = self.text.strip()
        lead = len(self.text) - len(self.text.lstrip())
        clipped = [(max(start - lead, 0), min(stop - lead, len(stripped))) for start, stop in self.spans]
        self.text, self.spans = stripped, [(start, stop) for start, stop in clipped if start < stop]


def is_messages(parts: Any) -> bool:
    """Whether this is a list of messages with roles rather than the parts of one turn."""
    return (
        isinstance(parts, Sequence)
        and not isinstance(parts, str)
        and bool(parts)
        and all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in parts)
    )


def pictures_of(parts: Any) -> list[Image.Image]:
    """All pictures of a prompt in order.

    Raises
    ------
    PromptError
        The prompt is empty or a part is of a kind that is not known.
    """
    return [part for _, items, _ in _turns(parts) for part in items if isinstance(part, Image.Image)]


def assemble(parts: Any, markers: Callable[[int], str]) -> list[AssembledTurn]:
    """Concatenate the parts of every turn.

    Parameters
    ----------
    parts : list of str and PIL images (one user turn), or list of messages
    markers : callable
        Picture index to what stands for that picture in the text.

    Raises
    ------
    PromptError
        See `pictures_of`.
    """
    turns: list[AssembledTurn] = []
    pictures = 0
    for role, items, ids in _turns(parts):
        turn = AssembledTurn(role, ids=ids)
        for item in items:
            if isinstance(item, Image.Image):
                turn.write(markers(pictures), by_user=False)
                pictures += 1
            else:
                turn.write(without_media_tokens(item), by_user=role == "user")
        turn.strip()
        turns.append(turn)
    return turns


def without_media_tokens(text: str) -> str:
    """Remove literal media tokens from a text part, warn once, and strip the part, as the reference does.

    Until none is left: ``<vila/sen<image>tinel>`` is one again after the first was removed.
    """
    removed: list[str] = []
    while found := [token for token in MEDIA_TOKENS if token in text]:
        text = text.replace(found[0], "").strip()
        removed += [token for token in found[:1] if token not in removed]
    if removed:
        warnings.warn(
            f"The literal {' and '.join(removed)} in the text was removed; to place a picture between texts, "
            'pass it in the list between them: ["First:", picture, "Second:", other_picture, "Question?"].',
            LiteralMediaTokenWarning,
            stacklevel=2,
        )
    return text


def _turns(parts: Any) -> list[tuple[str, list[str | Image.Image], tuple[int, ...]]]:
    if not is_messages(parts):
        items = [parts] if isinstance(parts, str | Image.Image) else parts
        if not items:
            raise PromptError("The prompt is empty; give at least one text or picture.")
        return [("user", [_part(item) for item in items], ())]
    turns = []
    for message in parts:
        role = str(message.get("role", message.get("from")))
        content = message.get("content", message.get("value"))
        items = [content] if isinstance(content, str) or not isinstance(content, Sequence) else content
        ids = tuple(message.get("ids") or ())
        turns.append((ROLES.get(role, role), [_part(item) for item in items if item is not None], ids))
    known = {"system", "user", "assistant"}
    if unknown := next((role for role, *_ in turns if role not in known), None):
        raise PromptError(f"Role {unknown!r} is unknown; use system, user or assistant.")
    return turns


def _part(item: Any) -> str | Image.Image:
    if isinstance(item, str | Image.Image):
        return item
    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    if isinstance(item, Path):
        return _open(item)
    if isinstance(item, Mapping):
        return _typed_part(item)
    raise PromptError(f"A part of the prompt is a {type(item).__name__}; parts are texts and PIL pictures.")


def _typed_part(item: Mapping[str, Any]) -> str | Image.Image:
    if item.get("type") == "text":
        return str(item["text"])
    picture = next((item[key] for key in PICTURE_KEYS if item.get(key) is not None), None)
    if item.get("type") != "image" or picture is None:
        raise PromptError(
            f"A part of type {item.get('type')!r} holds no usable text or picture; use type 'text' with 'text' or type 'image' with 'image'."
        )
    return _open(Path(picture)) if isinstance(picture, str) else _part(picture)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise PictureNotFound(f"There is no picture {path}; check the path.") from error
    except OSError as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}.") from error
    return image
