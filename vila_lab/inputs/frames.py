"""Which frames of a video are read, what a read one is, and how long one may look for it. Knows numbers, no files.

The bounds stand here: a video of unknown length may never end, and a file may claim any size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from ..errors import VideoError

__all__ = ["MOST_EACH", "MOST_FRAMES", "MOST_PIXELS", "MOST_SECONDS", "Shot", "Shots", "Watch", "chosen"]

MOST_SECONDS = 60.0  # of work on one video
MOST_FRAMES = 1_000_000  # of one video, eleven hours of 25 a second
MOST_EACH = 50_000_000  # pixels of one frame, one and a half times 8K; a decoder holds a dozen frames at once
MOST_PIXELS = 500_000_000  # of all frames that are taken from one video: 240 of full HD, 1.5 GB

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Shot:
    """A frame that was read.

    Attributes
    ----------
    image : PIL.Image.Image
        As it is stored.
    number : int
        Which one of the video, from 0, in the order in which they are shown.
    seconds : float, optional
        When it is shown, after the first; None where the file does not tell.
    turn : int
        By how many degrees against the clock it asks to be turned.
    """

    image: Image.Image
    number: int
    seconds: float | None
    turn: int = 0


@dataclass(frozen=True)
class Shots:
    """What was read of a video: some of its frames, how many there are, and what a reader must know of all of them.

    The frames are a list, from which they can be taken one by one: they may fill the memory.
    """

    shots: list[Shot]
    count: int
    notes: tuple[str, ...] = ()


def chosen(count: int, wanted: int) -> list[int]:
    """Numbers of the frames to read, from 0: NVILA's own ``round(linspace(0, count - 1, wanted))``, each of them once.

    Examples
    --------
    >>> chosen(96, 8), chosen(3, 8), chosen(96, 1)
    ([0, 14, 27, 41, 54, 68, 81, 95], [0, 1, 2], [0])
    """
    return [int(number) for number in np.unique(np.round(np.linspace(0, count - 1, wanted)))]


class Watch:
    """How long, over how many frames and for how many pixels a video may be worked on; then it is given up.

    Raises
    ------
    VideoError
        From each of its methods.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._end = time.monotonic() + MOST_SECONDS
        self._pixels = 0

    def look(self) -> None:
        """Once per step of the work, a read from the file for example."""
        if time.monotonic() > self._end:
            raise VideoError(
                f"{self.name} could not be read within {MOST_SECONDS:g} s; cut it shorter, or give some of its frames as pictures"
            )

    def over(self, things: Iterable[Thing]) -> Iterable[Thing]:
        """The things one by one, as long as there are not too many."""
        for number, thing in enumerate(things):
            self.look()
            if number >= MOST_FRAMES:
                raise VideoError(f"{self.name} has more than {MOST_FRAMES:,} frames, or never ends; cut it shorter")
            yield thing

    def take(self, width: int, height: int) -> None:
        """Before a frame's pixels are kept."""
        self._pixels += self.fits(width, height)
        if self._pixels > MOST_PIXELS:
            raise VideoError(
                f"the frames of {self.name} have more than {MOST_PIXELS:,} pixels together; ask for fewer, or make it smaller"
            )

    def forget(self) -> None:
        """What was taken is let go of, to be taken again."""
        self._pixels = 0

    def fits(self, width: int, height: int) -> int:
        """How many pixels a frame has, if a frame may have so many."""
        if width * height > MOST_EACH:
            raise VideoError(
                f"{self.name} has frames of {width}x{height}, more than {MOST_EACH:,} pixels; make it smaller"
            )
        return width * height
