"""What an answer rests on: several methods' shares of the pictures, what it loses without them, and how sure it was. Knows methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..attribution import Attribution
from ..attribution.features import check_pictures
from ..attribution.registry import attribute_target, find, target_of
from ..attribution.shapley import EXACT
from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import CaptureError, OptionError
from ..tokens import sureness
from .effect import effect
from .verdict import disagreements, verdict

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("attention", "integrated_gradients", "leave_one_out", "shapley")
"""What measured best where the truth is known (`benchmarks/attribution.py`), one of each kind: read, gradient, left out, fair."""

CAUSAL = ("leave_one_out", "shapley")
SAMPLES = 20  # orders drawn for Shapley where exact is too dear
STEPS = 8  # of integrated gradients: enough to name the right picture every time in the benchmark
ATTENTION_NOTE = (
    "attention and gradients are not causal evidence: they say what was read, and what would matter to first order; "
    "answer.attribute('leave_one_out') is the call that checks"
)

ONE_PICTURE = "with one picture every share is 1 and tells nothing: read what is lost"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for an answer, side by side.

    Attributes
    ----------
    target : str
        The words that are explained.
    verdict : str
        One line: it rests on picture k, on several, hardly on any picture, or the methods disagree; with the numbers that say so. A
        method that is alone against all others is named behind it; `flags` has every pair.
        "no verdict", where the model gives no numbers.
    effect : Series
        Natural log-probability (nats) that the words lose when the pictures are painted over in grey: "all" of them together, and
        each ("image_1" ...).
    weight : float
        The largest of these, each token's loss weighed with its probability, or what noise in the pictures' place costs if that is
        less; what the verdict goes by.
    probability : float
        Of the words under the model, 0 to 1: the product of `probabilities`.
    probabilities : Series
        Of each token of the target, by its characters. Before any temperature.
    shares : DataFrame
        A row per method, a column per picture; rows sum to 1 over what speaks for the target. NaN: the method says nothing about
        a picture, as no score is above zero.
    scores : DataFrame
        The same before negative scores are cut off, in each method's own unit.
    tau : DataFrame
        Kendall's tau-b of the scores, method by method; NaN where a ranking is one big tie, says nothing, or there is one picture.
    flags : tuple of str
        Where two methods put different pictures first, in words; empty where none do.
    note : str
        What a reader must know.

    Examples
    --------
    >>> import vila_lab
    >>> folder = vila_lab.demo_images()
    >>> found = vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"]).evidence()
    >>> found.verdict.partition(":")[0], found.effect.idxmax() != "image_1", found.probability > 0.9
    ('rests on picture 2', True, True)
    >>> found.target, found.probabilities.index.tolist(), found.weight > 3
    ('Microsoft.', ['Microsoft', '.'], True)
    >>> found.shares.idxmax(axis=1).to_dict()
    {'attention': 'image_2', 'integrated_gradients': 'image_2', 'leave_one_out': 'image_2', 'shapley': 'image_2'}
    >>> found.agree, found.flags, found.scores.shape, found.tau.loc["leave_one_out", "shapley"].item()
    (True, (), (4, 2), 1.0)
    """

    target: str
    verdict: str
    effect: pd.Series
    weight: float
    probability: float
    probabilities: pd.Series
    shares: pd.DataFrame
    scores: pd.DataFrame
    tau: pd.DataFrame
    flags: tuple[str, ...]
    note: str = ATTENTION_NOTE

    @property
    def agree(self) -> bool:
        """Whether no two methods put different pictures first."""
        return not self.flags

    def __repr__(self) -> str:
        lost = ", ".join(f"{name} {value:.2f}" for name, value in self._lost().items())
        return (
            f"Evidence for {self.target!r}: {self.verdict}\n{self._sure()}\nnats lost when painted over: {lost}\n"
            f"{self._table().to_string(na_rep='says nothing')}\nNote: {self.note}."
        )

    def _repr_html_(self) -> str:
        with_tau = self._table().assign(**{"tau with leave_one_out": self.tau.get("leave_one_out", np.nan)})
        lost = self._lost().to_frame("nats lost when painted over").T
        return (
            f"<div><b>{escape(repr(self.target))} {escape(self.verdict)}</b><br>{escape(self._sure())}"
            f"{lost.to_html()}{with_tau.round(2).to_html(na_rep='says nothing')}"
            f"<small>{escape(self.note)}.</small></div>"
        )

    def _sure(self) -> str:
        return sureness(list(self.probabilities.index), self.probabilities.tolist())

    def _lost(self) -> pd.Series:
        return self.effect.round(2) + 0.0  # no minus before a zero

    def _table(self) -> pd.DataFrame:
        return self.shares.round(3)


