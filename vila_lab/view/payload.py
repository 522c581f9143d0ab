"""AnswerView: what there is to show of an answer, as arrays and labels, and its small JSON. Knows no model and no browser.

The cells of all heatmaps travel as one deflated block of bytes: level 0 to ``levels`` on ONE scale that all pictures
and all tokens share, so that a brighter cell always means a larger number, and 255 where there is no number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import CaptureError, PictureError, PromptError
from ..tokens import sureness
from .levels import CELL_BUDGET, LEVELS, MISSING, Array, fitting, flat, has_sign, peak, quantise, squeeze
from .pictures import encode, encode_pictures, shrink, size_notes
from .reading import EXTRA_BUDGET, Reading, labels_of, pack_readings, short, word_levels

__all__ = [
    "CELL_BUDGET",
    "LEVELS",
    "MISSING",
    "AnswerView",
    "Array",
    "Box",
    "clean",
    "encode",
    "encode_pictures",
    "label",
    "pack",
    "peak",
    "percent",
    "quantise",
    "shrink",
    "to_json",
]

ROW_TOLERANCE = 5e-3  # a ledger row summed in half precision misses 1 by less than this
WORD_BUDGET = 60_000  # base64 characters for what every token read of the question's words

SINK_NOTE = (
    "positions that are looked at whatever they hold, the first one and those whose state is far larger than the others'; "
    "what goes there says nothing about a picture."
)

Box: TypeAlias = "tuple[float, float, float, float]"


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
    name
        What the method picker calls the heatmaps.
    card
        How good the heatmaps are, in one line; may be empty.
    readings
        Other ways to read the same answer, for the viewer's pickers: methods, layers, head sets.
    words, word_shares
        The question in pieces, a picture's index where one stood, and what every token read of each piece of text,
        shape (n_tokens, n_texts).
    tiles, boxes
        Per picture the tiles it was cut into and what is known to be there: x0, y0, x1, y1 in pixels of the original.
    edits
        What was changed in the model while it answered.
    probabilities
        Of each token under the model, 0 to 1, before any temperature; None where they are not known.
    verdict
        What the answer rests on, in one line, where that was asked (`Answer.evidence`); may be empty.
    model
        Name of the model that answered; may be empty.
    top
        Where the colour scale of all tokens together ends, where other answers share it; None for this answer's own.

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
    name: str = "attention"
    card: str = ""
    readings: tuple[Reading, ...] = ()
    words: tuple[str | int, ...] = ()
    word_shares: Array | None = None
    tiles: tuple[tuple[Box, ...], ...] = ()
    boxes: tuple[tuple[Box, ...], ...] = ()
    edits: tuple[str, ...] = ()
    probabilities: Array | None = None
    verdict: str = ""
    model: str = ""
    top: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_parts", "tokens", "images", "columns", "notes", "readings", "words", "edits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("heatmaps", "total"):
            object.__setattr__(self, name, tuple(np.asarray(part, dtype=np.float64) for part in getattr(self, name)))
        object.__setattr__(self, "ledger", np.asarray(self.ledger, dtype=np.float64))
        for name in ("tiles", "boxes"):
            object.__setattr__(self, name, _boxes(getattr(self, name), self.images, name))
        if self.probabilities is not None and len(self.probabilities) != len(self.tokens):
            raise CaptureError(f"{len(self.probabilities)} probabilities for {_count(len(self.tokens), 'token')}")
        self._check_prompt()
        self._check_pictures()
        self._check_ledger()
        for reading in self.readings:
            reading.check(len(self.tokens), len(self.columns), self.images)

    def __repr__(self) -> str:
        return f"AnswerView({self.text[:40]!r}, {_count(len(self.tokens), 'token')}, {_count(len(self.images), 'picture')})"

    @property
    def text(self) -> str:
        """The answer: its tokens joined."""
        return "".join(self.tokens)

    @property
    def sureness(self) -> str:
        """How probable the answer and the least probable of its tokens were, in words; empty where that is not known."""
        if self.probabilities is None or not len(self.probabilities) or np.isnan(self.probabilities).any():
            return ""  # a model that edits have broken has none
        said = sureness(self.tokens, self.probabilities.tolist())
        return said[:1].upper() + said[1:]

    @cached_property
    def shown(self) -> tuple[Image.Image, ...]:
        """The pictures as they are shown, shrunk once."""
        return tuple(shrink(image) for image in self.images)

    @property
    def total_ledger(self) -> Array:
        """Shares of all answer tokens together: the mean over the captured tokens, NaN without any. Shape (n_columns,)."""
        captured = self.ledger[~np.isnan(self.ledger).any(axis=1)]
        return captured.mean(axis=0) if len(captured) else np.full(len(self.columns), np.nan)

    @cached_property
    def signed(self) -> bool:
        """Whether cells below zero are large enough to be seen (rounding noise around zero is not)."""
        return has_sign((*self.heatmaps, *self.total))

    @property
    def missing(self) -> bool:
        """Whether some cell has no number."""
        return bool(np.isnan(flat((*self.heatmaps, *self.total))).any())

    @property
    def first(self) -> Reading:
        """The reading that is drawn first: the view's own heatmaps and ledger."""
        return Reading(
            name=self.name,
            method=self.method,
            honesty=self.honesty,
            card=self.card,
            heatmaps=self.heatmaps,
            total=self.total,
            numbers=self.ledger,
            total_numbers=self.total_ledger,
            words=self.word_shares,
        )

    @property
    def edit_notes(self) -> tuple[str, ...]:
        """The edits, each as a sentence."""
        return tuple(f"Edited while answering: {edit}" for edit in self.edits)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The edits, the notes, and more of them where a picture is not as it was or something is missing."""
        lost = int(np.isnan(self.ledger).any(axis=1).sum())
        extra = ["Hatched cells have no number."] if self.missing else []
        if lost:
            extra.append(f"{_count(lost, 'token')} of {len(self.tokens)} without captured shares.")
        return (*self.edit_notes, *self.notes, *size_notes(self.images), *extra)

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


def pack(view: AnswerView, budget: int = EXTRA_BUDGET) -> dict[str, Any]:
    """The view as a JSON-able dict, as ``viewer.js`` reads it: small, deterministic, without any network address.

    ``budget`` is how many characters the further readings may take together; the coarsest still go without some cells.
    """
    cells, levels = pack_cells(view)
    pictures = encode_pictures(view.shown)
    others, left_out = pack_readings(view.readings, budget)
    notes = list(view.all_notes[len(view.edits) :])
    if left_out:
        notes.append(
            f"{_count(left_out, 'layer or method', 'layers or methods')} left out to keep this small; answer.explore() has all of them."
        )
    if any(one["grids"] != [list(total.shape) for total in view.total] for one in others):
        notes.append("Layers and further methods are drawn in larger cells than the first map, to keep this small.")
    return labels_of(view.first) | _words(view) | {
        "version": 2,
        "title": clean(view.title),
        "parts": [clean(part) if isinstance(part, str) else int(part) for part in view.prompt_parts],
        "tokens": [clean(token) for token in view.tokens],
        "images": [
            {
                "src": src, "width": image.width, "height": image.height, "rows": total.shape[0], "cols": total.shape[1],
                "tiles": [list(box) for box in tiles], "boxes": [list(box) for box in boxes],
            }
            for src, image, total, tiles, boxes in zip(pictures, view.images, view.total, view.tiles, view.boxes, strict=True)
        ],
        "cells": cells,
        "levels": levels,
        "scale": short(peak(view.heatmaps)),
        "totalScale": short(peak(view.total)),
        "columns": [clean(column) for column in view.columns],
        "ledger": [_shares(row) for row in view.ledger],
        "totalLedger": _shares(view.total_ledger),
        "method": clean(view.method),
        "honesty": clean(view.honesty),
        "notes": [clean(note) for note in notes],
        "edits": [clean(edit) for edit in view.edits],
        "probabilities": _probabilities(view.probabilities),
        "verdict": clean(view.verdict),
        "model": clean(view.model),
        "sink_note": SINK_NOTE if "sink" in view.columns else "",
        "readings": others,
    }  # fmt: skip


def _words(view: AnswerView) -> dict[str, Any]:
    """The question's pieces and what each token read of them; without the numbers where those would be too many."""
    data, scale = word_levels(view.word_shares)
    block = squeeze(data) if data else ""
    fits = 0 < len(block) <= WORD_BUDGET
    return {
        "words": [clean(word) if isinstance(word, str) else int(word) for word in view.words] if fits else [],
        "wordLevels": block if fits else "",
        "wordScale": scale,
    }


