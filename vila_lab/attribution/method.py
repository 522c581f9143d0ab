"""What a method must tell about itself, and what it hands back. Knows no method.

A method is a file with a `METHOD` and a function ``attribute(replay, target, **options) -> Outcome``, and its name in
`registry.NAMES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Method:
    """A method, described.

    Attributes
    ----------
    name : str
    sentence : str
        What it measures.
    unit : str
        What a score is.
    signed : bool
    cost : str
        In forwards and backwards.
    source : str
    contrast : bool
        Whether it can be asked "why this word rather than that one".
    mean : bool
        Whether a total averages the tokens (shares) instead of adding them (log-probabilities).
    covers_prompt : bool
        Whether it scores positions beside the pictures.
    """

    name: str
    sentence: str
    unit: str
    signed: bool
    cost: str
    source: str
    contrast: bool = True
    mean: bool = False
    covers_prompt: bool = True


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method found.

    Attributes
    ----------
    values : (rows, n) array
        Scores of the first n positions; the others are 0.
    baseline, note, features, feature_values, feature_errors, checks, extras
        As in `Attribution`.
    """

    values: NDArray[np.float64]
    baseline: str = ""
    note: str = ""
    features: tuple[str, ...] = ()
    feature_values: NDArray[np.float64] | None = None
    feature_errors: NDArray[np.float64] | None = None
    checks: dict[str, float] = field(default_factory=dict)
    extras: dict[str, xr.DataArray] = field(default_factory=dict)
