"""Picture: one picture, fully read and turned into RGB, with notes on what that changed. Knows nothing of prompts.

Pixels follow the public reference of the family bit for bit: ``PIL.Image.open(...).convert("RGB")`` and nothing else, so
alpha is dropped without a background, 16-bit values clip at 255 and EXIF orientation is ignored. Where that changes what
a person would see, the picture's notes say so.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.error import HTTPError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import PictureError, PictureNotFound, PromptError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
URL_TIMEOUT = 20.0  # seconds without a byte
URL_BYTES = 64 * 2**20

PictureSource: TypeAlias = "Picture | Image.Image | NDArray[Any] | os.PathLike[str] | str"

_WEB = re.compile(r"https?://\S+", re.IGNORECASE)
_DATA = re.compile(r"data:image/[^\s,]*,", re.IGNORECASE)


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
    """

    image: Image.Image
    source: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in self.notes)
        return f"Picture({self.source}, {self.image.width}x{self.image.height}{notes})"

    @classmethod
    def of(cls, source: PictureSource, *, apply_exif: bool = False) -> Picture:
        """Read a picture from a file, an address, a PIL image or an array.

        Parameters
        ----------
        source : str, PathLike, PIL.Image.Image, ndarray or Picture
            A string is a path (``~`` is expanded), an http(s) address or a ``data:image/...;base64,`` address.
            An array is (H, W), (H, W, 3) or (H, W, 4), either uint8 or floating point in 0..1.
        apply_exif : bool
            Turn the picture upright as its EXIF orientation asks; the reference does not. A `Picture` stays as it is.

        Raises
        ------
        PictureNotFound
            There is no such file or address.
        PictureError
            It is there but cannot be used: not an image, damaged, too large, an array of another shape or type.
        PromptError
            `source` is of a type that is no picture.

        Examples
        --------
        >>> import numpy as np
        >>> Picture.of(np.zeros((2, 3), dtype=np.uint8))
        Picture(array (2, 3), 3x2)
        >>> Picture.of(np.zeros((2, 3, 4), dtype=np.uint8)).notes
        ('transparency dropped',)
        """
        if isinstance(source, Picture):
            return source
        if isinstance(source, Image.Image):
            return _to_rgb(source, getattr(source, "filename", "") or "PIL image", apply_exif)
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(source), f"array {source.shape}", apply_exif)
        if not isinstance(source, str | os.PathLike):
            raise PromptError(f"{type_name(source)} is no picture; pass a path, an address, a PIL image or an array")
        name = os.fspath(source)
        if isinstance(source, str) and is_url(source):
            data = _from_data_url(source) if _DATA.match(source) else _fetch(source)
            return _decode(io.BytesIO(data), _shorten(source), apply_exif)
        with _open(name) as file:
            return _decode(file, name, apply_exif)


def is_url(text: str) -> bool:
    """Whether a string is the address of a picture: ``http(s)://`` without spaces, or ``data:image/``."""
    return bool(_WEB.fullmatch(text) or _DATA.match(text))


