"""AnswerView: what there is to show of an answer, as arrays and labels, and its small JSON. Knows no model and no browser.

The cells of all heatmaps travel as one deflated block of bytes: level 0 to ``levels`` on ONE scale that all pictures
and all tokens share, so that a brighter cell always means a larger number, and 255 where there is no number.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import CaptureError, PictureError, PromptError

MISSING = 255  # the level of a cell that has no number
LEVELS = (254, 126, 62, 30, 14, 6)  # steps of the scale, tried from fine to coarse until the cells fit their budget
CELL_BUDGET = 150_000  # base64 characters for all cells; a longer answer gets half a character for each
PICTURE_BUDGET = 96_000  # base64 characters for all pictures
PICTURE_STEPS = ((384, 80), (320, 72), (256, 66), (224, 50), (192, 30))  # (longest side, WebP quality), best first
ROW_TOLERANCE = 5e-3  # a ledger row summed in half precision misses 1 by less than this

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnswerView:
    """An answer to show: its tokens, its pictures, and where each token read.

    Parameters
    ----------
    title
        The prompt as the user wrote it; may be empty.
    prompt_parts
        Text parts and picture indices (from 0) in the order asked.
    tokens
        Decoded pieces of the answer; a piece of a character shows as U+FFFD.
    images
        The original pictures.
    heatmaps
        One per picture, shape (n_tokens, rows, cols), over the picture's original geometry; NaN is drawn as missing.
    total
        One per picture, shape (rows, cols): all answer tokens together.
    columns, ledger
        Names ``image_1 .. image_n`` and then the rest, and shares of shape (n_tokens, n_columns): every row sums
        to 1, or is NaN throughout where nothing was captured.
    method
        What is drawn, with the layers and heads it averages.
    honesty
        What the drawing does not prove, and where the check is.
    notes
        Anything else a reader must know.

    Raises
    ------
    CaptureError, PictureError, PromptError
        When the parts do not fit each other; the message names the part.

    Examples
    --------
    >>> view = AnswerView("Which colour?", (0, "Which colour?"), ("red",), (Image.new("RGB", (4, 2), "red"),),
    ...     (np.ones((1, 2, 4)) / 16,), (np.ones((2, 4)) / 16,), ("image_1", "prompt"), np.array([[0.5, 0.5]]), "mean", "")
    >>> view
    AnswerView('red', 1 token, 1 picture)
    """

    title: str
    prompt_parts: tuple[str | int, ...]
    tokens: tuple[str, ...]
    images: tuple[Image.Image, ...]
    heatmaps: tuple[Array, ...]
    total: tuple[Array, ...]
    columns: tuple[str, ...]
    ledger: Array
    method: str
    honesty: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt_parts", "tokens", "images", "columns", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("heatmaps", "total"):
            object.__setattr__(self, name, tuple(np.asarray(part, dtype=np.float64) for part in getattr(self, name)))
        object.__setattr__(self, "ledger", np.asarray(self.ledger, dtype=np.float64))
        self._check_prompt()
        self._check_pictures()
        self._check_ledger()

    def __repr__(self) -> str:
        return f"AnswerView({self.text[:40]!r}, {_count(len(self.tokens), 'token')}, {_count(len(self.images), 'picture')})"

    @property
    def text(self) -> str:
        """The answer: its tokens joined."""
        return "".join(self.tokens)

    @property
    def total_ledger(self) -> Array:
        """Shares of all answer tokens together: the mean over the captured tokens, NaN without any. Shape (n_columns,)."""
        captured = self.ledger[~np.isnan(self.ledger).any(axis=1)]
        return captured.mean(axis=0) if len(captured) else np.full(len(self.columns), np.nan)

    @property
    def signed(self) -> bool:
        """Whether cells below zero are large enough to be seen (rounding noise around zero is not)."""
        arrays = (*self.heatmaps, *self.total)
        low = min((float(np.nanmin(a, initial=0.0)) for a in arrays), default=0.0)
        return -low > peak(arrays) / (2 * LEVELS[0])

    @property
    def missing(self) -> bool:
        """Whether some cell has no number."""
        return any(bool(np.isnan(a).any()) for a in (*self.heatmaps, *self.total))

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, with one more where something is missing."""
        lost = int(np.isnan(self.ledger).any(axis=1).sum())
        extra = ["Hatched cells have no number."] if self.missing else []
        if lost:
            extra.append(f"{_count(lost, 'token')} of {len(self.tokens)} without captured shares.")
        return (*self.notes, *extra)

    def _check_prompt(self) -> None:
        for part in self.prompt_parts:
            if isinstance(part, str):
                continue
            if not 0 <= part < len(self.images):
                raise PromptError(
                    f"prompt_parts names picture index {part}, but there are {_count(len(self.images), 'picture')}; indices count from 0"
                )

    def _check_pictures(self) -> None:
        n = len(self.images)
        for name, arrays in (("heatmaps", self.heatmaps), ("total", self.total)):
            if len(arrays) != n:
                raise CaptureError(f"{name} has {len(arrays)} arrays for {_count(n, 'picture')}; give one per picture")
        for k, (image, heat, total) in enumerate(zip(self.images, self.heatmaps, self.total, strict=True), start=1):
            where = f"picture {k} of {n}"
            if not isinstance(image, Image.Image):
                raise PictureError(f"{where}: a PIL image is needed, not {type(image).__name__}")
            if min(image.size) < 1:
                raise PictureError(f"{where}: the picture is empty, its size is {image.size}")
            if total.ndim != 2 or total.size == 0:
                raise CaptureError(
                    f"{where}: total has shape {total.shape}; (rows, cols) with at least one cell is needed"
                )
            wanted = (len(self.tokens), *total.shape)
            if heat.shape != wanted:
                raise CaptureError(
                    f"{where}: its heatmaps have shape {heat.shape}; {len(self.tokens)} tokens and total need {wanted}"
                )
            if np.isinf(heat).any() or np.isinf(total).any():
                raise CaptureError(f"{where}: a cell is infinite; give NaN for a cell without a number")

    def _check_ledger(self) -> None:
        wanted = tuple(f"image_{k + 1}" for k in range(len(self.images)))
        if self.columns[: len(wanted)] != wanted or any(c.startswith("image_") for c in self.columns[len(wanted) :]):
            raise CaptureError(
                f"columns are {', '.join(self.columns) or 'empty'}; {_count(len(wanted), 'picture')} need {_first(wanted)} and then the rest"
            )
        if len(set(self.columns)) != len(self.columns):
            raise CaptureError(f"columns name one thing twice: {', '.join(self.columns)}")
        if self.ledger.shape != (len(self.tokens), len(self.columns)):
            raise CaptureError(
                f"ledger has shape {self.ledger.shape}; {len(self.tokens)} tokens and the columns need {(len(self.tokens), len(self.columns))}"
            )
        for k, row in enumerate(self.ledger):
            if np.isnan(row).all() and row.size:
                continue
            if not (np.isfinite(row).all() and (row >= -ROW_TOLERANCE).all() and abs(row.sum() - 1) <= ROW_TOLERANCE):
                raise CaptureError(
                    f"ledger row {k + 1} ({self.tokens[k]!r}) sums to {row.sum():.4g} with its least share {row.min(initial=0):.4g}; "
                    "shares are 0 or more and sum to 1 (NaN throughout where nothing was captured)"
                )


