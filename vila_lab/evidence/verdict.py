"""What an answer rests on, in one sentence with its numbers. Knows tables of pictures, no model and no method.

The order of the questions: does it rest on the pictures at all, do the methods agree on which, is it one or several? One method that
is alone against all others, as attention often is, makes no disagreement of them: it is named behind what the others say.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

HARDLY = float(np.log(20))
"""An answer that loses less than this (nats) stays at least a twentieth as probable with grey or with noise in its pictures' place. On
the embedded model most answers about blank and noise pictures lie below it, and few others (`benchmarks/verdict.py`). Of two answers that are
equally probable beforehand ("yes", "no") none can lose much more than log 2: there, read the number and not the word."""

TIE = 0.1  # two pictures whose scores differ by less than this share of the greater are not ranked by them
MANY = 10_000  # times less probable: beyond it only the nats are told exactly
ALSO = 0.25  # a picture counts beside the first if its share, and what it loses by itself, are at least this part of the first's
ALONE = 0.5  # a picture that loses less than this part of what all lose together does not carry the answer alone: others stand in for it


def verdict(
    effect: pd.Series,
    weight: float,
    probability: float,
    shares: pd.DataFrame,
    causal: str,
    *,
    painted_weight: float | None = None,
) -> str:
    r"""One line: rests on picture k, on several, hardly on any, or the methods disagree.

    Parameters
    ----------
    effect
        Log-probability lost, in nats: "all", then "image_1" and so on.
    weight
        The largest of these, each token's loss weighed with its probability, or what noise in the pictures' place costs if that is
        less: below `HARDLY` the answer hardly rests on any picture.
    probability
        Of the answer.
    shares
        A row per method, a column per picture; a row of NaN says nothing. Where methods put different pictures first (`disagreements`)
        the verdict is that they disagree, unless one alone differs.
    causal
        The row of `shares` that tells one picture from several, and never yields to the others.
    painted_weight
        `weight` without noise; by default the same.

    Examples
    --------
    >>> import pandas as pd
    >>> effect = pd.Series({"all": 9.1, "image_1": 0.2, "image_2": 8.7})
    >>> shares = pd.DataFrame({"image_1": [0.05], "image_2": [0.95]}, index=["shapley"])
    >>> verdict(effect, 8.6, 0.99, shares, "shapley")
    'rests on picture 2: painted over, it loses 8.7 nats (6,003 times less probable); all pictures together 9.1'
    >>> print(verdict(effect / 2, 1.6, 0.35, shares, "shapley").replace("; ", ";\n"))
    hardly rests on any picture: at most, with all of them painted over, it loses 4.5 nats (95 times less probable);
    weighed with how sure the model was (0.35) that is 1.6, below 3.0

    >>> shares.loc["leave_one_out"], shares.loc["attention"] = (0, 1), (0.7, 0.3)
    >>> verdict(effect, 8.6, 0.99, shares, "shapley").partition("; all pictures together 9.1; ")[-1]
    'attention alone puts picture 1 first'
    """
    pictures = effect.drop("all")
    if np.isnan(weight):
        return "no verdict: with pictures painted over, the model's logits are no numbers (NaN)"
    if weight < HARDLY:
        most = str(effect.idxmax())
        what = "it" if len(pictures) == 1 else "all of them" if most == "all" else _name(most)
        lost = f"at most, with {what} painted over, it loses {_lost(effect[most])}"
        without_noise = weight if painted_weight is None else painted_weight
        but = ", but with noise there hardly anything" if without_noise >= HARDLY else ""
        sure = f"weighed with how sure the model was ({probability:.2g}) that is {max(weight, 0.0):.1f}, below {HARDLY:.1f}"
        return f"hardly rests on any picture: {lost}{but}; {sure}"
    pairs = _opposed(shares)
    alone = _alone(pairs, causal)
    if pairs and alone is None:
        return f"methods disagree: {_by_first(shares, pictures)}"
    but = f"; {alone} alone puts {_name(str(shares.loc[alone].idxmax()))} first" if alone else ""
    return _one_or_several(effect, shares, causal) + but


def _one_or_several(effect: pd.Series, shares: pd.DataFrame, causal: str) -> str:
    pictures = effect.drop("all")
    row = shares.loc[causal] if causal in shares.index and not shares.loc[causal].isna().any() else _positive(pictures)
    if row.isna().any():
        return f"rests on several pictures: none is missed by itself; all together lose {_lost(effect['all'])}"
    first = str(row.idxmax())
    carried = effect[first] >= ALONE * effect["all"]
    # Shares alone do not tell: they also count what a picture adds where the first is not there.
    beside = [
        name
        for name in row.index
        if row[name] >= ALSO * row[first] and (name == first or not carried or effect[name] >= ALSO * effect[first])
    ]
    if len(beside) > 1:
        numbers = ", ".join(f"{_name(name)} {row[name]:.0%}" for name in beside)
        return f"rests on several pictures: {numbers} ({row.name}); all together lose {_lost(effect['all'])}"
    if not carried:
        lost, most = _lost(pictures.max()), str(pictures.idxmax())
        far = pictures.max() >= ALSO * effect["all"]
        by_itself = f"{_name(most)} loses most by itself, {lost}" if far else f"by itself none loses more than {lost}"
        return f"rests on several pictures: {by_itself}; all together lose {_lost(effect['all'])}"
    together = f"; all pictures together {effect['all']:.1f}" if len(pictures) > 1 else ""
    return f"rests on {_name(first)}: painted over, it loses {_lost(pictures[first])}{together}"


def disagreements(shares: pd.DataFrame) -> tuple[str, ...]:
    """Pairs of methods that name different first pictures, in words.

    A method that says nothing (NaN) disagrees with nobody, and neither does one to which the two pictures are alike. Ranks below
    the first are left to `Evidence.tau`: among pictures that hardly matter they are noise.
    """
    first = shares.dropna().idxmax(axis=1)
    return tuple(f"{a} puts {first[a]} first, {b} puts {first[b]} first" for a, b in _opposed(shares))


def _opposed(shares: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of methods that name different first pictures."""
    known = shares.dropna()
    first = known.idxmax(axis=1)
    return [
        (a, b)
        for a, b in combinations(known.index, 2)
        if _prefers(known.loc[a], first[a], first[b]) and _prefers(known.loc[b], first[b], first[a])
    ]