def to_json(payload: Any) -> str:
    """JSON that is also safe inside a script element: no ``<``, ``>``, ``&`` and no line separators.

    >>> to_json({"token": "</script>"})
    '{"token":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for c in "<>&\u2028\u2029":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text


def clean(text: str) -> str:
    """The text with lone surrogates shown as U+FFFD, so that it can be encoded.

    >>> clean("a\\udc80b")
    'a\ufffdb'
    """
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def pack_cells(view: AnswerView) -> tuple[str, int]:
    """All cells of the first reading in base64, and the number of levels that fits the budget."""
    budget = max(CELL_BUDGET, sum(heat.size for heat in view.heatmaps) // 2)
    return fitting(view.heatmaps, view.total, view.signed, budget)


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


def _probabilities(row: Array | None) -> list[float] | None:
    return None if row is None or np.isnan(row).any() else [short(each) for each in row]


def _shares(row: Array) -> list[float] | None:
    return None if np.isnan(row).any() else [_rounded(share) for share in row]


def _rounded(share: float) -> float:
    """A share in steps of 0.1 %, as it is printed: rounded once, so that page and figure never differ by a step."""
    return round(max(float(share), 0.0), 3)


def _count(n: int, thing: str, things: str = "") -> str:
    return f"{n} {thing if n == 1 else things or thing + 's'}"


def _boxes(given: Sequence[Sequence[Any]], images: Sequence[Any], name: str) -> tuple[tuple[Box, ...], ...]:
    """Boxes of every picture as plain numbers; none for all if none are given."""
    if not len(given):
        return ((),) * len(images)
    if len(given) != len(images):
        raise CaptureError(
            f"{name} has {len(given)} entries for {_count(len(images), 'picture')}; give one per picture"
        )
    boxes = tuple(tuple(tuple(round(float(side), 2) for side in box) for box in ones) for ones in given)
    for k, ones in enumerate(boxes, start=1):
        for box in ones:
            if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                raise CaptureError(f"picture {k}: {name} has {box}; x0, y0, x1, y1 with x0 < x1 and y0 < y1 is needed")
    return boxes  # type: ignore[return-value]  # the length was checked


def _first(names: Sequence[str]) -> str:
    if not names:
        return "no image column"
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
