"""Shapley values of the pictures: each one's part of the score, fair over all orders of arrival. Knows no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import OptionError
from ..options import check_range
from .coalitions import Choice, evaluate
from .features import baseline_name, check_pictures, picture_features, spread
from .leave_one_out import EVENLY
from .method import Method, Outcome

EXACT = 8  # pictures up to which all coalitions are computed: 256

METHOD = Method(
    name="shapley",
    sentence="Each picture's part of the score, averaged over all orders in which the pictures could have come in.",
    unit="log-probability",
    signed=True,
    cost="2^n forwards (shared prefixes: about 2^n / 4 with removal, 2^n / 2 with replacement), or samples x n",
    source="Shapley 1953; Lundberg & Lee 2017, 'A Unified Approach to Interpreting Model Predictions'; captum's ShapleyValues",
    covers_prompt=False,
)


def attribute(
    replay: Replay, target: Target, *, baseline: Any = "remove", samples: int | None = None, seed: int = 0
) -> Outcome:
    """Exact for up to 8 pictures; sampled beyond, or where `samples` is given.

    Parameters
    ----------
    baseline
        What takes a picture's place: "remove", "mean", "grey", "blur" or a picture; see `features`.
    samples
        Orders of arrival to draw. The standard error is reported.
    seed
        Of the drawing.

    Raises
    ------
    OptionError
        If there are more than 8 pictures and no `samples`.
    """
    count = check_pictures(replay)
    if samples is None and count > EXACT:
        raise OptionError(
            f"exact Shapley values of {count} pictures need {2**count} passes: give samples= (orders to draw, 50 say); up to {EXACT} are exact"
        )
    check_range("seed", seed, least=0)
    if samples is not None and samples < 2:
        raise OptionError(f"samples must be at least 2, not {samples}: the standard error needs two orders")
    features = picture_features(replay, baseline)
    orders = None if samples is None else [_draw(count, k, seed) for k in range(samples)]
    choices = list(product((0, 1), repeat=count)) if orders is None else [c for order in orders for c in _steps(order)]
    ends = [(0,) * count, (1,) * count]
    scores = dict(zip([*choices, *ends], evaluate(replay, features, [*choices, *ends], target), strict=True))
    values, errors = (exact(scores, count), None) if orders is None else _sampled(scores, orders)
    difference = scores[ends[0]] - scores[ends[1]]
    note = EVENLY if orders is None else f"{EVENLY}; {len(orders)} orders drawn, see standard_error()"
    return Outcome(
        values=spread(values, [feature.positions for feature in features], replay.prompt_length),
        baseline=baseline_name(baseline),
        note=note,
        features=tuple(feature.name for feature in features),
        feature_values=values,
        feature_errors=errors,
        checks={
            "all": float(scores[ends[0]].sum()),
            "none": float(scores[ends[1]].sum()),
            "completeness": float(np.abs(values.sum(1) - difference).max()),
        },
    )


def exact(scores: Mapping[Choice, NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    """Shapley values from the scores of all coalitions: weighted means of what each picture adds.  # (rows, pictures)

    Keys tell for each picture whether it is absent (1).

    >>> exact({(0, 0): np.array([5.0]), (0, 1): np.array([3.0]), (1, 0): np.array([1.0]), (1, 1): np.array([0.0])}, 2)
    array([[3.5, 1.5]])
    """
    values = []
    for picture in range(count):
        total = np.zeros_like(scores[(0,) * count])
        for absent in scores:
            if absent[picture]:
                continue
            others = count - sum(absent) - 1
            weight = factorial(others) * factorial(count - others - 1) / factorial(count)
            total = total + weight * (scores[absent] - scores[_without(absent, picture)])
        values.append(total)
    return np.stack(values, 1)


def _sampled(
    scores: dict[Choice, NDArray[np.float64]], orders: list[list[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean marginal score over orders of arrival, and its standard error.  # (rows, pictures) each"""
    marginals = []
    for order in orders:
        gained = {p: scores[b] - scores[a] for p, (a, b) in zip(order, pairwise(_steps(order)), strict=True)}
        marginals.append(np.stack([gained[picture] for picture in range(len(order))], 1))
    table = np.stack(marginals)  # (orders, rows, pictures)
    return table.mean(0), table.std(0, ddof=1) / np.sqrt(len(orders))


def _steps(order: list[int]) -> list[Choice]:
    """The coalitions met as the pictures come in one by one, from none to all."""
    absent = [1] * len(order)
    steps = [tuple(absent)]
    for picture in order:
        absent[picture] = 0
        steps.append(tuple(absent))
    return steps


def _without(absent: Choice, picture: int) -> Choice:
    return (*absent[:picture], 1, *absent[picture + 1 :])


def _draw(count: int, number: int, seed: int) -> list[int]:
    """The number-th order of arrival."""
    order: list[int] = np.random.default_rng([seed, number]).permutation(count).tolist()
    return order
