"""How a result lies in one file: safetensors with a JSON header, no pickle. Knows TokenMap and pictures, no result."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import PictureError
from .tokenmap import TokenMap

FORMAT = 1
MAP_FIELDS = ("kind", "picture", "tile", "scale", "box", "span")


def prompt_arrays(token_map: TokenMap, images: Sequence[Image.Image]) -> dict[str, NDArray[Any]]:
    """A prompt's map and pictures (as PNG) as named arrays."""
    arrays = {f"map.{name}": getattr(token_map, name) for name in MAP_FIELDS}
    return arrays | {f"image.{k}": np.frombuffer(_png(image), np.uint8) for k, image in enumerate(images)}


def prompt_header(token_map: TokenMap) -> dict[str, Any]:
    """What `prompt_arrays` leaves to the header."""
    return {"prompt": token_map.text, "sizes": token_map.sizes}


def restored_prompt(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> tuple[TokenMap, tuple[Image.Image, ...]]:
    """The map and the pictures that `prompt_arrays` and `prompt_header` describe."""
    sizes = tuple((w, h) for w, h in header["sizes"])
    fields = {name: arrays[f"map.{name}"] for name in MAP_FIELDS}
    images = tuple(Image.open(io.BytesIO(arrays[f"image.{k}"].tobytes())).convert("RGB") for k in range(len(sizes)))
    return TokenMap(**fields, text=header["prompt"], sizes=sizes), images


def write(path: str | Path, key: str, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write tensors, and under ``key`` of the metadata the header with the format's number."""
    from safetensors.torch import save_file

    text = json.dumps({**header, "format": FORMAT}, ensure_ascii=False)
    save_file(tensors, Path(path), metadata={key: text})
    return Path(path)


def read(path: str | Path, key: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that `write` wrote.

    Parameters
    ----------
    key
        As given to `write`.
    what
        What the file should hold, for messages: "answer", "attribution".

    Raises
    ------
    PictureError
        If the file is something else.
    FileNotFoundError
        If there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    path, hint = Path(path), f"{what}.save(path) writes one"
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved {what} at {str(path)!r}; {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, ValueError) as error:
        raise PictureError(f"{path.name} is not a saved {what} ({error}); {hint}") from error
    if header is None or header.pop("format", None) != FORMAT:
        raise PictureError(f"{path.name} is not a saved {what} of format {FORMAT}; {hint}")
    return header, tensors


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
