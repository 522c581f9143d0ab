"""How good is a map: numbers for one map over the visual tokens. Knows scores, boxes and what can be left out, no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..attribution import Attribution, Replay
from ..attribution.coalitions import Choice, Feature, evaluate
from ..attribution.features import (
    REMOVE,
    Box,
    baseline_name,
    baseline_picture,
    check_box,
    check_pictures,
    is_visual,
)
from ..engine.target import Target
from ..errors import OptionError
from ..interrupts import keeps_gradients
from ..pointing import picture_index

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
RATIONALE = (0.05, 0.1, 0.2, 0.5)  # shares of the tokens that count as "what the map points at"
TIE = 1e-9  # scores that differ by less than this share of the largest are the same


# -- where the map points --------------------------------------------------------------------------------------------


def pointing(
    heat: NDArray[np.float64], size: tuple[int, int], boxes: Sequence[Sequence[float]], picture: int = 0
) -> float:
    """Whether the map's maximum lies in a box (the pointing game, Zhang et al. 2016, "Top-down Neural Attention by
    Excitation Backprop").

    A tie is no hit: where several cells share the maximum, the value is the share of them that lies in a box, which is
    what one drawn from them would score. So a flat map scores what chance scores.

    Parameters
    ----------
    heat : (rows, cols) array
        A map over the whole picture; what is below zero does not count.
    size
        Width and height of the picture in pixels.
    boxes
        (x0, y0, x1, y1) in pixels of the picture. A cell lies in a box if its centre does, or if it holds the box's centre.
    picture
        Number of the picture, for the message of an error.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> pointing(np.array([[0.0, 1.0], [0.0, 0.0]]), (20, 20), [(10, 0, 20, 10)])
    1.0
    >>> pointing(np.ones((2, 2)), (20, 20), [(10, 0, 20, 10)])
    0.25
    """
    positive = np.clip(heat, 0, None)
    top = positive.max()
    tied = positive >= top - TIE * top
    return float(_cells_in(heat.shape, size, boxes, picture)[tied].mean())


def energy_in_box(
    heat: NDArray[np.float64], size: tuple[int, int], boxes: Sequence[Sequence[float]], picture: int = 0
) -> float:
    """Share of the map's positive score that lies in the boxes (Wang et al. 2020, "Score-CAM", energy-based pointing
    game). A map without positive score counts as flat, and a flat map scores the boxes' share of the picture.

    Parameters are those of `pointing`. Boxes that overlap count once where they cover whole cells.

    >>> energy_in_box(np.array([[1.0, 3.0]]), (20, 10), [(10, 0, 20, 10)])
    0.75
    """
    positive = np.clip(heat, 0, None)
    if not positive.any():
        positive = np.ones_like(positive)
    covered = np.zeros(heat.shape)
    for box in boxes:
        x0, y0, x1, y1 = check_box(box, picture, size)
        down = _covered(y0 / size[1], y1 / size[1], heat.shape[0])
        across = _covered(x0 / size[0], x1 / size[0], heat.shape[1])
        covered += np.outer(down, across)
    return float((positive * np.clip(covered, 0, 1)).sum() / positive.sum())


def _covered(start: float, stop: float, cells: int) -> NDArray[np.float64]:
    """Share of each of ``cells`` equal parts of [0, 1] that lies between start and stop."""
    edges = np.linspace(0, 1, cells + 1)
    return np.asarray(np.clip(np.minimum(stop, edges[1:]) - np.maximum(start, edges[:-1]), 0, None) * cells)


def _cells_in(
    shape: tuple[int, ...], size: tuple[int, int], boxes: Sequence[Sequence[float]], picture: int
) -> NDArray[np.bool_]:
    if not boxes:
        raise OptionError(f"no box is given for picture {picture + 1}: give (x0, y0, x1, y1) in its pixels")
    rows, columns = shape
    y = (np.arange(rows)[:, None] + 0.5) * size[1] / rows
    x = (np.arange(columns)[None] + 0.5) * size[0] / columns
    inside = np.zeros(shape, bool)
    for box in boxes:
        x0, y0, x1, y1 = check_box(box, picture, size)
        inside |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        inside[int((y0 + y1) / 2 / size[1] * rows), int((x0 + x1) / 2 / size[0] * columns)] = True
    return inside


def sink_share(attribution: Attribution, sinks: NDArray[np.int64]) -> float:
    """Share of all scores' absolute values that stands at attention sinks (see `vila_lab.hooks.sinks`)."""
    values = np.abs(attribution.values)
    total = values.sum()
    return float(values[:, sinks].sum() / total) if total > 0 else 0.0


