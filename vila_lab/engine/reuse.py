"""What was computed once and need not be again: features of pictures, and keys and values of prompts. Knows bytes, no model.

Both share one bound; what was not used for longest goes first. Everything in here is of one model in one state: whoever owns
it clears it when the weights change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from ..interrupts import uninterrupted
from ..upstream import cache_bytes

CACHE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Features:
    """What one picture gives the decoder.

    Attributes
    ----------
    key : str
        The picture's content, and how it is cut.
    tensor : Tensor (n, F)
    """

    key: str
    tensor: Tensor

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    @property
    def nbytes(self) -> int:
        return self.tensor.untyped_storage().nbytes()


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the decoder computed of a prompt's beginning.

    Attributes
    ----------
    keys : tuple of str
        One per cut: all that is in front of it, and where it was cut.
    cuts : tuple of int
        The positions before which it was cut; the last is where it ends.
    cache
        Keys and values.
    norms : Tensor (cuts[-1],)
        Residual norms, from which sinks are told.
    """

    keys: tuple[str, ...]
    cuts: tuple[int, ...]
    cache: Any
    norms: Tensor

    @property
    def nbytes(self) -> int:
        return cache_bytes(self.cache) + self.norms.untyped_storage().nbytes()


Kept: TypeAlias = "Features | Prefix"


class Reuse:
    """What is kept, by its keys.

    Parameters
    ----------
    limit : int
        Bytes that everything together may have.

    Attributes
    ----------
    note : str
        Why nothing could be kept of a prompt, where that was so.
    cleared : int
        How often everything was let go of.

    Examples
    --------
    >>> import torch
    >>> reuse = Reuse(limit=100)
    >>> for name in "ab":
    ...     reuse.put(Features(name, torch.zeros(5, 4)))
    >>> reuse.get("a") is None, reuse.get("b") is None, reuse.nbytes
    (True, False, 80)
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by the last key; what was used last stands last
        self._by_key: dict[str, list[Kept]] = {}
        self._nbytes = 0
        self.note = ""
        self.cleared = 0

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self._kept.values()))

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        with uninterrupted():
            self._limit = value
            self._make_room()

    def get(self, key: str) -> Kept | None:
        """What is kept under a key, which counts as a use of it."""
        holders = self._by_key.get(key)
        if not holders:
            return None
        self._kept.move_to_end(holders[-1].keys[-1])
        return holders[-1]

    def longest(self, keys: Sequence[str]) -> tuple[Prefix, int] | None:
        """A prefix that begins like a prompt of these keys, and in how many cuts it does."""
        for count in range(len(keys), 0, -1):
            found = self.get(keys[count - 1])
            if isinstance(found, Prefix):
                return found, count
        return None

    def put(self, kept: Kept) -> None:
        """Keep something in place of what it covers, within the bound; something larger than that is not kept."""
        if kept.nbytes > self._limit:
            return
        with uninterrupted():
            for key in kept.keys:
                for other in list(self._by_key.get(key, ())):
                    if other.keys[-1] == key:
                        self._drop(other)
                self._by_key.setdefault(key, []).append(kept)
            self._kept[kept.keys[-1]] = kept
            self._nbytes += kept.nbytes
            self._make_room()

    # -- features of pictures ------------------------------------------------------------------------------------------

    def features(self, content: str) -> Tensor | None:
        """See `vila_lab.families.base.KnownFeatures`."""
        found = self.get(content)
        return found.tensor if isinstance(found, Features) else None

    def keep_features(self, content: str, features: Tensor) -> None:
        """See `vila_lab.families.base.KnownFeatures`."""
        self.put(Features(content, features))

    def clear(self) -> None:
        """Let go of everything."""
        self.cleared += 1
        with uninterrupted():
            self._kept.clear()
            self._by_key.clear()
            self._nbytes = 0

    def _drop(self, kept: Kept) -> None:
        del self._kept[kept.keys[-1]]
        for key in kept.keys:
            holders = self._by_key[key]
            holders.remove(kept)
            if not holders:
                del self._by_key[key]
        self._nbytes -= kept.nbytes

    def _make_room(self) -> None:
        while self._nbytes > self._limit:
            self._drop(next(iter(self._kept.values())))
