"""Do four kinds of evidence name the same picture? Attention, gradient, leave-one-out, Shapley. Knows methods by name."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..attribution.registry import attribute
from ..attribution.shapley import EXACT
from ..engine.replay import Replay

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("attention", "grad_x_attention", "leave_one_out", "shapley")
CAUSAL = ("leave_one_out", "shapley")
SAMPLES = 20  # orders drawn for Shapley where exact is too dear
ATTENTION_NOTE = (
    "attention and gradients are not causal evidence: they say what was read, and what would matter to first order; "
    "answer.attribute('leave_one_out') is the call that checks"
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Shares of the pictures under several methods, side by side.

    Attributes
    ----------
    target : str
        The words that are explained.
    shares : DataFrame
        A row per method, a column per picture; rows sum to 1 over what speaks for the target.
    scores : DataFrame
        The same before negative scores are cut off, in each method's own unit.
    tau : DataFrame
        Kendall's tau-b of the scores, method by method; NaN where a ranking is one big tie or there is one picture.
    flags : tuple of str
        Where two methods put different pictures first, in words; empty where none do.
    """

    target: str
    shares: pd.DataFrame
    scores: pd.DataFrame
    tau: pd.DataFrame
    flags: tuple[str, ...]
    note: str = ATTENTION_NOTE

    @property
    def agree(self) -> bool:
        return not self.flags

    @property
    def verdict(self) -> str:
        return "all methods put the same picture first" if self.agree else "DISAGREE: " + "; ".join(self.flags)

    def __repr__(self) -> str:
        table = self.shares.round(3).to_string()
        return f"Evidence for {self.target!r}, {self.verdict}\n{table}\nNote: {self.note}."

    def _repr_html_(self) -> str:
        with_tau = self.shares.round(3).assign(**{"tau with leave_one_out": self.tau["leave_one_out"].round(2)})
        return (
            f"<div><b>Evidence for {escape(repr(self.target))}</b>: {escape(self.verdict)}{with_tau.to_html()}"
            f"<small>{escape(self.note)}.</small></div>"
        )


def evidence(replay: Replay, token: Any = None, *, samples: int | None = None, **options: Any) -> Evidence:
    """Attention, gradient x attention, leave-one-out and Shapley shares of the pictures.

    Parameters
    ----------
    token
        As in `Answer.attribute`; None for the whole answer.
    samples
        Orders drawn for Shapley; by default exact up to 8 pictures, 20 orders beyond.
    options
        ``at``, as in `Answer.attribute`.
    """
    import pandas as pd

    count = replay.token_map.n_pictures
    if samples is None and count > EXACT:
        samples = SAMPLES
    extra: dict[str, dict[str, Any]] = {"shapley": {"samples": samples}}
    found = {name: attribute(replay, name, token, **options, **extra.get(name, {})) for name in METHODS}
    columns = [f"image_{k + 1}" for k in range(count)]
    scores = pd.DataFrame({name: each.total()[columns] for name, each in found.items()}).T
    shares = pd.DataFrame({name: each.shares() for name, each in found.items()}).T
    for table in (scores, shares):
        table.index.name = "method"
    tau = pd.DataFrame(
        [[kendall(scores.loc[a], scores.loc[b]) for b in METHODS] for a in METHODS], index=METHODS, columns=METHODS
    )
    return Evidence(found["leave_one_out"].target, shares, scores, tau, disagreements(shares))


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Rank agreement of two scorings with ties counted as such (tau-b; Kendall 1945, "The Treatment of Ties in Ranking
    Problems"): 1 same order, -1 opposite order, NaN where one of them ranks nothing.

    >>> kendall([1, 2, 3], [10, 20, 30]), kendall([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    """
    one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
    upper = np.triu_indices(len(one), 1)
    first = np.sign(one[:, None] - one)[upper]
    second = np.sign(two[:, None] - two)[upper]
    whole = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / whole) if whole else float("nan")


def disagreements(shares: pd.DataFrame) -> tuple[str, ...]:
    """Pairs that name different first pictures. Ranks below the first are left to `Evidence.tau`: among pictures that
    hardly matter they are noise."""
    first = shares.idxmax(axis=1)
    return tuple(
        f"{a} puts {first[a]} first, {b} puts {first[b]} first"
        for a, b in combinations(METHODS, 2)
        if first[a] != first[b]
    )