# -- what happens without what it points at ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """Probability of the target (geometric mean over its tokens) as visual tokens go, best first, and as they come.

    Attributes
    ----------
    fractions
        Shares of the visual tokens.
    deletion, insertion
        The probability with that share taken away, and with only that share in view.
    """

    fractions: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve: low where the map names first what the answer stands on."""
        return _area(self.fractions, self.deletion)

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve: high where the map names first what suffices for the answer."""
        return _area(self.fractions, self.insertion)

    @property
    def comprehensiveness(self) -> float:
        """Mean drop of the probability without the best 5, 10, 20 and 50 %: high is good."""
        return self.deletion[0] - _mean_at(self.fractions, self.deletion)

    @property
    def sufficiency(self) -> float:
        """Mean drop of the probability with only the best 5, 10, 20 and 50 %: low is good."""
        return self.deletion[0] - _mean_at(self.fractions, self.insertion)


@keeps_gradients
def curves(
    replay: Replay, target: Target, scores: NDArray[np.float64], *, baseline: Any = REMOVE, seed: int = 0
) -> Curves:
    """Deletion and insertion (Petsiuk et al. 2018, "RISE"), sufficiency and comprehensiveness (DeYoung et al. 2020,
    "ERASER") of a ranking of the visual tokens of all pictures. About two forwards per fraction, shared prefixes once.

    Parameters
    ----------
    target
        Must have no contrast: a probability is measured.
    scores : (T,) array
        A score for every position of the prompt; equal scores come in a random order.
    baseline
        What takes a token's place: "remove" (out of view), or the token at its place in the picture shown as "mean",
        "grey" or "blur".
    seed
        Of the order of equal scores.
    """
    if target.contrast is not None:
        raise OptionError("deletion and insertion measure a probability: leave contrast= out")
    count = check_pictures(replay)
    visual = is_visual(replay.token_map)
    shuffled = visual[np.random.default_rng(seed).permutation(len(visual))]
    ranked = shuffled[np.argsort(-np.asarray(scores)[shuffled], kind="stable")]
    cuts = [round(share * len(ranked)) for share in FRACTIONS]
    chunks = [np.sort(ranked[a:b]) for a, b in pairwise(cuts)]
    name = baseline_name(baseline)
    asked = replay.embedded.features
    other = None
    if name != REMOVE:
        pictures = {k: baseline_picture(replay.prompt.images[k], baseline) for k in range(count)}
        other = replay.with_pictures(pictures).features
    features = [Feature("", chunk, (asked[chunk], None if other is None else other[chunk])) for chunk in chunks]
    steps = range(len(chunks) + 1)
    gone: list[Choice] = [tuple(int(k < step) for k in range(len(chunks))) for step in steps]
    come: list[Choice] = [tuple(int(k >= step) for k in range(len(chunks))) for step in steps]
    with replay.lock:
        found = np.exp(evaluate(replay, features, [*gone, *come], target).mean(1))
    return Curves(FRACTIONS, tuple(found[: len(gone)].tolist()), tuple(found[len(gone) :].tolist()))


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    heights = (np.asarray(y)[1:] + np.asarray(y)[:-1]) / 2
    return float((np.diff(x) * heights).sum())


def _mean_at(fractions: Sequence[float], values: Sequence[float]) -> float:
    return float(np.mean([values[fractions.index(share)] for share in RATIONALE]))


def boxes_by_picture(boxes: Any, sizes: Sequence[tuple[int, int]]) -> dict[int, list[Box]]:
    """Boxes as a reader gives them, {picture: box or list of boxes}, counted from 0 or by name.

    Raises
    ------
    OptionError
        If there is no such picture, or a box is not inside it.

    Examples
    --------
    >>> boxes_by_picture({"image_2": (0, 0, 5, 5)}, [(20, 10), (20, 10)])
    {1: [(0.0, 0.0, 5.0, 5.0)]}
    """
    if not isinstance(boxes, Mapping):
        raise OptionError("boxes= takes {picture: (x0, y0, x1, y1)} or {picture: [boxes]}, pictures counted from 0")
    found: dict[int, list[Box]] = {}
    for named, given in boxes.items():
        picture = picture_index(named, len(sizes))
        found[picture] = [check_box(box, picture, sizes[picture]) for box in _listed(given, picture)]
    return found


def _listed(given: Any, picture: int) -> list[list[float]]:
    """One box or several, as several."""
    try:
        table = np.atleast_2d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        table = np.empty((1, 0))
    if table.ndim != 2 or table.shape[1] != 4:
        raise OptionError(
            f"the boxes of picture {picture + 1} must be (x0, y0, x1, y1) or a list of these, not {given!r}"
        )
    found: list[list[float]] = table.tolist()
    return found
