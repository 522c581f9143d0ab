"""Which pictures belong to which of several texts. Knows markers and nesting, no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from vila_lab.errors import PromptError
from vila_lab.nvila.image_processing_nvila import flatten_pictures
from vila_lab.nvila.prompting import IMAGE_TOKEN


def texts_of(text: str | Sequence[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(each, str) for each in texts):
        raise PromptError("text must be one text or a list of texts.")
    return texts


def all_there(pictures: Sequence[Image.Image | None]) -> list[Image.Image]:
    found = [picture for picture in pictures if picture is not None]
    if len(found) != len(pictures):
        raise PromptError(
            "An image part holds no picture; put it in the message, or render with tokenize=False and pass images=."
        )
    return found


def share_out(images: Any, texts: Sequence[str], layout: Any = None) -> list[list[Image.Image]]:
    """Pictures per text, by nesting if there is any, otherwise by the markers in each text."""
    markers = [text.count(IMAGE_TOKEN) for text in texts]
    nested = (
        isinstance(images, list | tuple)
        and len(images) == len(texts)
        and all(isinstance(item, list | tuple) for item in images)
    )
    if nested:
        shares = [flatten_pictures(item, layout) for item in images]
    else:
        pictures = flatten_pictures(images, layout)
        if len(pictures) != sum(markers):
            raise PromptError(
                f"There are {len(pictures)} pictures for {sum(markers)} {IMAGE_TOKEN} markers; give one marker per picture."
            )
        bounds = np.cumsum([0, *markers])
        shares = [pictures[a:b] for a, b in pairwise(bounds)]
    for number, (share, count) in enumerate(zip(shares, markers, strict=True), start=1):
        if len(share) != count:
            raise PromptError(
                f"Text {number} has {count} {IMAGE_TOKEN} markers and {len(share)} pictures; give one marker per picture."
            )
    return shares
