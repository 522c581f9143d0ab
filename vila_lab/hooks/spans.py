"""Span: a set of positions that may go on for ever, as an answer does while it is written. Knows only numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """Some positions, and all from `onward` on.

    Attributes
    ----------
    positions : frozenset of int
    onward : int or None
        The first position of an open end; None: there is none.

    Examples
    --------
    >>> Span.of([2, 3], onward=6).inside(0, 8).astype(int)
    array([0, 0, 1, 1, 0, 0, 1, 1])
    """

    positions: frozenset[int] = field(default=frozenset())
    onward: int | None = None

    @classmethod
    def of(cls, positions: Iterable[int] = (), onward: int | None = None) -> Span:
        return cls(frozenset(int(position) for position in positions), onward)

    def inside(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the positions ``start .. stop - 1`` belong to it."""
        found = np.zeros(max(0, stop - start), bool)
        first, last = np.searchsorted(self._sorted, (start, stop))
        found[self._sorted[first:last] - start] = True
        if self.onward is not None:
            found[max(0, self.onward - start) :] = True
        return found

    @cached_property
    def _sorted(self) -> NDArray[np.int64]:
        return np.array(sorted(self.positions), np.int64)

    def without(self, other: Span, length: int) -> Span:
        """The positions that `other` does not have; ``length`` ends what is known by name."""
        kept = np.flatnonzero(self.inside(0, length) & ~other.inside(0, length))
        onward = None if self.onward is None or other.onward is not None else max(self.onward, length)
        return Span.of(kept.tolist(), onward)

    def covers(self, other: Span) -> bool:
        """Whether every position of `other` is also one of this."""
        named = set(other.positions)
        if other.onward is not None:
            if self.onward is None:
                return False
            named.update(range(other.onward, self.onward))
        return all(p in self.positions or (self.onward is not None and p >= self.onward) for p in named)

    @property
    def first(self) -> int | None:
        """The first position, or None if there is none."""
        ends = [*self.positions, *([] if self.onward is None else [self.onward])]
        return min(ends, default=None)

    @property
    def last(self) -> int | None:
        """The last position, or None if there is none or no last."""
        return None if self.onward is not None else max(self.positions, default=None)

    def __bool__(self) -> bool:
        return bool(self.positions) or self.onward is not None


EVERYWHERE = Span(onward=0)