def pack(view: AnswerView) -> dict[str, Any]:
    """The view as a JSON-able dict, as ``viewer.js`` reads it: small, deterministic, without any network address."""
    cells, levels = pack_cells(view)
    pictures = encode_pictures(view.images)
    return {
        "version": 1,
        "title": clean(view.title),
        "parts": [clean(part) if isinstance(part, str) else int(part) for part in view.prompt_parts],
        "tokens": [clean(token) for token in view.tokens],
        "images": [
            {"src": src, "width": image.width, "height": image.height, "rows": total.shape[0], "cols": total.shape[1]}
            for src, image, total in zip(pictures, view.images, view.total, strict=True)
        ],
        "cells": cells,
        "levels": levels,
        "scale": _short(peak(view.heatmaps)),
        "totalScale": _short(peak(view.total)),
        "signed": view.signed,
        "missing": view.missing,
        "columns": [clean(column) for column in view.columns],
        "ledger": [_shares(row) for row in view.ledger],
        "totalLedger": _shares(view.total_ledger),
        "method": clean(view.method),
        "honesty": clean(view.honesty),
        "notes": [clean(note) for note in view.all_notes],
    }


def to_json(payload: dict[str, Any]) -> str:
    """JSON that is also safe inside a script element: no ``<``, ``>``, ``&`` and no line separators.

    >>> to_json({"token": "</script>"})
    '{"token":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def clean(text: str) -> str:
    """The text with lone surrogates shown as U+FFFD, so that it can be encoded.

    >>> clean("a\\udc80b")
    'a\ufffdb'
    """
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def peak(arrays: Sequence[Array]) -> float:
    """The largest magnitude over all arrays: the top of their one scale; 0 where no cell has a number."""
    return max((float(np.nanmax(np.abs(a), initial=0.0)) for a in arrays), default=0.0)


def quantise(array: Array, scale: float, levels: int, signed: bool) -> NDArray[np.uint8]:
    """Levels of the cells on a scale: 0 to ``levels`` for 0 to ``scale``, or for -scale to scale when signed.

    >>> quantise(np.array([0.0, 0.5, 1.0, np.nan]), scale=1.0, levels=254, signed=False).tolist()
    [0, 127, 254, 255]
    >>> quantise(np.array([-1.0, 0.0, 1.0]), scale=1.0, levels=254, signed=True).tolist()
    [0, 127, 254]
    """
    share = array / scale if scale > 0 else np.where(np.isnan(array), np.nan, 0.0)
    share = (share + 1) / 2 if signed else share
    level = np.clip(np.rint(share * levels), 0, levels)
    return np.where(np.isnan(level), MISSING, level).astype(np.uint8)


def pack_cells(view: AnswerView) -> tuple[str, int]:
    """All cells, deflated, in base64, and the number of levels that fits the budget.

    The order is: picture by picture (n_tokens, rows, cols), then picture by picture the total (rows, cols).
    """
    scale, total_scale, signed = peak(view.heatmaps), peak(view.total), view.signed
    budget = max(CELL_BUDGET, sum(heat.size for heat in view.heatmaps) // 2)
    for levels in LEVELS:
        parts = [quantise(heat, scale, levels, signed) for heat in view.heatmaps]
        parts += [quantise(total, total_scale, levels, signed) for total in view.total]
        block = _base64(zlib.compress(b"".join(part.tobytes() for part in parts), 9))
        if len(block) <= budget:
            break
    return block, levels


def encode_pictures(images: Sequence[Image.Image]) -> list[str]:
    """The pictures for display, as data addresses: as large and fine as fits the budget of all of them together."""
    for side, quality in PICTURE_STEPS:
        pictures = [encode(shrink(image, side), "WEBP", quality=quality, method=4) for image in images]
        if sum(len(picture) for picture in pictures) <= PICTURE_BUDGET:
            break
    return pictures


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The picture in RGB on white, its longest side at most ``side`` pixels; never enlarged, its shape kept."""
    factor = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
        return Image.alpha_composite(Image.new("RGBA", size, "white"), rgba).convert("RGB")
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, kind: str, **options: Any) -> str:
    """The picture as a data address; nothing but pixels, so the same pixels give the same text."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, kind, **options)  # a fresh image carries no metadata
    return f"data:image/{kind.lower()};base64,{_base64(buffer.getvalue())}"


def percent(share: float) -> str:
    """A share as text: one decimal, or a dash where there is none.

    >>> percent(0.4211), percent(float("nan"))
    ('42.1 %', '–')
    """
    return "–" if np.isnan(share) else f"{100 * _rounded(share):.1f} %"


def label(column: str) -> str:
    """A ledger column as a reader calls it.

    >>> label("image_2"), label("sink")
    ('picture 2', 'sink')
    """
    return f"picture {column.removeprefix('image_')}" if column.startswith("image_") else column


def _shares(row: Array) -> list[float] | None:
    return None if np.isnan(row).any() else [_rounded(share) for share in row]


def _rounded(share: float) -> float:
    """A share in steps of 0.1 %, as it is printed: rounded once, so that page and figure never differ by a step."""
    return round(max(float(share), 0.0), 3)


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _first(names: Sequence[str]) -> str:
    if not names:
        return "no image column"
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
