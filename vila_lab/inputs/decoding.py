"""Decoding: what holds a picture turned into RGB, with notes on what that changed. Knows no prompt and keeps no picture.

Pixels follow the public reference of the family bit for bit: ``PIL.Image.open(...).convert("RGB")`` and nothing else, so
alpha is dropped unless a background is given, 16-bit files clip at 255, and colour profiles and EXIF orientation are ignored.
Where that changes what a person would see, the picture's notes say so (`vila_lab.inputs.remarks`). Nothing that only a note
needs (EXIF, later frames) can refuse a picture.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeAlias

from PIL import ExifTags, Image, ImageColor, ImageFile, UnidentifiedImageError

from ..errors import OptionError, PictureError
from ..options import check_types, nearest
from .naming import kind_of_name
from .remarks import deep_note, frame_note, is_transparent, loss_notes, quietly, reader_turned
from .sources import head_of, reason, shorten

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


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels in RGB, what reading them changed, and the file that they are, if it is worth keeping."""

    pixels: Image.Image
    notes: tuple[str, ...]
    encoded: bytes | None = None


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


def decode(file: BinaryIO, source: str, how: HowRead) -> Decoded:
    """The picture in an open file, by whatever its first bytes say it is."""
    head = head_of(file, source, 64)
    if _is_heif(head, source):
        return _decode_heif(file, source, how)
    _check_head(head, source)
    with _pillow_errors(source):
        image = Image.open(file)
    is_kept = image.format in KEPT and how == HowRead()  # otherwise its pixels are not the file's
    whole = quietly(lambda: _whole(file), b"") if is_kept else b""
    return replace(to_rgb(image, source, how), encoded=whole or None)


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


def _decode_heif(file: BinaryIO, source: str, how: HowRead) -> Decoded:
    if importlib.util.find_spec("pillow_heif") is None:
        raise PictureError(
            f"{source} is a HEIF picture, which needs pillow-heif: pip install pillow-heif, or save it as JPEG"
        )
    importlib.import_module("pillow_heif").register_heif_opener()
    try:
        with _pillow_errors(source):
            image = Image.open(file)
        return to_rgb(image, source, how)
    except PictureError as error:
        raise PictureError(f"{error} (read by pillow-heif)") from error


def to_rgb(image: Image.Image, source: str, how: HowRead, given: list[str] | None = None) -> Decoded:
    """An image in RGB. Pixels first: a note that cannot be had, or that moves the file to another frame, must not touch them."""
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
    return Decoded(pixels, (*quietly(lambda: frame_note(image, frame), []), *notes))


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
