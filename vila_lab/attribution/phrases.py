"""Leave one phrase of the question out and see how much less likely the answer becomes. Knows text positions, no pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.replay import Replay
from ..engine.target import Target
from .coalitions import evaluate
from .features import phrase_groups, removable, spread
from .method import Method, Outcome

METHOD = Method(
    name="phrases",
    sentence="How much less likely the words become without a phrase of the question.",
    unit="log-probability",
    signed=True,
    cost="1 forward per phrase (shared prefixes)",
    source="Li et al. 2016, 'Understanding Neural Networks through Representation Erasure'",
)


def attribute(replay: Replay, target: Target, *, by: str = "clause", phrases: Sequence[str] | None = None) -> Outcome:
    """Score of a phrase: v(all) - v(phrase out of view); the other positions stay where they are.

    Parameters
    ----------
    by
        "clause" (cut behind punctuation; a single clause is cut into words) or "word".
    phrases
        Phrases of the question to leave out instead.
    """
    groups = phrase_groups(replay.token_map, by, phrases)
    features, without = removable(replay, list(groups.values()))
    scores = evaluate(replay, features, [(0,) * len(features), *without], target)
    values = (scores[0] - scores[1:]).T  # (rows, phrases)
    return Outcome(
        values=spread(values, list(groups.values()), replay.prompt_length),
        baseline="remove",
        note="a phrase's score is spread evenly over its tokens; the pictures are not scored",
        features=tuple(groups),
        feature_values=values,
        checks={"all": float(scores[0].sum())},
    )
