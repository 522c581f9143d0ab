"""The metric card: one method's map on one answer in numbers, beside maps that know nothing. Knows metrics and baselines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attribution import Attribution
from ..attribution.features import REMOVE, baseline_name, check_pictures
from ..attribution.registry import attribute, find, target_of
from ..engine.replay import Replay
from ..errors import OptionError
from ..pointing import WhichPicture
from .agreement import CAUSAL
from .baselines import flat_map, random_map, random_weights_map
from .metrics import Curves, boxes_by_picture, curves, energy_in_box, pointing, sink_share

if TYPE_CHECKING:
    import pandas as pd

DIRECTIONS = {
    "deletion AUC": "low is good",
    "insertion AUC": "high is good",
    "comprehensiveness": "high is good",
    "sufficiency": "low is good",
    "pointing": "high is good",
    "energy in box": "high is good",
    "sink share": "low is good",
}
NOT_CAUSAL = (
    "a good card does not make a map causal evidence; answer.attribute('leave_one_out') is the call that checks"
)
NO_PICTURE = "phrases scores the user's words and no picture, so there is no map to measure; choose another method"


@dataclass(frozen=True, eq=False)
class MetricCard:
    """Numbers of a map and of three maps that know nothing.

    Attributes
    ----------
    method : str
        Name in `vila_lab.methods`.
    target : str
        The words scored.
    table : DataFrame
        Rows: the method, flat map, random map, random weights. Columns: `DIRECTIONS` names them, and says which way is good.
    curves : dict of Curves
        What deletion and insertion were computed from, by row.
    baseline : str
        What took the place of deleted tokens.
    note : str
        What a reader must know; "" where there is nothing.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> card = answer.metric_card("leave_one_out", "Google")
    >>> card.method, card.target, card.baseline, list(card.curves) == card.table.index.tolist()
    ('leave_one_out', 'Google', 'remove', True)
    """

    method: str
    target: str
    table: pd.DataFrame
    curves: dict[str, Curves]
    baseline: str
    note: str

    def __repr__(self) -> str:
        lines = [f"MetricCard of {self.method} for {self.target!r}, deleted tokens: {self.baseline}"]
        lines += [self.table.round(3).T.to_string(), f"Note: {self.note}." if self.note else ""]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        shown = self.table.round(3).T
        shown.insert(0, "", [DIRECTIONS[name] for name in shown.index])
        return (
            f"<div><b>Metric card of {escape(self.method)} for {escape(repr(self.target))}</b> "
            f"(deleted tokens: {escape(self.baseline)}){shown.to_html()}<small>{escape(self.note)}</small></div>"
        )


def metric_card(
    replay: Replay,
    method: str,
    token: Any = None,
    *,
    boxes: Mapping[WhichPicture, Any] | None = None,
    baseline: Any = REMOVE,
    seed: int = 0,
    **options: Any,
) -> MetricCard:
    """Measure a method's map on this answer.

    Parameters
    ----------
    method
        A name in `vila_lab.methods`.
    token
        As in `Answer.attribute`.
    boxes
        Where the answer's things are, {picture: (x0, y0, x1, y1) or a list of these} in original pixels, pictures
        counted from 0 or by name. Without boxes there is no pointing and no energy in box.
    baseline
        What takes a deleted token's place: "remove", "mean", "grey" or "blur". It is the metric's, not the method's;
        the method's own stays at its default.
    seed
        Of the random map, the shuffled weights, and the order of equal scores.
    options
        The method's own, and ``at``; `Answer.metric_card` lists them.

    Raises
    ------
    OptionError
        If a name, a token or a box is unknown, or there is no picture.
    """
    import pandas as pd

    find(method)
    if method == "phrases":
        raise OptionError(NO_PICTURE)
    check_pictures(replay)
    known = None if boxes is None else boxes_by_picture(boxes, replay.token_map.sizes)
    target = target_of(replay, token, at=options.get("at"))
    mine = attribute(replay, method, token, **options)
    maps = {
        method: mine,
        "flat map": flat_map(mine),
        "random map": random_map(mine, seed),
        "random weights": random_weights_map(replay, method, token, seed=seed, **options),
    }
    found = {name: curves(replay, target, scores_of(each), baseline=baseline, seed=seed) for name, each in maps.items()}
    rows = {name: _row(each, found[name], known) for name, each in maps.items()}
    table = pd.DataFrame(rows).T
    table["sink share"] = [sink_share(each, replay.record.sinks) for each in maps.values()]
    if _can_keep_sinks(method):  # these leave sinks out of the map, so that their share would be 0 by construction
        kept = attribute(replay, method, token, **{**options, "sinks": True})
        table.loc[method, "sink share"] = sink_share(kept, replay.record.sinks)
    return MetricCard(
        method, mine.target, table, found, baseline_name(baseline), "" if method in CAUSAL else NOT_CAUSAL
    )


def _row(attribution: Attribution, found: Curves, boxes: dict[int, list[Any]] | None) -> dict[str, float]:
    row = {
        "deletion AUC": found.deletion_auc,
        "insertion AUC": found.insertion_auc,
        "comprehensiveness": found.comprehensiveness,
        "sufficiency": found.sufficiency,
    }
    if boxes:
        sizes = attribution.token_map.sizes
        heats = {picture: attribution.heatmap(picture) for picture in boxes}
        row["pointing"] = float(np.mean([pointing(heats[k], sizes[k], boxes[k], k) for k in boxes]))
        row["energy in box"] = float(np.mean([energy_in_box(heats[k], sizes[k], boxes[k], k) for k in boxes]))
    return row


def scores_of(attribution: Attribution) -> Any:
    """One score per position for the whole target, the token that ended the answer left out.  # (T,)"""
    said = [row for row, stop in enumerate(attribution.stop) if not stop] or list(range(len(attribution.stop)))
    return attribution.values[said].sum(0)


def _can_keep_sinks(method: str) -> bool:
    return "sinks" in inspect.signature(find(method).attribute).parameters
