"""What a live viewer is given: the whole payload first, and then single layers and heads as its reader asks for them. Knows records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engine.record import Record
from .of_answer import reading_of, scores_of, view_of
from .payload import AnswerView, pack
from .reading import pack_reading

if TYPE_CHECKING:
    from ..attribution import Attribution

READING_BUDGET = 400_000  # base64 characters of one reading


def live_payload(record: Record, **shown: Any) -> dict[str, Any]:
    """The viewer's payload, which tells that more layers and heads can be asked for.

    Parameters
    ----------
    shown
        As in `vila_lab.view.view_of`.
    """
    return {**pack(view_of(record, **shown)), "live": live_part(record)}


def live_part(record: Record) -> dict[str, Any]:
    """What of an answer can be asked for beside the payload."""
    layers, heads = size_of(record)
    return {"layers": layers, "heads": heads}


def live_reading(record: Record, layer: int | None, head: int | None, sinks: bool) -> dict[str, Any]:
    """One more reading, as `live_payload` has those it holds.

    Raises
    ------
    VilaLabError
        If there is no such layer or head, or it was released.
    """
    return pack_reading(reading_of(record, layer, head, sinks), READING_BUDGET)


def live_scores(record: Record, found: Attribution) -> dict[str, Any]:
    """An attribution as `live_payload` has those it holds."""
    (reading,) = scores_of(record, [found])
    return pack_reading(reading, READING_BUDGET)


def view_at(record: Record, layer: int | None, head: int | None) -> AnswerView:
    """The view of an answer as one layer and head read it; None for the mean of all."""
    reading = reading_of(record, layer, head)
    return replace(
        view_of(record, layers=False),
        heatmaps=reading.heatmaps,
        total=reading.total,
        ledger=reading.numbers,
        word_shares=reading.words,
        method=reading.method,
    )


def size_of(record: Record) -> tuple[int, int]:
    """Layers and heads that can still be read; no heads once queries and keys were released."""
    layers = record.layer_means().shape[1]
    return layers, record.tape().n_heads if record.kept.is_there else 0
