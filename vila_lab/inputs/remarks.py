"""What reading a picture changes or leaves out, in words. Knows PIL images, no files and no prompts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

__all__ = ["TRANSPARENCY", "deep_note", "frame_note", "is_transparent", "loss_notes", "quietly", "reader_turned"]

TRANSPARENCY = "transparency dropped"
CONVERTED = ("CMYK", "LAB", "HSV")
"""Modes whose colours are other colours in RGB; YCbCr is how every JPEG is stored."""
GAMMA = 1 / 2.2  # what a PNG that says nothing has


def quietly(note: Callable[[], Any], otherwise: Any) -> Any:
    """What only a note needs; a file that Pillow shows may still be broken in its remarks or later frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return note()
    except MemoryError:
        raise
    except Exception:  # as many kinds as there are decoders
        return otherwise


def frame_note(image: Image.Image, frame: int) -> list[str]:
    """Which frame was taken of several."""
    frames: int = getattr(image, "n_frames", 1)
    if frames == 1:
        return []
    return [f"first frame of {frames}" if frame == 0 else f"frame {frame + 1} of {frames}"]


def reader_turned(image: Image.Image) -> int:
    """The orientation to which a reader turns the pixels by itself, asked before they are read; 1 for none."""
    found = image.tag_v2.get(274, 1) if image.format == "TIFF" else image.info.get("original_orientation")  # type: ignore[attr-defined]
    return int(found or 1)


def deep_note(image: Image.Image) -> list[str]:
    """Colours of more than 8 bits, of which the first 8 are taken; asked before the pixels are read."""
    bits = int(image.info.get("bit_depth") or 8)  # of a HEIF picture
    for _, _, _, given in getattr(image, "tile", []):
        listed = given if isinstance(given, tuple) else (given,)
        is_deep = ";16" in str(listed[0]) or (
            image.format == "PPM" and max((each for each in listed if isinstance(each, int)), default=0) > 255
        )
        bits = 16 if is_deep and not image.mode.startswith("I") else bits
    return [f"{bits} bits per colour read as 8"] if bits > 8 else []


def loss_notes(image: Image.Image, background: str = "") -> list[str]:
    """What becomes of transparency, of colours and of values in a picture of 8 bits of red, green and blue.

    Parameters
    ----------
    background
        The colour that transparent pixels were put on, if they were.

    Examples
    --------
    >>> loss_notes(Image.new("RGBA", (2, 2))), loss_notes(Image.new("CMYK", (2, 2)))
    (['transparency dropped'], ['CMYK converted to RGB'])
    """
    parts = (lambda: _alpha(image, background), lambda: _colours(image), lambda: _range(image), lambda: _shape(image))
    return [note for part in parts for note in quietly(part, [])]


def _alpha(image: Image.Image, background: str) -> list[str]:
    if not is_transparent(image):
        return []
    return [f"transparency put on {background}" if background else TRANSPARENCY]


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixel lets something through."""
    if not image.has_transparency_data:
        return False
    return bool(image.convert("RGBA").getchannel("A").getextrema() != (255, 255))


def _colours(image: Image.Image) -> list[str]:
    notes = [f"{image.mode} converted to RGB"] if image.mode in CONVERTED else []
    profile = image.info.get("icc_profile")
    if profile:
        name = _profile_name(profile)
        return notes if "sRGB" in name else [*notes, f"colour profile ignored{f' ({name})' if name else ''}"]
    gamma = image.info.get("gamma")
    is_other = gamma and "srgb" not in image.info and abs(gamma - GAMMA) > 0.01
    return [*notes, f"gamma {gamma:g} ignored"] if is_other else notes


def _profile_name(profile: bytes) -> str:
    """What a colour profile calls itself; "" where that cannot be read."""
    name: str = quietly(lambda: ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))), "")
    return name.strip()


def _range(image: Image.Image) -> list[str]:
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


def _shape(image: Image.Image) -> list[str]:
    """Pixels that are not square."""
    sides: Any = image.info.get("aspect") or image.info.get("dpi")
    if not sides and image.info.get("jfif_unit") == 0:
        sides = image.info.get("jfif_density")
    if not sides or not all(sides):
        return []
    across, down = map(float, sides)
    return ["pixels that are not square read as square"] if abs(across / down - 1) > 0.01 else []
