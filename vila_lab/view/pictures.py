"""Pictures as they are shown: small, on white, as data addresses, and what to say where that changes them. Knows no answer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .levels import in_base64

PICTURE_BUDGET = 96_000  # base64 characters for all pictures
SHOWN_SIDE = 384  # pixels of the longest side of a picture that is shown
PICTURE_STEPS = (
    (SHOWN_SIDE, 80),
    (320, 72),
    (256, 66),
    (224, 50),
    (192, 30),
)  # (longest side, WebP quality), best first
WEBP_METHOD = 0  # of 6; 2 takes one and a half times as long for a tenth to a fifth fewer bytes, and is no nearer
LEAST_WEBP = 0.72  # of the bytes of a JPEG of the same quality: seldom less, and known in a tenth of the time
ALIKE = 0.9  # of the least such ratio among pictures that are encoded: what the question's other pictures need at least
HARDLY_LARGER = 1.1  # times a side: such a picture is as small without being shrunk, and sharper
LARGE, TINY = 2048, 8  # pixels of the longest side from which, and up to which, the display's size is worth a note
GAP = 24  # pixels between pictures that stand one below the other
SLIMMEST = 24  # a picture that is longer for its breadth is drawn as if it were this long
DAY, NIGHT = (255, 255, 255), (18, 18, 18)  # the grounds of light and of dark pages


def encode_pictures(images: Sequence[Image.Image]) -> list[str]:
    """The pictures for display, as data addresses: as large and fine as fits the budget of all of them together."""
    for side, quality in PICTURE_STEPS[:-1]:
        pictures = _within_budget([_fitted(image, side) for image in images], quality)
        if pictures is not None:
            return pictures
    side, quality = PICTURE_STEPS[-1]
    return [_webp(_fitted(image, side), quality) for image in images]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    return image if max(image.size) <= HARDLY_LARGER * side else shrink(image, side)


def _within_budget(images: Sequence[Image.Image], quality: int) -> list[str] | None:
    """None as soon as they must become too much together: the others would be encoded in vain."""
    as_jpeg = [len(encode(image, "JPEG", quality=quality)) for image in images]
    pictures: list[str] = []
    least = LEAST_WEBP
    for image in images:
        if sum(map(len, pictures)) + least * sum(as_jpeg[len(pictures) :]) > PICTURE_BUDGET:
            return None
        pictures.append(_webp(image, quality))
        ratios = [len(webp) / jpeg for webp, jpeg in zip(pictures, as_jpeg, strict=False)]
        least = max(LEAST_WEBP, ALIKE * min(ratios))
    return pictures if sum(map(len, pictures)) <= PICTURE_BUDGET else None


def _webp(image: Image.Image, quality: int) -> str:
    return encode(image, "WEBP", quality=quality, method=WEBP_METHOD)


def shrink(image: Image.Image, side: int = SHOWN_SIDE) -> Image.Image:
    """The picture in RGB on white, its longest side at most ``side`` pixels; never enlarged, its shape kept."""
    factor = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = _resized(image.convert("RGBA"), size)
        return Image.alpha_composite(Image.new("RGBA", size, "white"), rgba).convert("RGB")
    return _resized(image if image.mode == "RGB" else image.convert("RGB"), size)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A large picture is first averaged over whole pixels, to one and a half times the size: a tenth of the time, and no difference to see."""
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.5)


def encode(image: Image.Image, kind: str, **options: Any) -> str:
    """The picture as a data address; nothing but pixels, so the same pixels give the same text."""
    buffer = io.BytesIO()
    bare = image.copy() if image.info else image
    bare.info.clear()
    bare.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{in_base64(buffer.getvalue())}"


def size_notes(images: Sequence[Image.Image]) -> list[str]:
    """A sentence for every picture whose display differs much from it.

    >>> size_notes([Image.new("RGB", (8000, 10)), Image.new("RGB", (200, 100))])
    ['Picture 1 (8000 × 10 pixels) is drawn scaled down and thicker than it is; the heatmap covers all of it.']
    """
    notes = []
    for k, image in enumerate(images, start=1):
        longest, shortest = max(image.size), min(image.size)
        how = ["scaled down"] if longest > LARGE else ["enlarged"] if longest <= TINY else []
        how += ["thicker than it is"] if longest > SLIMMEST * shortest else []
        if how:
            size = f"{image.width} × {image.height} {'pixel' if longest == 1 else 'pixels'}"
            notes.append(f"Picture {k} ({size}) is drawn {' and '.join(how)}; the heatmap covers all of it.")
    return notes


@dataclass(frozen=True, eq=False)
class Twofold:
    """The same picture for light surroundings and for dark ones."""

    light: Image.Image
    dark: Image.Image


def stacked(pictures: Sequence[Twofold]) -> Twofold:
    """Pictures one below the other."""
    return Twofold(_stacked([each.light for each in pictures], DAY), _stacked([each.dark for each in pictures], NIGHT))


def _stacked(pictures: Sequence[Image.Image], ground: tuple[int, int, int]) -> Image.Image:
    size = max(each.width for each in pictures), sum(each.height for each in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", size, ground)
    top = 0
    for each in pictures:
        sheet.paste(each, (0, top))
        top += each.height + GAP
    return sheet
