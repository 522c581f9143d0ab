"""A mean and how sure it is: the percentile bootstrap. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError

DRAWS = 2000


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Sequence[float] | NDArray[np.float64], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Mean of the values and its 95 % interval (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife").

    Examples
    --------
    >>> interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    table = np.asarray(values, np.float64)
    if not table.size:
        raise OptionError("there is nothing to average: give at least one value")
    drawn = np.random.default_rng(seed).integers(0, len(table), (draws, len(table)))
    low, high = np.quantile(table[drawn].mean(1), (0.025, 0.975))
    return Interval(float(table.mean()), float(low), float(high))
