"""What happens to a picture between the painter and the reader: blur, light, colour, grain, compression. Knows no scene."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def weathered(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """The picture after one to three of the changes, each of a random strength; same size, things stay in their place."""
    changes = [_blurred, _lit, _tinted, _turned, _grained, _compressed, _coarsened, _greyed]
    weights = np.array([4, 4, 4, 2, 3, 3, 2, 0.7])
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    for index in rng.choice(len(changes), count, replace=False, p=weights / weights.sum()):
        image = changes[index](rng, image)
    return image


def _blurred(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.0)) * min(image.size) / 128))


def _lit(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.45, 1.5)))
    return ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.6, 1.4)))


def _tinted(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    gains, shifts = rng.uniform(0.7, 1.3, 3), rng.uniform(-25, 25, 3)
    return Image.fromarray(np.clip(np.asarray(image) * gains + shifts, 0, 255).astype(np.uint8))


def _turned(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Hues turned a little and saturation changed."""
    hue, saturation, value = image.convert("HSV").split()
    turn = int(rng.integers(-14, 15))
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    gain = float(rng.uniform(0.4, 1.5))
    saturation = saturation.point([min(255, int(level * gain)) for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _grained(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + rng.normal(0, rng.uniform(3, 22), (*image.size[::-1], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _compressed(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(20, 90)))
    return Image.open(file).convert("RGB")


def _coarsened(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Made small and large again, as thumbnails are."""
    width, height = (max(24, round(side * rng.uniform(0.35, 0.8))) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def _greyed(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")