def evidence(
    replay: Replay,
    token: Any = None,
    *,
    methods: Sequence[str] | None = None,
    at: int | None = None,
    samples: int | None = None,
) -> Evidence:
    """What an answer rests on: shares of the pictures by several methods, what it loses without them, and how sure it was.

    Parameters
    ----------
    token, at
        As in `Answer.attribute`; None for the whole answer.
    methods
        Names in `vila_lab.methods`; by default those that measured best (`METHODS`), without one that this model cannot run: the
        note says which.
    samples
        Orders drawn for Shapley; by default exact up to 8 pictures, 20 orders beyond.

    Raises
    ------
    OptionError
        If there is no picture, or a method is unknown or named twice.
    """
    import pandas as pd

    check_pictures(replay)
    if methods is not None:
        _check(methods)
    target = target_of(replay, token, at=at)
    with replay.remembering():
        found, notes = _run(replay, target, methods, samples)
        without = effect(replay, target)
    columns = [f"image_{k + 1}" for k in range(replay.token_map.n_pictures)]
    scores = pd.DataFrame({name: each.total()[columns] for name, each in found.items()}).T
    shares = pd.DataFrame({name: each.shares() for name, each in found.items()}).T
    for table in (scores, shares):
        table.index.name = "method"
    ranked = scores.where(shares.notna())
    tau = pd.DataFrame(
        [[kendall(ranked.loc[a], ranked.loc[b]) for b in found] for a in found], index=list(found), columns=list(found)
    )
    words = [row.text for row in target.rows if not row.stop] or [row.text for row in target.rows]
    lost = pd.Series(without.lost.sum(1), index=["all", *columns], name="nats lost")
    probabilities = pd.Series(np.exp(without.logprobs), index=words, name="probability")
    causal = next((name for name in reversed(CAUSAL) if name in shares.index), CAUSAL[0])
    return Evidence(
        target=target.text,
        verdict=verdict(
            lost,
            without.weight,
            float(probabilities.prod()),
            shares,
            causal,
            painted_weight=without.painted_weight,
        ),
        effect=lost,
        weight=without.weight,
        probability=float(probabilities.prod()),
        probabilities=probabilities,
        shares=shares,
        scores=scores,
        tau=tau,
        flags=disagreements(shares),
        note="; ".join([ATTENTION_NOTE, *([ONE_PICTURE] if len(columns) == 1 else []), *notes]),
    )


def _check(methods: Sequence[str]) -> None:
    if isinstance(methods, str) or not methods:
        raise OptionError(f"methods= takes a list of names, not {methods!r}; see vila_lab.methods()")
    for name in methods:
        find(name)
    if len(set(methods)) < len(methods):
        raise OptionError(f"methods= names one twice: {', '.join(methods)}")


def _run(
    replay: Replay, target: Target, methods: Sequence[str] | None, samples: int | None
) -> tuple[dict[str, Attribution], list[str]]:
    """Each method's result, and why one of the methods that nobody asked for is missing.

    Shapley comes first: among what it leaves out is what leave one out leaves out. Integrated gradients are taken of the sum of
    the target's scores: their sum over the tokens, in one backward.
    """
    if samples is None and replay.token_map.n_pictures > EXACT:
        samples = SAMPLES
    options: dict[str, dict[str, Any]] = {"shapley": {"samples": samples}, "integrated_gradients": {"steps": STEPS}}
    wanted = list(methods or METHODS)
    found, notes = {}, []
    for name in sorted(wanted, key=lambda name: name != "shapley"):
        scored = target.summed() if name == "integrated_gradients" else target
        try:
            found[name] = attribute_target(replay, name, scored, **options.get(name, {}))
        except CaptureError as error:  # weights that give no gradients, say
            if methods is not None or name in CAUSAL:
                raise
            notes.append(f"{name} is left out: {error}")
    return {name: found[name] for name in wanted if name in found}, notes


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
