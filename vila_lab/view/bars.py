"""Stacked bars under an answer's tokens: the ledger as a figure. Knows the view, no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .lettering import label_across, token_label, write_legend
from .payload import AnswerView, label
from .style import SOFT_INK, column_look, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def ledger(
    view: AnswerView,
    ax: Axes | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    legend: bool = False,
) -> Axes:
    """Stacked bars, one per answer token: the share of each picture, the prompt, the answer and the sink.

    Parameters
    ----------
    view
        The answer to draw.
    ax
        Where to draw; None makes a figure of its own (``ax.figure``).
    start, stop
        The tokens to draw, as in a slice.
    legend
        Whether to say at the right which colour is which.
    """
    from matplotlib.collections import PolyCollection

    ax = ax or new_axes(9.0, 2.6, None if legend else (0.08, 0.3, 0.9, 0.66))
    tokens = view.tokens[start:stop]
    rows = view.ledger[start:stop]
    across = np.arange(len(tokens))
    base = np.zeros(len(tokens))
    for k, column in enumerate(view.columns):
        shares = np.clip(np.nan_to_num(rows[:, k]), 0, None)
        bars = _bars(across, base, base + shares)  # one collection: a patch per bar takes ten times as long
        ax.add_collection(PolyCollection(bars, label=label(column), **column_look(view.columns, k)), autolim=False)
        base += shares
    lost = across[np.isnan(rows).any(axis=1)]
    if lost.size:
        bars = _bars(lost, np.zeros(lost.size), np.ones(lost.size))
        hatched = PolyCollection(
            bars, facecolor="none", edgecolor="#999999", hatch="////", linewidth=0, label="not captured"
        )
        ax.add_collection(hatched, autolim=False)
    label_across(ax, [token_label(token, start + k) for k, token in enumerate(tokens)])
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, max(len(tokens), 1) - 0.4)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8, color=SOFT_INK)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    if legend:
        write_legend(ax, reverse=True)  # from top to bottom as the parts of a bar
    return ax


def _bars(across: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Corners of one upright bar per place. Each (4, 2)."""
    x = np.stack([across - 0.43, across + 0.43, across + 0.43, across - 0.43], axis=1)
    y = np.stack([low, low, high, high], axis=1)
    return list(np.stack([x, y], axis=2))  # (bars, 4, 2)
