"""Integrated gradients from a baseline to the pictures, all pictures at once. Knows no attention."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.replay import Replay, frozen
from ..engine.target import Target
from ..errors import OptionError
from ..progress import Count, progress
from .features import baseline_name
from .gradient_inputs import GradientInputs, inputs_of
from .method import Method, Outcome
from .recording import gradients_of

LOOSE = 0.01  # a completeness error beyond this share of the score's difference is pointed out ...
NOISE = 1e-3  # ... unless it is below this: log-probabilities of a word that stays certain differ by rounding only
DOUBLED = (8, 16, 32, 64)
"""Steps that are taken where nobody says how many, one after the other until every token's shares add up. Each number's points
are among the next one's, so nothing is computed twice."""

METHOD = Method(
    name="integrated_gradients",
    sentence="Gradients gathered on the way from a baseline to the pictures; they add up to the score's difference.",
    unit="log-probability",
    signed=True,
    cost="steps + 1 forwards, and as many backwards per token; 8 to 64 steps, until the shares add up",
    source="Sundararajan et al. 2017, 'Axiomatic Attribution for Deep Networks'; Clenshaw & Curtis 1960, 'A method for "
    "numerical integration on an automatic computer'",
    covers_prompt=False,
)


def attribute(
    replay: Replay, target: Target, *, baseline: Any = "mean", on: str = "embeddings", steps: int | None = None
) -> Outcome:
    """Integrated gradients of the target's score with respect to the pictures.

    Parameters
    ----------
    baseline
        Where the path begins: "mean", "grey", "blur" or a picture.
    on
        "embeddings" or "pixels".
    steps
        Steps of the path, both ends included (Clenshaw-Curtis). By default 8, and twice as many for the tokens whose shares do
        not add up yet, up to 64. Pixels halfway between two pictures are nothing the model knows: the score bends sharply on
        the way, and on a question about four pictures 64 steps missed the sum by more than half, as 64 of Gauss-Legendre did.

    Notes
    -----
    Completeness: a token's shares add up to the difference of its score between the pictures and the baseline.
    ``checks["completeness"]`` is the largest error of any token, ``checks["steps"]`` the most steps that one took, and the note
    tells where one misses by more than 1 %. Where positions choose experts (mixtures of experts) the score jumps on the way,
    and what a jump adds is in no gradient.
    """
    if steps is not None and steps < 1:
        raise OptionError(f"steps must be at least 1, not {steps}")
    inputs = inputs_of(replay, on, baseline)
    values = np.zeros((len(target.rows), replay.prompt_length))
    open_rows = np.arange(len(target.rows))
    with frozen(replay.model), torch.enable_grad(), progress(None, "points") as bar:
        path = _Path(replay, target, inputs, bar)
        for taken in DOUBLED if steps is None else (int(steps),):
            values[open_rows] = path.integral(taken, open_rows)
            error = np.abs(values.sum(1) - path.difference)
            excess = error - np.maximum(LOOSE * np.abs(path.difference), NOISE)
            open_rows = np.flatnonzero(excess > 0)
            if not len(open_rows):
                break
    missed = _incomplete(target, error, path.difference, excess, replay.family.switches_experts)
    return Outcome(
        values=values,
        baseline=baseline_name(baseline),
        note="; ".join([f"on the {on}, {taken} steps", *missed]),
        checks={
            "difference": float(path.difference.sum()),
            "completeness": float(error.max()),
            "steps": float(taken),
        },
    )


class _Path:
    """The straight way from the baseline (0) to the pictures (1), and what was found at its points."""

    def __init__(self, replay: Replay, target: Target, inputs: GradientInputs, bar: Count) -> None:
        self._replay, self._target, self._inputs, self._bar = replay, target, inputs, bar
        self._scores: dict[Fraction, NDArray[np.float64]] = {}  # (rows,)
        self._slopes: dict[Fraction, dict[int, NDArray[np.float64]]] = {}  # of each row, (P,)

    @property
    def difference(self) -> NDArray[np.float64]:
        """Of the score between the two ends, which every rule's points include.  # (rows,)"""
        return self._scores[Fraction(1)] - self._scores[Fraction(0)]

    def integral(self, steps: int, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Of some rows' slopes along the path; rows asked for later are among those asked for before.  # (rows, P)"""
        total = np.zeros((len(rows), self._replay.prompt_length))
        for number, weight in enumerate(clenshaw_curtis(steps)):
            point = Fraction(number, steps)
            if point not in self._slopes:
                self._visit(point, rows)
            total += weight * np.stack([self._slopes[point][row] for row in rows])
        return total

    def _visit(self, point: Fraction, rows: Sequence[int] | NDArray[np.int64]) -> None:
        """One forward for all rows, and a backward for each."""
        inputs, way = self._inputs, self._inputs.value - self._inputs.baseline
        share = (1 - np.cos(np.pi * float(point))) / 2
        place = (inputs.baseline + share * way).detach().requires_grad_()
        scores = self._replay.values(self._target, inputs.prompt(place[0]))
        self._scores[point] = scores.detach().double().cpu().numpy()
        self._slopes[point] = {
            int(row): inputs.by_position(way * gradients_of(self._replay, scores[row], [place])[0]) for row in rows
        }
        self._bar.update()


def clenshaw_curtis(steps: int) -> NDArray[np.float64]:
    """Weights of the points (1 - cos(pi k / steps)) / 2, k = 0 .. steps, for an integral from 0 to 1.  # (steps + 1,)

    >>> clenshaw_curtis(1), clenshaw_curtis(2) * 6
    (array([0.5, 0.5]), array([1., 4., 1.]))
    """
    points, waves = np.arange(steps + 1), np.arange(1, steps // 2 + 1)
    amplitudes = np.where(2 * waves == steps, 1, 2) / (4 * waves**2 - 1)
    inside = 1 - np.cos(2 * np.pi * np.outer(points, waves) / steps) @ amplitudes
    return np.asarray(inside / steps * np.where((points == 0) | (points == steps), 0.5, 1.0))


def _incomplete(
    target: Target,
    error: NDArray[np.float64],
    difference: NDArray[np.float64],
    excess: NDArray[np.float64],
    jumps: bool,
) -> list[str]:
    """A sentence about the token whose shares miss its score's difference most, if any misses by too much."""
    worst = int(excess.argmax())
    if excess[worst] <= 0:
        return []
    return [
        f"the shares of {target.rows[worst].text!r} miss its score's difference by {error[worst]:.2g} of "
        f"{abs(difference[worst]):.2g}: "
        f"{'experts switch on the way, and no number of steps holds a jump' if jumps else 'take more steps'}"
    ]
