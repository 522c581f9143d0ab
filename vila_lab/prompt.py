"""Prompt: ordered text and pictures, checked and normalised. Knows no model, no tokens and no tiles.

Text stays exactly as typed: joining, stripping and media tokens are the family's business.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from .errors import PromptError, VilaLabError
from .picture import SUFFIXES, Picture, PictureSource, is_url, type_name

__all__ = ["LONGEST_NAME", "Part", "Picture", "Prompt"]

Part: TypeAlias = "str | PictureSource"

LONGEST_NAME = 4096  # characters; a longer string cannot be the name of a file


@dataclass(frozen=True)
class Prompt:
    """What is asked, in order.

    Attributes
    ----------
    parts : tuple of str or Picture
        Text and pictures in the order in which the model meets them; at least one picture or one text with a word.
    """

    parts: tuple[str | Picture, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if isinstance(part, Picture))

    @property
    def images(self) -> list[Image.Image]:
        return [picture.image for picture in self.pictures]

    @property
    def text(self) -> str:
        """The text parts joined without a separator, as the model's own prompt joins them."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @classmethod
    def of(
        cls,
        parts: Prompt | Part | Sequence[Part],
        images: PictureSource | Sequence[PictureSource] | None = None,
        *,
        apply_exif: bool = False,
    ) -> Prompt:
        """Read the pictures, check everything, keep the order.

        Parameters
        ----------
        parts : str, picture, or list or tuple of these
            A picture is a path object, a PIL image, an array, a `Picture`, or a string that is an address
            (``http(s)://``, ``data:image/``) or names an existing image file. Every other string is text, except that
            one that ends like a picture file and holds no space is taken for a misspelt name, not for text.
        images : picture, or list or tuple of pictures, optional
            Pictures that all come before `parts`, which must then be text only.
        apply_exif : bool
            Turn pictures upright as their EXIF orientation asks; the reference does not.

        Raises
        ------
        PromptError
            Nothing to ask, a part that is neither text nor picture, or pictures both in `parts` and in `images`.
        PictureNotFound, PictureError
            A picture that is not there or cannot be used; the message begins "picture 3 of 4".

        Examples
        --------
        >>> import numpy as np
        >>> red = np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8)
        >>> Prompt.of([red, "What colour?"])
        Prompt(parts=(Picture(array (4, 6, 3), 6x4), 'What colour?'))
        >>> Prompt.of("What colour?", images=red) == Prompt.of([red, "What colour?"])
        True
        """
        if isinstance(parts, Prompt):
            if images is not None:
                raise PromptError("images= cannot be added to a Prompt; give its text and the images instead")
            return parts
        listed = _listed(parts)
        found = [_text_or_source(part, k, len(listed)) for k, part in enumerate(listed, start=1)]
        if images is not None:
            if any(isinstance(part, _Source) for part in found):
                raise PromptError("pictures stand both in the parts and in images=; choose one of the two")
            found = [*(_Source(image) for image in _listed(images)), *found]
        return cls(_read(found, apply_exif))


@dataclass(frozen=True)
class _Source:
    """A part that is a picture, not read yet: all parts are sorted first, so that a message can count the pictures."""

    value: PictureSource


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _read(found: list[str | _Source], apply_exif: bool) -> tuple[str | Picture, ...]:
    total = sum(isinstance(part, _Source) for part in found)
    parts: list[str | Picture] = []
    number = 0
    for part in found:
        if isinstance(part, str):
            parts.append(part)
            continue
        number += 1
        try:
            parts.append(Picture.of(part.value, apply_exif=apply_exif))
        except VilaLabError as error:
            raise type(error)(f"picture {number} of {total}: {error}") from error
    if total == 0 and not "".join(part for part in parts if isinstance(part, str)).strip():
        raise PromptError("there is nothing to ask; give a question, a picture, or a list of both")
    return tuple(parts)


def _text_or_source(part: Part, number: int, total: int) -> str | _Source:
    if isinstance(part, str):
        return _Source(part) if _names_picture(part) else part
    if isinstance(part, os.PathLike | Image.Image | np.ndarray | Picture):
        return _Source(part)
    message = f"{type_name(part)} is neither text nor a picture; pass a string, a path, a PIL image or an array"
    raise PromptError(f"part {number} of {total}: {message}")


def _names_picture(text: str) -> bool:
    """Whether a string stands for a picture: an address, an image file, or what can only be a misspelt picture file."""
    if is_url(text):
        return True
    if not text.strip() or len(text) > LONGEST_NAME or "\n" in text:
        return False
    if Path(text.strip()).suffix.lower() not in SUFFIXES:
        return _is_image(text)
    return not any(map(str.isspace, text.strip())) or _starts_like_path(text) or _exists(text)


def _starts_like_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~/"))


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # a name too long for the file system, no permission, no home for ~user
        return False


def _is_image(text: str) -> bool:
    """Whether a string without a picture's suffix names a file that is an image all the same."""
    try:
        path = Path(text).expanduser()
        if not path.is_file():  # a pipe or a device could wait for ever
            return False
        with Image.open(path):
            return True
    except Exception:  # an impossible name, or a file that no decoder of Pillow accepts: then it is text
        return False
