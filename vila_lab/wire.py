"""How a result lies in one file: safetensors with a JSON header, no pickle. Knows TokenMap and pictures, no result.

A checksum of the whole file, the header included, stands in the metadata: it is the SHA-256 of the file with the sum's own
digits as zeros. Files of format 1, from before there was one, are still read; damage in them cannot be noticed. Pictures are
PNG up to format 2; from format 3 on they are the files they were read from, or pixels where no encoding would make them smaller.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import FileAccessError, FileError, SavedFileNotFound, VilaLabError
from .inputs.sources import expanded, reason
from .picture import encoded_of, keep_encoded
from .tokenmap import TokenMap
from .writing import write_file

FORMAT = 3
READABLE = (1, 2, 3)
CHECKSUM = "vila_lab_sha256"
ZEROS = "0" * 64
LARGEST_HEADER = (
    8 * 2**20
)  # bytes; an answer of 8,000 tokens has less than a tenth, and JSON can grow sixtyfold in memory
SAMPLED_PIXELS, WORTH = 250_000, 0.8  # pixels that tell whether PNG makes a picture smaller, and how small that must be
MAP_FIELDS = ("kind", "picture", "tile", "scale", "box", "span")
UNCHECKED = "this file has no checksum (an older version wrote it): damage in it would not be noticed"


def prompt_arrays(token_map: TokenMap, images: Sequence[Image.Image]) -> dict[str, NDArray[Any]]:
    """A prompt's map and pictures as named arrays."""
    arrays = {f"map.{name}": getattr(token_map, name) for name in MAP_FIELDS}
    if (token_map.block >= 0).any():
        arrays["map.block"] = token_map.block
    return arrays | {f"image.{k}": stored(image) for k, image in enumerate(images)}


def prompt_header(token_map: TokenMap) -> dict[str, Any]:
    """What `prompt_arrays` leaves to the header."""
    return {"prompt": token_map.text, "sizes": token_map.sizes}


def restored_prompt(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], images: Sequence[Image.Image] | None = None
) -> tuple[TokenMap, tuple[Image.Image, ...]]:
    """The map and the pictures that `prompt_arrays` and `prompt_header` describe; pictures that are given were not written."""
    sizes = tuple((int(w), int(h)) for w, h in header["sizes"])
    names = (*MAP_FIELDS, *(["block"] if "map.block" in arrays else []))  # older versions wrote none
    fields = {name: arrays[f"map.{name}"] for name in names}
    if fields["box"].shape[1:] != (4,) or fields["span"].shape[1:] != (2,):
        raise ValueError("the boxes or spans of its map have another shape")
    if images is None:
        written = header.get("written_sizes") or sizes  # smaller ones where originals were left out
        pictures = enumerate(zip(written, sizes, strict=True))
        images = [
            _enlarged(_picture(arrays[f"image.{k}"], k, (int(w), int(h))), size) for k, ((w, h), size) in pictures
        ]
    elif tuple(image.size for image in images) != sizes:
        raise ValueError("the pictures have other sizes")
    return TokenMap(**fields, text=str_of(header["prompt"]), sizes=sizes), tuple(images)


