"""Leave one picture out and see how much less likely the answer becomes. Knows pictures as features, no pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.replay import Replay
from ..engine.target import Target
from .coalitions import evaluate
from .features import baseline_name, picture_features, spread
from .method import Method, Outcome

EVENLY = "a picture's score is spread evenly over its tokens: this method scores whole pictures"

METHOD = Method(
    name="leave_one_out",
    sentence="How much less likely the words become without a picture.",
    unit="log-probability",
    signed=True,
    cost="n + 1 forwards (shared prefixes: about (n + 1) / 2 with removal, (n + 3) / 2 with replacement)",
    source="Zeiler & Fergus 2014, 'Visualizing and Understanding Convolutional Networks' (ablation)",
    covers_prompt=False,
)


def attribute(replay: Replay, target: Target, *, baseline: Any = "remove") -> Outcome:
    """Score of picture i: v(all) - v(all but i).

    Parameters
    ----------
    baseline
        What takes a picture's place: "remove", "mean", "grey", "blur" or a picture; see `features`.
    """
    features = picture_features(replay, baseline)
    count = len(features)
    choices = [(0,) * count, *(tuple(int(i == left) for i in range(count)) for left in range(count))]
    found = evaluate(replay, features, choices, target)  # (1 + n, rows)
    values = (found[0] - found[1:]).T  # (rows, n)
    return Outcome(
        values=spread(values, [feature.positions for feature in features], replay.prompt_length),
        baseline=baseline_name(baseline),
        note=EVENLY,
        features=tuple(feature.name for feature in features),
        feature_values=values,
        checks={"all": float(np.sum(found[0]))},
    )
