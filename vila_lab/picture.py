"""Picture: one picture, fully read and turned into RGB, with notes on what that changed. Knows nothing of prompts.

Pixels follow the public reference of the family bit for bit: ``PIL.Image.open(...).convert("RGB")`` and nothing else, so
alpha is dropped unless a background is given, 16-bit files clip at 255, and colour profiles and EXIF orientation are ignored.
Where that changes what a person would see, the picture's notes say so (`vila_lab.inputs.remarks`). Nothing that only a note
needs (EXIF, later frames) can refuse a picture.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageColor, ImageFile, UnidentifiedImageError

from .errors import OptionError, PictureError, PromptError
from .inputs.arrays import image_of_array, is_array, name_of_array
from .inputs.naming import is_address, is_data_address, is_file_address, kind_of_name
from .inputs.remarks import deep_note, frame_note, is_transparent, loss_notes, quietly, reader_turned
from .inputs.sources import data_of, fetch, head_of, open_file, path_of, read_stream, reason, shorten
from .options import check_types, nearest

PictureSource: TypeAlias = "Picture | Image.Image | NDArray[Any] | os.PathLike[str] | str | bytes | BinaryIO"

Colour: TypeAlias = "str | Sequence[int]"

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

DIGEST, ENCODED = "_vila_lab_digest", "_vila_lab_encoded"
"""Attributes of an image: its digest, once that was taken, and the file that it was read from."""
KEPT = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats, as Pillow names them, of which the file is kept with the picture, so that saving it again costs nothing."""


@dataclass(frozen=True)
class HowRead:
    """How pictures are read where it may be chosen; see `Picture.of`.

    Raises
    ------
    OptionError
        If an option has another type, or `background` is no colour.
    """

    apply_exif: bool = False
    background: Colour | None = None

    def __post_init__(self) -> None:
        check_types(HowRead, {"apply_exif": self.apply_exif})
        if self.background is not None and self.colour is None:
            near = nearest(self.background, ImageColor.colormap) if isinstance(self.background, str) else ""
            raise OptionError(
                f"background must be a colour, such as 'white', '#ffffff' or (255, 255, 255), not {self.background!r}{near}"
            )

    def read(self, source: PictureSource) -> Picture:
        """A picture, read so."""
        return Picture.of(source, apply_exif=self.apply_exif, background=self.background)

    @property
    def colour(self) -> tuple[int, int, int] | None:
        """Red, green and blue behind what is transparent; None for nothing, and for what is no colour."""
        try:
            given = (
                ImageColor.getrgb(self.background) if isinstance(self.background, str) else tuple(self.background or ())
            )
        except (TypeError, ValueError):
            return None
        is_colour = len(given) == 3 and all(type(each) is int and 0 <= each <= 255 for each in given)
        return (given[0], given[1], given[2]) if is_colour else None

    @property
    def background_in_words(self) -> str:
        """The colour as it was named; empty for none."""
        if self.background is None or isinstance(self.background, str):
            return self.background or ""
        return f"rgb{tuple(self.background)}"


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
        how = HowRead(apply_exif, background)
        if isinstance(source, Picture):
            return source
        if isinstance(source, Image.Image):
            return _to_rgb(source, getattr(source, "filename", "") or "PIL image", how)
        if isinstance(source, str | os.PathLike):
            return _named(os.fsdecode(source), how)
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            return _decode(io.BytesIO(data), f"bytes ({len(data)})", how)
        if hasattr(source, "read"):
            return _decode(io.BytesIO(read_stream(source)), _name_of_file(source), how)
        if is_array(source):
            image, notes = image_of_array(source)
            return _to_rgb(image, name_of_array(source), how, notes)
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
        return _decode(io.BytesIO(data), shorten(stripped), how)
    path = path_of(stripped) if is_file_address(stripped) else name
    if path != path.strip() and not os.path.lexists(path):  # a name that was pasted with a line's end
        path = path.strip()
    with open_file(path) as file:
        return _decode(file, path, how)


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


def _decode(file: BinaryIO, source: str, how: HowRead) -> Picture:
    head = head_of(file, source, 64)
    if _is_heif(head, source):
        return _decode_heif(file, source, how)
    _check_head(head, source)
    with _pillow_errors(source):
        image = Image.open(file)
    kind, whole = image.format, quietly(lambda: _whole(file), b"")
    picture = _to_rgb(image, source, how)
    if kind in KEPT and how == HowRead():  # otherwise its pixels are not the file's
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


def _decode_heif(file: BinaryIO, source: str, how: HowRead) -> Picture:
    if importlib.util.find_spec("pillow_heif") is None:
        raise PictureError(
            f"{source} is a HEIF picture, which needs pillow-heif: pip install pillow-heif, or save it as JPEG"
        )
    importlib.import_module("pillow_heif").register_heif_opener()
    try:
        with _pillow_errors(source):
            image = Image.open(file)
        return _to_rgb(image, source, how)
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


# -- pixels --------------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, source: str, how: HowRead, given: list[str] | None = None) -> Picture:
    """Pixels first: a note that cannot be had, or that moves the file to another frame, must not touch them."""
    if 0 in image.size:
        raise PictureError(f"{source} is {image.width}x{image.height} and has no pixels; pass at least one")
    limit = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise PictureError(_too_large(source))
    frame = quietly(image.tell, 0)
    turned, deep = quietly(lambda: reader_turned(image), 1), quietly(lambda: deep_note(image), [])
    with _pillow_errors(source), _open_image(image, source):
        image.load()
        pixels = (
            _put_on(image, how.colour)
            if how.colour and quietly(lambda: is_transparent(image), False)
            else image.convert("RGB")
        )
        notes = [*(given or []), *deep, *loss_notes(image, how.background_in_words)]
    orientation = quietly(lambda: image.getexif().get(ExifTags.Base.Orientation, 1), 1)
    if turned in UPRIGHT and orientation not in UPRIGHT:
        notes.insert(0, f"EXIF rotation applied by the reader of {image.format} (orientation {turned})")
    if orientation in UPRIGHT:
        notes.insert(0, f"EXIF rotation {'applied' if how.apply_exif else 'ignored'} (orientation {orientation})")
        pixels = _turned(pixels, UPRIGHT[orientation]) if how.apply_exif else pixels
    return Picture(pixels, source, (*quietly(lambda: frame_note(image, frame), []), *notes))


def _put_on(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The picture in front of a colour."""
    behind = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


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


def _too_large(source: str) -> str:
    return (
        f"{source} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller, or raise "
        "PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )
