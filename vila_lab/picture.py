"""Picture: one picture, fully read, with what is known of it: name, notes, frame, digest. Knows nothing of prompts or decoding."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from numpy.typing import NDArray
from PIL import Image

from .errors import PromptError
from .inputs.arrays import image_of_array, is_array, name_of_array
from .inputs.decoding import Colour, Decoded, HowRead, decode, to_rgb
from .inputs.naming import is_address, is_data_address, is_file_address
from .inputs.sources import data_of, fetch, open_file, path_of, read_stream, shorten

PictureSource: TypeAlias = "Picture | Image.Image | NDArray[Any] | os.PathLike[str] | str | bytes | BinaryIO"

DIGEST, ENCODED = "_vila_lab_digest", "_vila_lab_encoded"
"""Attributes of an image: its digest, once that was taken, and the file that it was read from."""


@dataclass(frozen=True)
class Frame:
    """Which frame of a video a picture is.

    Attributes
    ----------
    video : str
        The video's name.
    number : int
        From 0, in the order in which frames are shown.
    count : int
        How many there are.
    seconds : float, optional
        When it is shown, after the first; None where that is not known, as for the files in a folder.

    Examples
    --------
    >>> str(Frame("clip.mp4", 11, 96, 0.48))
    'frame 12 of 96 of clip.mp4, at 0.48 s'
    """

    video: str
    number: int
    count: int
    seconds: float | None = None

    def __str__(self) -> str:
        at = "" if self.seconds is None else f", at {self.seconds:.2f} s"
        return f"frame {self.number + 1} of {self.count} of {self.video}{at}"


@dataclass(frozen=True, repr=False)
class Picture:
    """A picture as the model gets it.

    Attributes
    ----------
    image : PIL.Image.Image
        Mode RGB, in the picture's own size; a copy, so later changes to the original do not reach it.
    source : str
        Where it came from, for messages and captions: a path, an address, "PIL image", "array (480, 640, 3)".
    notes : tuple of str
        What reading it changed or left out, for example ``"first frame of 12"``.
    frame : Frame, optional
        Which frame of a video it is, where it was read from a `vila_lab.Video`.

    Examples
    --------
    >>> import vila_lab
    >>> picture = Picture.of(vila_lab.demo_images() / "g.png")
    >>> picture.image.size, picture.image.mode, picture.source.endswith("g.png"), picture.notes, picture.frame
    ((256, 256), 'RGB', True, (), None)
    """

    image: Image.Image
    source: str
    notes: tuple[str, ...] = ()
    frame: Frame | None = None

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in self.notes)
        return f"Picture({self.source}, {self.image.width}x{self.image.height}{notes})"

    @property
    def digest(self) -> str:
        """sha256 of size and pixels: what tells this picture's content from any other's. Taken once.

        Examples
        --------
        >>> import numpy as np
        >>> one, other = (Picture.of(np.full((2, 3), grey, np.uint8)) for grey in (7, 7))
        >>> one.digest == other.digest, len(one.digest)
        (True, 64)
        """
        return digest_of(self.image)

    @classmethod
    def of(cls, source: PictureSource, *, apply_exif: bool = False, background: Colour | None = None) -> Picture:
        """Read a picture from whatever holds one.

        Parameters
        ----------
        source : str, PathLike, bytes, open file, PIL.Image.Image, array, tensor or Picture
            A string is a path (``~`` is expanded), an http(s) address, a ``file://`` address or a ``data:`` address.
            Bytes and open files (from their beginning) hold an encoded picture. For arrays and tensors see
            `vila_lab.inputs.arrays.image_of_array`.
        apply_exif : bool
            Turn the picture upright as its EXIF orientation asks; the reference does not. A `Picture` stays as it is.
        background : str or (red, green, blue), optional
            What shows where the picture lets something through: a colour's name, "#rrggbb", or three numbers of 0 to 255. None, as
            the reference does, shows whatever colour the file has below its transparency.

        Raises
        ------
        PictureNotFound
            There is no such file or address.
        PictureError
            It is there but cannot be used: not an image, damaged, too large, an array of another shape or type.
        PromptError
            `source` is of a type that is no picture.
        OptionError
            `background` is no colour.

        Notes
        -----
        A picture may have twice `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels), wherever it comes from.

        Examples
        --------
        >>> import numpy as np
        >>> Picture.of(np.zeros((2, 3), dtype=np.uint8))
        Picture(array (2, 3), 3x2)
        >>> Picture.of(np.zeros((2, 3, 4), dtype=np.uint8)).notes
        ('transparency dropped',)
        >>> white = Picture.of(np.zeros((2, 3, 4), dtype=np.uint8), background="white")
        >>> white.notes, white.image.getpixel((0, 0))
        (('transparency put on white',), (255, 255, 255))
        """
        return cls.read(source, HowRead(apply_exif, background))

    @classmethod
    def read(cls, source: PictureSource, how: HowRead) -> Picture:
        """`of` where how pictures are read was chosen before.

        Examples
        --------
        >>> import numpy as np
        >>> Picture.read(np.zeros((2, 3, 4), dtype=np.uint8), HowRead(background="white")).notes
        ('transparency put on white',)
        """
        if isinstance(source, Picture):
            return source
        if isinstance(source, Image.Image):
            name = getattr(source, "filename", "") or "PIL image"
            return _made(to_rgb(source, name, how), name)
        if isinstance(source, str | os.PathLike):
            return _named(os.fsdecode(source), how)
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            return _decoded(io.BytesIO(data), f"bytes ({len(data)})", how)
        if hasattr(source, "read"):
            return _decoded(io.BytesIO(read_stream(source)), _name_of_file(source), how)
        if is_array(source):
            image, notes = image_of_array(source)
            name = name_of_array(source)
            return _made(to_rgb(image, name, how, notes), name)
        raise PromptError(
            f"{type_name(source)} is no picture; pass a path, an address, bytes, an open file, a PIL image, an array or a tensor"
        )


def is_picture_type(value: Any) -> bool:
    """Whether a value that is no string can be given to `Picture.of`."""
    kinds = (os.PathLike, Image.Image, Picture, bytes, bytearray, memoryview)
    return isinstance(value, kinds) or hasattr(value, "read") or is_array(value)


def type_name(value: object) -> str:
    """A value's type with an article, for messages.

    >>> type_name(3), type_name({}), type_name(None)
    ('an int', 'a dict', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _named(name: str, how: HowRead) -> Picture:
    stripped = name.strip()
    if is_address(stripped) and not is_file_address(stripped):
        data = data_of(stripped) if is_data_address(stripped) else fetch(stripped)
        return _decoded(io.BytesIO(data), shorten(stripped), how)
    path = path_of(stripped) if is_file_address(stripped) else name
    if path != path.strip() and not os.path.lexists(path):  # a name that was pasted with a line's end
        path = path.strip()
    with open_file(path) as file:
        return _decoded(file, path, how)


def _decoded(file: BinaryIO, source: str, how: HowRead) -> Picture:
    return _made(decode(file, source, how), source)


def _made(decoded: Decoded, source: str) -> Picture:
    if decoded.encoded is not None:
        keep_encoded(decoded.pixels, decoded.encoded)
    return Picture(decoded.pixels, source, decoded.notes)


def _name_of_file(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "open file"


def digest_of(image: Image.Image) -> str:
    """See `Picture.digest`. It stays with the image object, until somebody draws on it."""
    known = vars(image).get(DIGEST)
    if known is None or not image.readonly:
        if not image.readonly:
            vars(image).pop(ENCODED, None)
        # Pillow copies read-only pixels before anything is drawn on them, and then says that they are read-only no more.
        image.readonly = 1
        content = hashlib.sha256(f"{image.mode} {image.size} ".encode())
        content.update(image.tobytes())
        known = vars(image)[DIGEST] = content.hexdigest()
    return str(known)


def keep_encoded(image: Image.Image, data: bytes) -> None:
    """Keep the file whose decoding gives this image, unless it is larger than the pixels; see `encoded_of`."""
    if len(data) <= image.width * image.height * len(image.getbands()):
        image.readonly = 1
        vars(image)[ENCODED] = data


def encoded_of(image: Image.Image) -> bytes | None:
    """The file that an image was read from, as it came; None where there is none, or where somebody drew on the image."""
    return vars(image).get(ENCODED) if image.readonly else None
