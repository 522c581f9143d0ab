"""Prompt: ordered text and pictures, checked and normalised. Knows no model, no tokens and no tiles.

Text stays exactly as typed: joining, stripping and media tokens are the family's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeAlias

from PIL import Image

from .errors import PromptError, VilaLabError
from .inputs.decoding import Colour, HowRead
from .inputs.messages import Source, is_messages, messages_of, parts_of_messages
from .inputs.naming import Text, names_picture
from .inputs.sources import shorten
from .picture import Picture, PictureSource, is_picture_type, type_name
from .video import Video, is_video_name

__all__ = ["Part", "Picture", "Prompt", "Text", "Turn"]

Part: TypeAlias = "str | PictureSource | Video"


@dataclass(frozen=True)
class Turn:
    """A message that was said before.

    Attributes
    ----------
    role : str
        "system", "user" or "assistant".
    parts : tuple of str or Picture
        Only the user shows pictures.
    ids : tuple of int
        Of an answer: its tokens as they were generated, without the one that ended it. Empty: the text is tokenised.
    """

    role: str
    parts: tuple[str | Picture, ...]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What is asked, in order.

    Attributes
    ----------
    parts : tuple of str or Picture
        Text and pictures of the question in the order in which the model meets them; at least one picture or one text with a
        word.
    history : tuple of Turn
        What was said before it, in a conversation.
    goes_on : bool
        Whether another question is to come, so that all of this prompt is worth keeping.

    Examples
    --------
    >>> import numpy as np
    >>> prompt = Prompt.of(["Which is ", np.zeros((2, 2), np.uint8), " red?"])
    >>> prompt.text, len(prompt.pictures)
    ('Which is  red?', 1)
    >>> len(prompt.parts), [image.size for image in prompt.images], prompt.history, prompt.goes_on
    (3, [(2, 2)], (), False)
    """

    parts: tuple[str | Picture, ...]
    history: tuple[Turn, ...] = ()
    goes_on: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        before = f", {len(self.history)} messages before" if self.history else ""
        return f"Prompt(parts={self.parts!r}{before})"

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of the whole conversation, in order."""
        parts = [*(part for turn in self.history for part in turn.parts), *self.parts]
        return tuple(part for part in parts if isinstance(part, Picture))

    @property
    def images(self) -> list[Image.Image]:
        """`pictures` as PIL images."""
        return [picture.image for picture in self.pictures]

    @property
    def text(self) -> str:
        """The question's text parts joined without a separator, as the model's own prompt joins them."""
        return "".join(part for part in self.parts if isinstance(part, str))

    def with_pictures(self, pictures: Callable[[int, Picture], Picture]) -> Prompt:
        """The same words with other pictures: each is given with its number, from 0.

        Examples
        --------
        >>> import numpy as np
        >>> prompt = Prompt.of([np.zeros((2, 2), np.uint8), "What colour?"])
        >>> white = Picture.of(np.full((2, 2), 255, np.uint8))
        >>> prompt.with_pictures(lambda number, picture: white).images[0].getpixel((0, 0))
        (255, 255, 255)
        """
        count = iter(range(len(self.pictures)))

        def changed(parts: Sequence[str | Picture]) -> tuple[str | Picture, ...]:
            return tuple(pictures(next(count), part) if isinstance(part, Picture) else part for part in parts)

        history = tuple(replace(turn, parts=changed(turn.parts)) for turn in self.history)
        return replace(self, parts=changed(self.parts), history=history)

    @classmethod
    def of(
        cls,
        parts: Prompt | Part | Sequence[Part],
        images: PictureSource | Video | Sequence[PictureSource | Video] | None = None,
        *,
        apply_exif: bool = False,
        background: Colour | None = None,
    ) -> Prompt:
        """Read the pictures, check everything, keep the order.

        Parameters
        ----------
        parts : str, picture, or list or tuple of these
            A picture is a path object, a PIL image, an array or tensor, bytes, an open file, a `Picture`, or a string that
            is an address (``http(s)://``, ``file://``, ``data:``), names a file or folder that is there, or looks like the
            name of one (see `vila_lab.inputs.naming.names_picture`). Every other string is text, and so is every `Text`. A list
            of messages as chat services take them is a conversation, whose last message is the question. A `vila_lab.Video`,
            and a path or string that ends like a video's name, is so many pictures in its place.
        images : picture, or list or tuple of pictures, optional
            Pictures that all come before `parts`, which must then be text only. Here every string is a picture or a video.
        apply_exif : bool
            Turn pictures upright as their EXIF orientation asks, which the reference does not do, and videos as theirs does.
        background : str or (red, green, blue), optional
            What shows where a picture is transparent; see `vila_lab.picture.Picture.of`.

        Raises
        ------
        PromptError
            Nothing to ask, a part that is neither text nor picture, a text that no tokenizer can take, or pictures both
            in `parts` and in `images`.
        PictureNotFound, PictureError
            A picture or a video that is not there or cannot be used; the message begins "picture 3 of 4" or "video 1 of 1".

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
        *earlier, (_, found) = _sorted(parts)
        if images is not None:
            if any(isinstance(part, Source) for _, some in (*earlier, ("user", found)) for part in some):
                raise PromptError("pictures stand both in the parts and in images=; choose one of the two")
            found = [*(Source(image) for image in _listed(images)), *found]
        how = HowRead(apply_exif, background)
        *history, question = _read([*(some for _, some in earlier), found], how)
        if not any(isinstance(part, Picture) or part.strip() for part in question):
            raise PromptError("there is nothing to ask; give a question, a picture, or a list of both")
        return cls(question, tuple(Turn(role, said) for (role, _), said in zip(earlier, history, strict=True)))


def _sorted(parts: Any) -> list[tuple[str, list[str | Source]]]:
    """The messages, by role; what is asked comes last."""
    if is_messages(parts):
        return [
            (role, [part if isinstance(part, Source) else _checked(part, "the message") for part in said])
            for role, said in messages_of(parts, videos=True)
        ]
    listed = _listed(parts)
    return [("user", [_text_or_source(part, f"part {k} of {len(listed)}") for k, part in enumerate(listed, start=1)])]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _read(messages: list[list[str | Source]], how: HowRead) -> list[tuple[str | Picture, ...]]:
    """The messages with their pictures and videos, each of which are counted through."""
    kinds = [_is_video(part) for found in messages for part in found if isinstance(part, Source)]
    counts = {kind: iter(range(1, len(kinds) + 1)) for kind in (False, True)}

    def read(part: str | Source) -> tuple[str | Picture, ...]:
        if isinstance(part, str):
            return (part,)
        is_video = _is_video(part)
        number = next(counts[is_video])
        try:
            if is_video:
                return _video_of(part).pictures(apply_exif=how.apply_exif, background=how.background)
            return (Picture.read(part.value, how),)
        except VilaLabError as error:
            way = f"; if it is meant as text, write vila_lab.Text({shorten(part.value, 30)!r})" if part.guessed else ""
            where = f"{'video' if is_video else 'picture'} {number} of {kinds.count(is_video)}"
            raise type(error)(f"{where}: {error}{way}") from error

    return [tuple(chain.from_iterable(map(read, found))) for found in messages]


def _is_video(part: Source) -> bool:
    return part.video or isinstance(part.value, Video) or is_video_name(part.value)


def _video_of(part: Source) -> Video:
    return part.value if isinstance(part.value, Video) else Video(part.value)


def _text_or_source(part: Part, where: str) -> str | Source:
    if isinstance(part, str):
        return Source(part, guessed=True) if names_picture(part) else _checked(part, where)
    if isinstance(part, Video) or is_picture_type(part):
        return Source(part)
    if isinstance(part, Mapping) and "role" in part:
        raise PromptError(f"{where}: a message with a role stands between other parts; give a list of messages alone")
    if is_messages(part):
        (only,) = parts_of_messages(part, videos=True)
        return only if isinstance(only, Source) else _checked(only, where)
    message = f"{type_name(part)} is neither text nor a picture; pass a string, a path, a PIL image or an array"
    raise PromptError(f"{where}: {message}")


def _checked(text: str, where: str) -> str:
    """The text itself, where a tokenizer can take it."""
    if "\0" in text:
        raise PromptError(f"{where} holds a null character at place {text.index(chr(0))}; take it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} holds half a character (a lone surrogate) at place {error.start}; decode the text again"
        ) from error
    return str(text)
