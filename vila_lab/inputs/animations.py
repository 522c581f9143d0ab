"""Frames of an animated GIF, WebP or PNG, decoded by Pillow within bounds. Knows files, no prompts and no pictures' rules."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from ..errors import VideoError, VilaLabError
from .frames import Shot, Shots, Watch, chosen
from .sources import reason

__all__ = ["is_animation", "shots_of_animation"]

FORMATS = ("GIF", "PNG", "WEBP")


def is_animation(head: bytes) -> bool:
    """Whether a file that begins like this is one of Pillow's.

    >>> is_animation(b"GIF89a"), is_animation(b"RIFF....WEBP"), is_animation(b"RIFF....AVI ")
    (True, True, False)
    """
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def shots_of_animation(file: BinaryIO, name: str, wanted: int) -> Shots:
    """Some frames of an animation, by `vila_lab.inputs.frames.chosen`; they begin when those before them have been shown.

    Raises
    ------
    VideoError
        It is damaged, or beyond the bounds of `vila_lab.inputs.frames`.
    """
    watch = Watch(name)
    with _pillow_errors(name), Image.open(file, formats=FORMATS) as image:
        watch.fits(*image.size)
        starts, whole = _starts(image, watch)
        numbers = chosen(len(starts), wanted)
        shots = list(_shots(image, numbers, starts, watch))
    return Shots(shots, len(starts), () if whole else ("the animation is damaged: what can be decoded was read",))


def _starts(image: Image.Image, watch: Watch) -> tuple[list[float], bool]:
    """When each frame that is really there begins, in seconds, and whether the file ends where the last one does."""
    starts: list[float] = []
    now = 0.0
    for number in watch.over(iter(range(2**62))):
        try:
            image.seek(number)
            image.load()  # a WebP tells a frame's time only then
        except EOFError:
            return starts, True
        except Exception as error:  # a damaged file makes each of Pillow's decoders raise what it likes
            if not starts or isinstance(error, MemoryError):
                raise
            return starts, False
        starts.append(now / 1000)
        now += float(image.info.get("duration") or 0)  # milliseconds
    return starts, True


def _shots(image: Image.Image, numbers: Sequence[int], starts: Sequence[float], watch: Watch) -> Iterator[Shot]:
    timed = starts[-1] > 0 or len(starts) == 1
    for number in numbers:
        watch.look()
        watch.take(*image.size)
        image.seek(number)
        yield Shot(image.copy(), number, starts[number] if timed else None)


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (VilaLabError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes each of Pillow's decoders raise what it likes
        raise VideoError(f"{name} is damaged or incomplete ({reason(error)}); save or download it again") from error
