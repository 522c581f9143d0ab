"""Video: some frames of a video, an animation or a folder of frames, as pictures in order. Knows files, no prompts and no models.

Every model gets them as a sequence of pictures. Which ones is NVILA's own rule, ``round(linspace(0, count - 1, frames))``, and
there is one picture per frame that was really read.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from PIL import Image

from .errors import PictureError, PromptError, VideoError
from .inputs.animations import is_animation, shots_of_animation
from .inputs.clips import shots_of_clip
from .inputs.decoding import Colour, HowRead
from .inputs.frames import MOST_FRAMES, Shots, chosen
from .inputs.naming import is_address, is_data_address, is_file_address, kind_of_name
from .inputs.sources import data_of, expanded, fetch, head_of, open_file, path_of, read_stream, reason, shorten
from .options import check_range, check_whole
from .picture import Frame, Picture, type_name

__all__ = ["FRAMES", "MOST_ASKED", "Video", "VideoSource", "is_video_name"]

VideoSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

FRAMES = 8
"""How many frames are read where nobody says, as in NVILA's own configuration."""

MOST_ASKED = 1024  # frames of one video
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, repr=False)
class Video:
    """A video in a prompt: a sequence of pictures, as many as there are frames to read.

    A string in a prompt that ends like a video's name is ``Video(name)``; a GIF or WebP there is its first frame, and in a
    `Video` all of it.

    Parameters
    ----------
    source : str, PathLike, bytes or open file
        An MP4, MKV, WebM or what else PyAV reads (``pip install 'vila-lab[video]'``); an animated GIF, WebP or PNG; or a folder
        of pictures, in the order of the numbers in their names. A string is a path or an address.
    frames : int
        How many; a video with fewer frames gives those that it has.

    Raises
    ------
    OptionError
        `frames` is no whole number from 1 to 1024.
    PromptError
        `source` is of a type that is no video.

    Notes
    -----
    What may never end is given up: after a minute of work, a million frames, 500 million pixels of all frames that are taken
    together, or a frame of more than 50. A pipe is refused, and what comes from an address or an open file may
    have 64 MiB.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for number in range(12):
    ...     Image.new("RGB", (4, 3), (20 * number, 0, 0)).save(folder / f"{number}.png")
    >>> pictures = Video(folder, frames=4).pictures()
    >>> [picture.frame.number for picture in pictures], pictures[-1].image.getpixel((0, 0))
    ([0, 4, 7, 11], (220, 0, 0))
    >>> Video(folder).frames, Video(folder).source == folder
    (8, True)
    """

    source: VideoSource
    frames: int = FRAMES

    def __post_init__(self) -> None:
        check_whole("frames", self.frames)
        check_range("frames", self.frames, least=1, most=MOST_ASKED)
        if not (
            isinstance(self.source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(self.source, "read")
        ):
            raise PromptError(f"{type_name(self.source)} is no video; pass a path, an address, bytes or an open file")

    def __repr__(self) -> str:
        return f"Video({_name_of(self.source)}, frames={self.frames})"

    def pictures(self, *, apply_exif: bool = False, background: Colour | None = None) -> tuple[Picture, ...]:
        """Read the frames.

        Parameters
        ----------
        apply_exif
            Turn pictures of a folder upright as their EXIF asks; a video that asks to be turned always is.
        background
            The colour behind what is transparent; see `Picture.of`.

        Returns
        -------
        tuple of Picture
            Each says which frame it is, in its notes and as `Picture.frame`.

        Raises
        ------
        PictureNotFound
            There is no such file, folder or address.
        VideoError, PictureError
            It is there but cannot be used: no video, damaged, without pictures, endless, too large.
        MissingExtra
            Without PyAV, for what only PyAV reads.

        Examples
        --------
        >>> import vila_lab
        >>> [str(picture.frame)[:13] for picture in Video(vila_lab.demo_images(), 2).pictures()]
        ['frame 1 of 10', 'frame 10 of 1']
        """
        how = HowRead(apply_exif, background)
        if isinstance(self.source, str | os.PathLike):
            folder = _folder_of(self.source)
            if folder is not None:
                return _of_folder(folder, self.frames, how)
        file, name = _opened(self.source)
        with file:
            shots = _shots_of(file, name, self.frames)
        return tuple(_pictures_of(shots, name, how))


def is_video_name(source: Any) -> bool:
    """Whether a string or a path promises a video by its suffix.

    >>> is_video_name("clip.MP4"), is_video_name(Path("a.gif")), is_video_name(b"clip.mp4")
    (True, False, False)
    """
    return isinstance(source, str | os.PathLike) and kind_of_name(os.fsdecode(source)) == "video"


# -- files ---------------------------------------------------------------------------------------------------------------


def _path_of(source: str | os.PathLike[str]) -> str | None:
    """The path that a name stands for; None for an address of another kind."""
    name = os.fsdecode(source)
    stripped = name.strip()
    if is_address(stripped):
        return path_of(stripped) if is_file_address(stripped) else None
    # A name that was pasted with a line's end is meant without it.
    return stripped if name != stripped and not os.path.lexists(name) else name


def _folder_of(source: str | os.PathLike[str]) -> Path | None:
    """The folder of this name, if it is one."""
    name = _path_of(source)
    if name is None:
        return None
    try:
        mode = expanded(name).stat().st_mode
    except (OSError, ValueError, RuntimeError):  # what is wrong is said where it is opened
        return None
    if stat.S_ISFIFO(mode):
        raise VideoError(f"{name!r} is a pipe, and a video is read more than once; save it to a file")
    return expanded(name) if stat.S_ISDIR(mode) else None


def _opened(source: VideoSource) -> tuple[BinaryIO, str]:
    """A file that can be sought in, and its name for messages."""
    name = _name_of(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(source)), name
    if not isinstance(source, str | os.PathLike):
        return io.BytesIO(read_stream(source)), name
    path = _path_of(source)
    if path is not None:
        return open_file(path), path
    address = os.fsdecode(source).strip()
    return io.BytesIO(data_of(address) if is_data_address(address) else fetch(address)), name


def _name_of(source: VideoSource) -> str:
    if isinstance(source, bytes | bytearray | memoryview):
        return f"bytes ({len(source)})"
    if isinstance(source, str | os.PathLike):
        return shorten(os.fsdecode(source).strip())
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the open file"


def _shots_of(file: BinaryIO, name: str, wanted: int) -> Shots:
    head = head_of(file, name, 16, VideoError)
    return shots_of_animation(file, name, wanted) if is_animation(head) else shots_of_clip(file, name, wanted)


# -- pictures ------------------------------------------------------------------------------------------------------------


def _pictures_of(shots: Shots, name: str, how: HowRead) -> Sequence[Picture]:
    found = []
    while shots.shots:
        shot = shots.shots.pop(0)  # so that it does not stay beside the picture that is made of it
        image, notes = shot.image, shots.notes
        if shot.turn in TURNS:  # as the reference's reader does, OpenCV, which turns videos and no pictures
            image = image.transpose(TURNS[shot.turn])
            notes = (*notes, f"turned by {360 - shot.turn}° clockwise, as the video asks")
        picture = Picture.read(image, how)
        frame = Frame(_short(name), shot.number, shots.count, shot.seconds)
        found.append(replace(picture, source=name, notes=(str(frame), *picture.notes, *notes), frame=frame))
    return found


def _of_folder(folder: Path, wanted: int, how: HowRead) -> tuple[Picture, ...]:
    paths = _frames_in(folder)
    found = []
    for number in chosen(len(paths), wanted):
        picture = Picture.read(paths[number], how)
        frame = Frame(_short(str(folder)), number, len(paths))
        found.append(replace(picture, notes=(str(frame), *picture.notes), frame=frame))
    return tuple(found)


def _frames_in(folder: Path) -> list[Path]:
    """The pictures in a folder, 2 before 10; what is hidden, and what is no picture by its name, is passed over."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if kind_of_name(entry.name) == "picture" and not entry.name.startswith("."):
                    found.append(Path(entry.path))
                if len(found) > MOST_FRAMES:
                    raise VideoError(f"the folder {str(folder)!r} has more than {MOST_FRAMES:,} pictures; give fewer")
    except OSError as error:
        raise PictureError(f"the folder {str(folder)!r} cannot be read ({reason(error)}); choose another") from error
    if not found:
        raise VideoError(f"the folder {str(folder)!r} holds no pictures; name a folder of frames, such as 1.png, 2.png")
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """What sorts names as a person would.

    >>> sorted(["f10.png", "f9.png", "F1.png", "10.png"], key=_natural)
    ['10.png', 'F1.png', 'f9.png', 'f10.png']
    """
    pieces = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(1, int(piece), "") if piece.isdecimal() else (2, 0, piece) for piece in pieces], name


def _short(name: str) -> str:
    """The last part of a path, for notes."""
    return name if is_address(name) else Path(name).name or name
