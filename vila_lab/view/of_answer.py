"""From an Answer to what there is to show of it. Knows the Answer's questions, no model and no drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .payload import AnswerView

if TYPE_CHECKING:
    from ..answer import Answer


def view_of(answer: Answer) -> AnswerView:
    """The first display of an answer: attention, mean over layers and heads, sinks set apart.

    The token that ended the answer is left out: it says nothing.
    """
    said = [k for k, token in enumerate(answer.tokens) if not token.stop]
    values = answer.mean_attention().astype(np.float64)[said]
    values[:, answer.sinks] = 0
    heatmaps = [answer.token_map.heatmap(values, k) for k in range(len(answer.images))]
    ledger = answer.ledger()
    return AnswerView(
        title=" ".join(part for part in answer.parts if isinstance(part, str)).strip(),
        prompt_parts=answer.parts,
        tokens=tuple(answer.tokens[k].text or "\ufffd" for k in said),
        images=answer.images,
        heatmaps=tuple(heatmaps),
        total=tuple(maps.mean(0) if len(said) else np.full(maps.shape[1:], np.nan) for maps in heatmaps),
        columns=tuple(ledger.columns),
        ledger=ledger.to_numpy()[said],
        method=answer.method,
        honesty=answer.honesty,
        notes=answer.notes,
    )
