"""What localization heads are chosen by: the elbow of sorted numbers, and how scattered a map is. Knows arrays, no head and no sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def elbow(values: NDArray[np.float64]) -> float:
    """The smallest value behind the sharpest bend of the sorted values, which is where they are furthest from the line
    between smallest and largest (Satopaa et al. 2011, "Finding a Kneedle in a Haystack"). The bend itself ends the flat
    part where it lies below that line, and begins it where it lies above.

    >>> float(elbow(np.array([0.0, 0.0, 0.1, 0.1, 0.8, 1.0])))
    0.8
    """
    ordered = np.sort(values)
    if ordered[-1] <= ordered[0]:
        return float(ordered[0])
    below = np.linspace(ordered[0], ordered[-1], len(ordered)) - ordered
    bend = int(np.argmax(np.abs(below)))
    return float(ordered[bend + 1 if below[bend] > 0 else bend])


def spatial_entropy(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of how a map's mass is spread over its blobs (Batty 1974, "Spatial Entropy"): cells above the mean, joined
    with all eight neighbours; 0 for a single blob, infinite for a map without any.

    Parameters
    ----------
    maps : (..., rows, columns) array

    >>> spatial_entropy(np.eye(3)[None] + [[[0], [0], [0]]]).tolist()
    [0.0]
    """
    flat = maps.reshape(-1, *maps.shape[-2:])
    above = flat > flat.mean((1, 2), keepdims=True)
    labels = _blobs(above)
    found = np.full(len(flat), np.inf)
    for k, (heat, label) in enumerate(zip(flat, labels, strict=True)):
        if not label.any():
            continue
        mass = np.bincount(label.ravel(), weights=heat.ravel())[1:]  # label 0 is the ground
        shares = mass[mass > 0] / mass.sum()
        found[k] = max(0.0, -(shares * np.log(shares)).sum())
    return found.reshape(maps.shape[:-2])


def _blobs(above: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each set of cells that touch, all maps at once: the largest number in a blob spreads through it."""
    _, rows, columns = above.shape
    labels = np.where(above, np.arange(1, rows * columns + 1).reshape(rows, columns), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        around = [padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        spread = np.where(above, np.max(around, axis=0), 0)
        if np.array_equal(spread, labels):
            return spread
        labels = spread