def _alone(pairs: Sequence[tuple[str, str]], causal: str) -> str | None:
    """The method that opposes two others or more, none of which oppose each other, unless it is the one that decides."""
    if len(pairs) < 2:
        return None
    in_all = set.intersection(*map(set, pairs)) - {causal}
    return next(iter(in_all), None)


def _by_first(shares: pd.DataFrame, pictures: pd.Series) -> str:
    """Which methods put which picture first, the picture that loses most when painted over before the others."""
    first = shares.dropna().idxmax(axis=1)
    named = sorted(set(first), key=lambda name: -pictures[name])
    return "; ".join(
        f"{_listed(list(first.index[first == name]))} put{'s' * (sum(first == name) == 1)} {_name(name)} first "
        f"(painted over, it loses {_lost(pictures[name])})"
        for name in named
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _prefers(row: pd.Series, one: str, other: str) -> bool:
    return bool(row[one] - row[other] > TIE * row[one])


def _positive(pictures: pd.Series) -> pd.Series:
    """Each picture's part of what they lose one by one; NaN where none loses anything by itself."""
    positive = pictures.clip(lower=0)
    return (positive / positive.sum()).rename("painted over")


def _name(column: str) -> str:
    return column.replace("image_", "picture ")


def _lost(nats: float) -> str:
    if nats <= 0:
        return "nothing"
    times = np.exp(nats)
    said = f"{times:.1f}" if times < 10 else f"{times:,.0f}" if times < MANY else f"more than {MANY:,}"
    return f"{nats:.1f} nats ({said} times less probable)"