def write(path: str | Path, key: str, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write `to_bytes` to a file.

    Raises
    ------
    FileAccessError
        See `vila_lab.writing.write_file`.
    """
    return write_file(path, to_bytes(key, header, tensors))


def to_bytes(key: str, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Tensors, and under ``key`` of the metadata the header with the format's number.

    Raises
    ------
    FileError
        If the header is too long to be read back.
    """
    from safetensors.torch import save

    text = json.dumps({**header, "format": FORMAT}, ensure_ascii=False)
    if len(text.encode()) > LARGEST_HEADER // 2:
        raise FileError(f"the words of this result take more than {LARGEST_HEADER // 2**21} MiB; save a shorter one")
    data = save(tensors, metadata={key: text, CHECKSUM: ZEROS})
    start = place_of_sum(data)
    return data[:start] + sum_of(data).encode() + data[start + len(ZEROS) :]


@contextmanager
def reading(path: str | Path, key: str, what: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Header and tensors of a file that `write` wrote; inside, a field that is missing or wrong makes the file damaged.

    Parameters
    ----------
    key
        As given to `write`.
    what
        What the file should hold, for messages: "answer", "attribution".

    Raises
    ------
    FileError
        If the file is something else, damaged or newer.
    SavedFileNotFound, FileAccessError
        If there is no such file, or it cannot be read.
    """
    data = _bytes(path, what, _hint(what))
    with parsing(data, key, what, Path(path).name or str(path)) as content:
        yield content


@contextmanager
def parsing(data: bytes, key: str, what: str, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """`reading`, of bytes that are called by a name in messages."""
    try:
        header, tensors = _parsed(data, key, f"{name} is not a saved {what}", _hint(what))
        version = header.pop("format")
        header["unchecked"] = version == 1
        yield header, tensors
    except FileError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OSError, VilaLabError) as error:
        about = f"field {error} is missing" if isinstance(error, KeyError) else reason(error)
        raise FileError(f"{name} is damaged, or made by a newer vila_lab ({about}); save the {what} again") from error


def key_of(path: str | Path, keys: Sequence[str]) -> str | None:
    """Under which of some keys a file was written; None where it was under none, or is no such file."""
    try:
        place = expanded(str(path))
        if not place.is_file():  # a pipe would wait for who writes it
            return None
        with place.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(length)).get("__metadata__") if length <= LARGEST_HEADER else None
    except (OSError, ValueError, RuntimeError, RecursionError, AttributeError):
        return None
    return next((key for key in keys if key in (metadata or {})), None)


def _hint(what: str) -> str:
    return f"{what}.save(path) writes one"


def _bytes(path: str | Path, what: str, hint: str) -> bytes:
    try:
        place = expanded(str(path))
        mode = place.stat().st_mode
        if stat.S_ISREG(mode):
            return place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SavedFileNotFound(f"there is no saved {what} at {str(path)!r}; {hint}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise FileAccessError(f"{str(path)!r} cannot be read ({reason(error)}); choose another file") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
    raise FileAccessError(f"{str(path)!r} is {kind}; name a saved {what}")


def _parsed(data: bytes, key: str, complaint: str, hint: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise FileError(f"{complaint}; {hint}")
    if length > LARGEST_HEADER:
        raise FileError(f"{complaint}: its header has {length:,} bytes; {hint}")
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        text, noted = metadata.get(key), metadata.get(CHECKSUM)
        header = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError, AttributeError) as error:
        raise FileError(f"{complaint}, or is damaged ({reason(error)}); {hint}") from error
    if not isinstance(header, dict):
        raise FileError(f"{complaint}; {hint}")
    version = header.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise FileError(f"{complaint} of format {FORMAT} but of format {version}, of a newer vila_lab; update vila_lab")
    if version not in READABLE:
        raise FileError(f"{complaint} of format {FORMAT}; {hint}")
    if (noted is not None or version > 1) and noted != sum_of(data):
        raise FileError(
            f"{complaint.replace('is not a', 'was a')}, and is damaged (its checksum is another); save it again"
        )
    try:
        return header, load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise FileError(f"{complaint} ({reason(error)}); {hint}") from error


def sum_of(data: bytes) -> str:
    """SHA-256 of a file whose metadata hold a sum, with zeros in the place of the sum's digits."""
    start = place_of_sum(data)
    found = hashlib.sha256(data[:start])
    found.update(ZEROS.encode())
    found.update(memoryview(data)[start + len(ZEROS) :])
    return found.hexdigest()


def place_of_sum(data: bytes) -> int:
    """Where the digits of the sum begin; `safetensors` writes its header without blanks."""
    mark = f'"{CHECKSUM}":"'.encode()
    return data.find(mark, 8, 8 + int.from_bytes(data[:8], "little")) + len(mark)


def stored(image: Image.Image) -> NDArray[np.uint8]:
    """A picture for a file: the bytes it was read from as they came, else PNG, or pixels (H, W, 3) where that saves little."""
    known = encoded_of(image)
    if known is not None:
        return np.frombuffer(known, np.uint8)
    rows = max(1, SAMPLED_PIXELS // image.width)
    top = max(0, (image.height - rows) // 2)
    some = image.crop((0, top, image.width, min(top + rows, image.height)))
    if len(png_of(some, level=1)) > WORTH * some.width * some.height * 3:
        return np.asarray(image)
    return np.frombuffer(png_of(image, level=1), np.uint8)


def _picture(data: NDArray[np.uint8], number: int, size: tuple[int, int]) -> Image.Image:
    """One embedded picture, of the size that the header states."""
    name = f"picture {number + 1}"
    if data.ndim != 3:
        image = picture_of(data, size, name, formats=("PNG", "JPEG", "WEBP"))
        keep_encoded(image, data.tobytes())
        return image
    if data.shape != (*size[::-1], 3) or data.dtype != np.uint8:
        raise ValueError(f"{name} is {data.dtype} of shape {data.shape}, not {size[0]}x{size[1]} pixels")
    return Image.fromarray(data)


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in the size on which the map's boxes lie."""
    if image.size == size:
        return image
    if size[0] * size[1] > 2 * (Image.MAX_IMAGE_PIXELS or 2**40):
        raise ValueError(f"a picture is to have {size[0]}x{size[1]} pixels")
    return image.resize(size, Image.Resampling.BICUBIC)


def picture_of(
    data: NDArray[np.uint8],
    size: tuple[int, int] | None = None,
    name: str = "a picture",
    *,
    formats: tuple[str, ...] = ("PNG",),
) -> Image.Image:
    """An encoded picture, of a size if one is given; no other decoder than those of some formats is asked.

    Raises
    ------
    ValueError, OSError
        If it is none, or too large.
    """
    image = Image.open(io.BytesIO(data.tobytes()), formats=formats)
    if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 2**40):
        raise ValueError(f"{name} has {image.width}x{image.height} pixels")
    if size is not None and image.size != size:
        raise ValueError(f"{name} has {image.width}x{image.height} pixels, not {size[0]}x{size[1]}")
    return image.convert("RGB")


def str_of(value: Any) -> str:
    """A value that must be a text."""
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return value


def png_of(image: Image.Image, level: int = 6) -> bytes:
    """A picture as PNG; a low level is quick, a high one (to 9) small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()
