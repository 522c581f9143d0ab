"""Stands in for the module of this name that transformers' repository has: its pictures, drawn here instead of fetched."""

from __future__ import annotations

import tempfile
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

FOLDER = Path(tempfile.gettempdir()) / "transformers-common-pictures"


def url_to_local_path(url: str, return_url_if_not_found: bool = True) -> str:
    """A picture for an address, the same one every time; other addresses stay as they are."""
    if not url.endswith((".png", ".jpg", ".jpeg")):
        return url
    path = FOLDER / f"{crc32(url.encode())}.png"
    if not path.is_file():
        FOLDER.mkdir(exist_ok=True)
        noise = np.random.default_rng(crc32(url.encode())).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return str(path)
