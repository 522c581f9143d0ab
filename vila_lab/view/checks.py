"""Do arrays and labels fit each other? Checks before anything is drawn. Knows shapes only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import OptionError


def checked(name: str, values: ArrayLike, shape: Sequence[str | int]) -> NDArray[np.float64]:
    """The values as floats, if they have the shape: a name stands for any length but 0, a number for itself.

    Raises
    ------
    OptionError
        If they have another shape, or hold an infinite number.

    Examples
    --------
    >>> checked("heat", [[1, 2]], ("rows", 2)).shape
    (1, 2)
    """
    array = np.asarray(values, dtype=np.float64)
    wanted = "(" + ", ".join(map(str, shape)) + ")" if len(shape) != 1 else f"({shape[0]},)"
    fits = array.ndim == len(shape) and all(
        have > 0 if isinstance(want, str) else have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise OptionError(f"{name} has shape {array.shape}, but {wanted} is needed, with at least one number")
    if np.isinf(array).any():
        raise OptionError(f"{name} holds an infinite number; give NaN where there is none")
    return array


def checked_words(name: str, words: Sequence[str], count: int, what: str) -> list[str]:
    """The words as a list, if there are so many of them."""
    if len(words) != count:
        raise OptionError(f"{name} has {len(words)} entries for {count} {what}; give one for each")
    return [str(word) for word in words]