def type_name(value: object) -> str:
    """A value's type with an article, for messages.

    >>> type_name(3), type_name({}), type_name(None)
    ('an int', 'a dict', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _open(name: str) -> BinaryIO:
    try:
        return Path(name).expanduser().open("rb")
    except (FileNotFoundError, NotADirectoryError):
        message = f"there is no file {name!r}; check its spelling and the folder it is relative to ({Path.cwd()})"
        raise PictureNotFound(message) from None
    except IsADirectoryError:
        raise PictureError(f"{name!r} is a directory; name one picture file in it") from None
    except (OSError, ValueError, RuntimeError) as error:  # no permission, an impossible name, no home for ~user
        raise PictureError(
            f"{_shorten(repr(name))} cannot be opened ({_reason(error)}); choose another file"
        ) from error


def _fetch(url: str) -> bytes:
    shown = _shorten(url)
    try:
        request = Request(quote(url, safe="%/:?#[]@!$&'()*+,;=~"), headers={"User-Agent": "vila-lab"})
        with urlopen(request, timeout=URL_TIMEOUT) as response:
            data: bytes = response.read(URL_BYTES + 1)
    except HTTPError as error:
        error.close()
        kind = PictureNotFound if error.code in (404, 410) else PictureError
        raise kind(f"{shown} answers {error.code} {error.reason}; check it in a browser, or pass a file") from error
    except (OSError, HTTPException, ValueError) as error:
        raise PictureError(f"{shown} cannot be fetched ({_reason(error)}); download it and pass the file") from error
    if len(data) > URL_BYTES:
        raise PictureError(f"{shown} is larger than {URL_BYTES // 2**20} MiB; download it and pass the file")
    return data


def _from_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise PictureError(f"{_shorten(url)} is not base64; write data:image/png;base64,... or pass a file")
    try:
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{_shorten(url)} is not valid base64 ({error}); encode the file again") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = "; put the channels last with array.transpose(1, 2, 0)" if _channels_first(array) else ""
        raise PictureError(f"an array of shape {array.shape} is no picture: (H, W), (H, W, 3) or (H, W, 4) is{hint}")
    if array.size == 0:
        raise PictureError(f"an array of shape {array.shape} has no pixels; pass one with at least one row and column")
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise PictureError(f"an array of {array.dtype} is no picture; pass uint8 in 0..255 or floating point in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise PictureError(f"a floating-point array must lie in 0..1, this one lies in {low:g}..{high:g}; rescale it")
    return Image.fromarray(np.rint(array.astype(np.float64) * 255).astype(np.uint8))


def _channels_first(array: NDArray[Any]) -> bool:
    return array.ndim == 3 and array.shape[0] in (3, 4)


@contextmanager
def _pillow_errors(source: str) -> Iterator[None]:
    """Turn what Pillow raises for a file it cannot read into one sentence; its warning about size counts as an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        message = (
            f"{source} has more than {limit}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
        raise PictureError(message) from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{source} is not an image that Pillow can read; save it as PNG or JPEG") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes each of Pillow's decoders raise what it likes
        message = f"{source} is damaged or incomplete ({_reason(error)}); save or download it again"
        raise PictureError(message) from error


def _decode(file: BinaryIO, source: str, apply_exif: bool) -> Picture:
    if not file.read(1):
        raise PictureError(f"{source} is empty (0 bytes); save or download it again")
    file.seek(0)
    with _pillow_errors(source):
        image = Image.open(file)
    return _to_rgb(image, source, apply_exif)


def _to_rgb(image: Image.Image, source: str, apply_exif: bool) -> Picture:
    if 0 in image.size:
        raise PictureError(f"{source} is {image.width}x{image.height} and has no pixels; pass at least one")
    with _pillow_errors(source):
        image.load()
        notes = [*_frame_note(image), *_exif_note(image, apply_exif), *_alpha_note(image), *_range_note(image)]
        upright = ImageOps.exif_transpose(image) if apply_exif else image
        return Picture(_convert(upright), source, tuple(notes))


def _convert(image: Image.Image) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow advises RGBA for some palettes; the reference drops their transparency, and a note says so.
        warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning)
        return image.convert("RGB")


def _frame_note(image: Image.Image) -> list[str]:
    frames: int = getattr(image, "n_frames", 1)
    if frames == 1:
        return []
    return [f"first frame of {frames}" if image.tell() == 0 else f"frame {image.tell() + 1} of {frames}"]


def _exif_note(image: Image.Image, apply_exif: bool) -> list[str]:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in range(2, 9):
        return []
    return [f"EXIF rotation {'applied' if apply_exif else 'ignored'} (orientation {orientation})"]


def _alpha_note(image: Image.Image) -> list[str]:
    if not image.has_transparency_data:
        return []
    alpha = image.convert("RGBA").getchannel("A")
    return ["transparency dropped"] if alpha.getextrema() != (255, 255) else []


def _range_note(image: Image.Image) -> list[str]:
    """What Pillow's conversion of integers and floats beyond 8 bits does to the values."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return []
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        return [f"values {low:g}..{high:g} clipped to 0..255"]
    if image.mode == "F" and 0 < high <= 1:
        return ["values 0..1 read as 0..255, nearly black"]
    return []


def _reason(error: BaseException) -> str:
    """The shortest true account of an error: the system's words for it where it has some."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
