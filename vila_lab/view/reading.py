"""Reading: one way to read an answer (a method, a layer, some heads) as numbers per token. Knows arrays, no model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ..errors import CaptureError
from .levels import (
    COARSER,
    NUMBER_STEPS,
    Array,
    fitting,
    flat,
    has_sign,
    hopeless,
    merged,
    number_bytes,
    peak,
    quantise,
    squeeze,
)

WORD_LEVELS = 255
EXTRA_BUDGET = 1_000_000  # base64 characters for all readings but the first


@dataclass(frozen=True, eq=False)
class Reading:
    """What one method says about every token.

    Attributes
    ----------
    name
        What the method picker calls it: "attention".
    method, honesty, card
        What is drawn, in words; what that does not prove; how good the map is, in one line (may be empty).
    heatmaps, total
        As in `AnswerView`; NaN where there is no number.
    numbers, total_numbers
        Per token and column of the view, shape (n_tokens, n_columns), and for all tokens together; NaN where there is
        none.
    shares
        Whether the numbers of a token are parts of a whole.
    unit
        What a number is, where it is no share.
    layer
        Which layer was read, counted from 0; None for all of them.
    heads
        Which heads, as the picker calls them; "" for the mean of all.
    sinks
        Whether sinks are counted in.
    words
        What each token has to do with each word of the question, shape (n_tokens, n_words), or None.
    """

    name: str
    method: str
    heatmaps: tuple[Array, ...]
    total: tuple[Array, ...]
    numbers: Array
    total_numbers: Array
    honesty: str = ""
    card: str = ""
    shares: bool = True
    unit: str = ""
    layer: int | None = None
    heads: str = ""
    sinks: bool = False
    words: Array | None = None

    @cached_property
    def signed(self) -> bool:
        return has_sign((*self.heatmaps, *self.total))

    @property
    def missing(self) -> bool:
        return bool(np.isnan(flat((*self.heatmaps, *self.total))).any())

    def check(self, tokens: int, columns: int, images: tuple[Image.Image, ...]) -> None:
        """Raises CaptureError if the arrays do not fit the view; the message names the reading."""
        where = f"reading {self.name!r}" + (f", layer {self.layer}" if self.layer is not None else "")
        if len(self.heatmaps) != len(images) or len(self.total) != len(images):
            raise CaptureError(
                f"{where}: {len(self.heatmaps)} heatmaps for {len(images)} pictures; give one per picture"
            )
        for heat, total in zip(self.heatmaps, self.total, strict=True):
            if heat.shape != (tokens, *total.shape) or np.isinf(heat).any() or np.isinf(total).any():
                raise CaptureError(
                    f"{where}: finite heatmaps of shape {(tokens, *total.shape)} are needed, not {heat.shape}"
                )
        if self.numbers.shape != (tokens, columns) or self.total_numbers.shape != (columns,):
            raise CaptureError(f"{where}: its numbers have shape {self.numbers.shape}; {(tokens, columns)} is needed")


def labels_of(reading: Reading) -> dict[str, Any]:
    """What the viewer's pickers need to know of a reading."""
    return {
        "name": reading.name,
        "method": reading.method,
        "honesty": reading.honesty,
        "card": reading.card,
        "shares": reading.shares,
        "unit": reading.unit,
        "layer": reading.layer,
        "heads": reading.heads,
        "sinks": reading.sinks,
        "signed": reading.signed,
        "missing": reading.missing,
    }


def pack_readings(readings: tuple[Reading, ...], budget: int = EXTRA_BUDGET) -> tuple[list[dict[str, Any]], int]:
    """The readings as JSON-able dicts that keep the budget together, and how many had to stay out."""
    each = budget // max(len(readings), 1)
    packed = [pack_reading(reading, each) for reading in readings]
    inside = [one for one in packed if len(one["cells"]) + len(one["numbers"]) <= 1.1 * each]
    return inside, len(packed) - len(inside)


def pack_reading(reading: Reading, budget: int) -> dict[str, Any]:
    """One reading as a JSON-able dict; its cells get fewer levels, and then fewer cells, until they fit the budget."""
    signed = reading.signed
    whole = np.concatenate([reading.numbers, reading.total_numbers[None]])
    scale = peak([whole])
    data = number_bytes(whole, scale)
    words, word_scale = word_levels(reading.words)
    numbers = squeeze(data + words)
    for side in COARSER:
        maps = [merged(heat, side) for heat in reading.heatmaps]
        totals = [merged(total, side) for total in reading.total]
        if side != COARSER[-1] and hopeless(maps, signed, budget - len(numbers)):
            continue
        cells, levels = fitting(maps, totals, signed, budget - len(numbers))
        if len(cells) <= budget - len(numbers):
            break
    return labels_of(reading) | {
        "numbers": numbers,
        "step": scale / NUMBER_STEPS,
        "wordScale": word_scale,
        "hasWords": bool(words),
        "cells": cells,
        "levels": levels,
        "scale": short(peak(maps)),
        "totalScale": short(peak(totals)),
        "grids": [list(total.shape) for total in totals],
    }


def word_levels(words: Array | None) -> tuple[bytes, float]:
    """Levels of the words' numbers (0 to 255, what is below zero or has no number as 0) and the number at the top."""
    if words is None or not words.size:
        return b"", 0.0
    clean = np.clip(np.nan_to_num(words), 0, None)
    scale = peak([clean])
    return quantise(clean, scale, WORD_LEVELS, False).tobytes(), short(scale)


def short(number: float) -> float:
    return float(f"{number:.5g}")
