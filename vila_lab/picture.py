"""Picture: one picture, fully read and turned into RGB, with notes on what that changed. Knows nothing of prompts.

Pixels follow the public reference of the family bit for bit: ``PIL.Image.open(...).convert("RGB")`` and nothing else, so
alpha is dropped without a background, 16-bit files clip at 255 and EXIF orientation is ignored. Where that changes what
a person would see, the picture's notes say so. Nothing that only a note needs (EXIF, later frames) can refuse a picture.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from .errors import PictureError, PromptError
from .inputs.arrays import image_of_array, is_array, name_of_array
from .inputs.naming import is_address, is_data_address, is_file_address, kind_of_name
from .inputs.sources import data_of, fetch, head_of, open_file, path_of, read_stream, reason, shorten

PictureSource: TypeAlias = "Picture | Image.Image | NDArray[Any] | os.PathLike[str] | str | bytes | BinaryIO"

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of an EXIF orientation upright."""

EXIF_PLACES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
NOT_PICTURES = (
    (b"%PDF", "not an image but a PDF document; save its page as PNG"),
    (b"%!PS", "not an image but a PostScript drawing; save it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "not an image but a PostScript drawing; save it as PNG"),
    (b"<svg", "not an image but an SVG drawing; save it as PNG"),
    (b"<?xml", "not an image but an XML file, perhaps an SVG drawing; save it as PNG"),
    (b"<!doctype html", "not an image but a web page; save the picture in it"),
    (b"<html", "not an image but a web page; save the picture in it"),
    (b"PK\x03\x04", "not an image but an archive or an office document; save the picture in it as PNG"),
    (b"\x1aE\xdf\xa3", "not an image but a video; save one of its frames as PNG, or read some with vila_lab.Video"),
)
"""First bytes of what is no picture, and what it is."""

TRANSPARENCY = "transparency dropped"
DIGEST, ENCODED = "_vila_lab_digest", "_vila_lab_encoded"
"""Attributes of an image: its digest, once that was taken, and the file that it was read from."""
KEPT = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats, as Pillow names them, of which the file is kept with the picture, so that saving it again costs nothing."""


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

        >>> import numpy as np
        >>> one, other = (Picture.of(np.full((2, 3), grey, np.uint8)) for grey in (7, 7))
        >>> one.digest == other.digest, len(one.digest)
        (True, 64)
        """
        return digest_of(self.image)

    @classmethod
    def of(cls, source: PictureSource, *, apply_exif: bool = False) -> Picture:
        """Read a picture from whatever holds one.

        Parameters
        ----------
        source : str, PathLike, bytes, open file, PIL.Image.Image, array, tensor or Picture
            A string is a path (``~`` is expanded), an http(s) address, a ``file://`` address or a ``data:`` address.
            Bytes and open files (from their beginning) hold an encoded picture. For arrays and tensors see
            `vila_lab.inputs.arrays.image_of_array`.
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
        """
        if isinstance(source, Picture):
            return source
        if isinstance(source, Image.Image):
            return _to_rgb(source, getattr(source, "filename", "") or "PIL image", apply_exif)
        if isinstance(source, str | os.PathLike):
            return _named(os.fsdecode(source), apply_exif)
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            return _decode(io.BytesIO(data), f"bytes ({len(data)})", apply_exif)
        if hasattr(source, "read"):
            return _decode(io.BytesIO(read_stream(source)), _name_of_file(source), apply_exif)
        if is_array(source):
            image, notes = image_of_array(source)
            return _to_rgb(image, name_of_array(source), apply_exif, notes)
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


def _named(name: str, apply_exif: bool) -> Picture:
    stripped = name.strip()
    if is_address(stripped) and not is_file_address(stripped):
        data = data_of(stripped) if is_data_address(stripped) else fetch(stripped)
        return _decode(io.BytesIO(data), shorten(stripped), apply_exif)
    path = path_of(stripped) if is_file_address(stripped) else name
    if path != path.strip() and not os.path.lexists(path):  # a name that was pasted with a line's end
        path = path.strip()
    with open_file(path) as file:
        return _decode(file, path, apply_exif)


def _name_of_file(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "open file"


# -- decoding ------------------------------------------------------------------------------------------------------------


@contextmanager
def _pillow_errors(source: str) -> Iterator[None]:
    """Turn what Pillow raises for a file it cannot read into one sentence."""
    try:
        with warnings.catch_warnings():
            # Half of Pillow's limit only warns; the limit itself is checked for every kind of source alike.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Advice on palettes and remarks on damaged EXIF: what they change is in the notes.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(source)) from error
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{source} is not an image that Pillow can read; save it as PNG or JPEG") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes each of Pillow's decoders raise what it likes
        if isinstance(error, OSError) and error.errno is not None:
            raise PictureError(f"{source} cannot be read ({reason(error)}); choose another file") from error
        message = f"{source} is damaged or incomplete ({reason(error)}); save or download it again"
        raise PictureError(message) from error


def _decode(file: BinaryIO, source: str, apply_exif: bool) -> Picture:
    head = head_of(file, source, 64)
    if _is_heif(head, source):
        return _decode_heif(file, source, apply_exif)
    _check_head(head, source)
    with _pillow_errors(source):
        image = Image.open(file)
    kind, whole = image.format, _quietly(lambda: _whole(file), b"")
    picture = _to_rgb(image, source, apply_exif)
    if kind in KEPT and not apply_exif:
        keep_encoded(picture.image, whole)
    return picture


def _whole(file: BinaryIO) -> bytes:
    """All of a file that Pillow is about to read, which stays where it is."""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def _check_head(head: bytes, source: str) -> None:
    """Refuse what is no picture by what it is."""
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, words in NOT_PICTURES:
        if begin[: len(mark)].lower() == mark.lower():
            raise PictureError(f"{shorten(source)} is {words}")
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand and not brand.startswith((b"avi", *HEIF_BRANDS)):
        movie = "video; save a frame as PNG, or read some with vila_lab.Video"
        what = "raw picture of a camera; save it as PNG or JPEG" if brand == b"crx " else movie
        raise PictureError(f"{shorten(source)} is not an image but a {what}")
    if kind_of_name(source) == "raw picture of a camera":
        raise PictureError(f"{shorten(source)} is a raw picture of a camera; save it as PNG or JPEG")


def _is_heif(head: bytes, source: str) -> bool:
    branded = head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    known = head.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM"))  # a picture under a wrong name
    return branded or (source.lower().endswith(HEIF_SUFFIXES) and not known)


def _decode_heif(file: BinaryIO, source: str, apply_exif: bool) -> Picture:
    if importlib.util.find_spec("pillow_heif") is None:
        raise PictureError(
            f"{source} is a HEIF picture, which needs pillow-heif: pip install pillow-heif, or save it as JPEG"
        )
    importlib.import_module("pillow_heif").register_heif_opener()
    try:
        with _pillow_errors(source):
            image = Image.open(file)
        return _to_rgb(image, source, apply_exif)
    except PictureError as error:
        raise PictureError(f"{error} (read by pillow-heif)") from error


def digest_of(image: Image.Image) -> str:
    """See `Picture.digest`. It stays with the image object, until somebody draws on it."""
    known = vars(image).get(DIGEST)
    if known is None or not image.readonly:
        if not image.readonly:
            vars(image).pop(ENCODED, None)
        # Pillow copies read-only pixels before anything is drawn on them, and then says that they are read-only no more.
        image.readonly = 1
        content = f"{image.mode} {image.size} ".encode() + image.tobytes()
        known = vars(image)[DIGEST] = hashlib.sha256(content).hexdigest()
    return str(known)


def keep_encoded(image: Image.Image, data: bytes) -> None:
    """Keep the file whose decoding gives this image, unless it is larger than the pixels; see `encoded_of`."""
    if len(data) <= image.width * image.height * len(image.getbands()):
        image.readonly = 1
        vars(image)[ENCODED] = data


def encoded_of(image: Image.Image) -> bytes | None:
    """The file that an image was read from, as it came; None where there is none, or where somebody drew on the image."""
    return vars(image).get(ENCODED) if image.readonly else None


# -- pixels --------------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, source: str, apply_exif: bool, given: list[str] | None = None) -> Picture:
    """Pixels first: a note that cannot be had, or that moves the file to another frame, must not touch them."""
    if 0 in image.size:
        raise PictureError(f"{source} is {image.width}x{image.height} and has no pixels; pass at least one")
    limit = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise PictureError(_too_large(source))
    frame = _quietly(image.tell, 0)
    with _pillow_errors(source), _open_image(image, source):
        image.load()
        pixels = image.convert("RGB")
        notes = [*(given or []), *_quietly(lambda: _alpha_note(image), []), *_quietly(lambda: _range_note(image), [])]
    orientation = _quietly(lambda: image.getexif().get(ExifTags.Base.Orientation, 1), 1)
    if orientation in UPRIGHT:
        notes.insert(0, f"EXIF rotation {'applied' if apply_exif else 'ignored'} (orientation {orientation})")
        pixels = _turned(pixels, UPRIGHT[orientation]) if apply_exif else pixels
    return Picture(pixels, source, (*_quietly(lambda: _frame_note(image, frame), []), *notes))


def _turned(image: Image.Image, how: Image.Transpose) -> Image.Image:
    turned = image.transpose(how)
    for name in EXIF_PLACES:
        turned.info.pop(name, None)  # it would ask to be turned again
    return turned


@contextmanager
def _open_image(image: Image.Image, source: str) -> Iterator[None]:
    """Tell a PIL image that was closed from one that is damaged."""
    try:
        yield
    except (ValueError, AttributeError, AssertionError) as error:
        lost = isinstance(image, ImageFile.ImageFile) and getattr(image, "fp", None) is None
        if "closed" not in str(error) and not lost:
            raise
        raise PictureError(f"{source} was closed; pass it while it is open, or pass the file's path") from error


def _quietly(note: Callable[[], Any], otherwise: Any) -> Any:
    """What only a note needs; a file that Pillow shows may still be broken in its remarks or later frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return note()
    except MemoryError:
        raise
    except Exception:  # as many kinds as there are decoders
        return otherwise


def _too_large(source: str) -> str:
    return (
        f"{source} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller, or raise "
        "PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _frame_note(image: Image.Image, frame: int) -> list[str]:
    frames: int = getattr(image, "n_frames", 1)
    if frames == 1:
        return []
    return [f"first frame of {frames}" if frame == 0 else f"frame {frame + 1} of {frames}"]


def _alpha_note(image: Image.Image) -> list[str]:
    if not image.has_transparency_data:
        return []
    alpha = image.convert("RGBA").getchannel("A")
    return [TRANSPARENCY] if alpha.getextrema() != (255, 255) else []


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
