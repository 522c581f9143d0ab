"""A stretch of the decoder's sequence, as the decoder needs it. Knows no model and no family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Places = slice | Sequence[int] | NDArray[Any] | Tensor


@dataclass(frozen=True, eq=False)
class Embedded:
    """A stretch of the decoder's sequence, as the decoder needs it.

    Leaving a picture out is indexing by what remains: positions stay as they were, so a gap is positions nobody sees.

    Attributes
    ----------
    vectors : Tensor (n, H)
        Input embeddings.
    positions : Tensor (n,) or (axes, n)
        Whatever this family's rotary embedding takes; Qwen's have three axes.
    blocks : Tensor (n,), optional
        Number of the block whose members see each other both ways (Gemma 3, PaliGemma), -1 elsewhere; None where
        everything is causal.
    deep : tuple of Tensor (n, H)
        What is added behind the first decoder layers (Qwen3-VL), zero rows where there is nothing to add.

    Examples
    --------
    >>> import torch
    >>> whole = Embedded(torch.zeros(4, 2), torch.arange(4))
    >>> without = whole[[0, 3]]
    >>> len(without), without.positions.tolist(), without.next_position
    (2, [0, 3], 4)
    """

    vectors: Tensor
    positions: Tensor
    blocks: Tensor | None = None
    deep: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, places: Places) -> Embedded:
        if not isinstance(places, slice):
            places = torch.as_tensor(places, device=self.vectors.device)
            places = places if places.dtype == torch.bool else places.long()  # an empty list has no type of its own
        return Embedded(
            self.vectors[places],
            self.positions[..., places],
            None if self.blocks is None else self.blocks[places],
            tuple(each[places] for each in self.deep),
        )

    @staticmethod
    def cat(parts: Sequence[Embedded]) -> Embedded:
        """Stretches of one sequence, one behind the other.

        Text is the same in every family, so it need not say what pictures do: its one position holds for every axis, it is in
        no block and has nothing deep.
        """
        axes = next((part.positions.shape[:-1] for part in parts if part.positions.ndim > 1), ())
        has_blocks = any(part.blocks is not None for part in parts)
        deep = max((len(part.deep) for part in parts), default=0)
        return Embedded(
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.positions.expand(*axes, len(part)) for part in parts], -1),
            torch.cat(
                [part.positions.new_full((len(part),), -1) if part.blocks is None else part.blocks for part in parts]
            )
            if has_blocks
            else None,
            tuple(
                torch.cat([part.deep[k] if part.deep else torch.zeros_like(part.vectors) for part in parts])
                for k in range(deep)
            ),
        )

    @cached_property
    def next_position(self) -> int:
        """The position of what comes behind the stretch."""
        return int(self.positions.max()) + 1 if len(self) else 0

    def has_block_over(self, place: int) -> bool:
        """Whether the positions before and at a place see each other both ways, so that one cannot be computed before the other."""
        if self.blocks is None:
            return False
        before, at = self.blocks[place - 1 : place + 1].tolist()
        return bool(before == at >= 0)

    @property
    def features(self) -> Tensor:
        """All that a position's content gives the decoder, side by side.  # (n, (1 + deep) * H)"""
        return torch.cat([self.vectors, *self.deep], -1) if self.deep else self.vectors

    def with_features(self, features: Tensor, places: Places | None = None) -> Embedded:
        """Other content, as `features` gives it, at all positions or at some; gradients flow through it."""
        if places is not None:
            index = torch.as_tensor(places, device=features.device)
            features = self.features.index_copy(0, index, features)
        vectors, *deep = torch.split(features, self.vectors.shape[-1], -1)
        return replace(self, vectors=vectors, deep=tuple(deep))

    @property
    def nbytes(self) -> int:
        held = [self.vectors, self.positions, *self.deep, *([] if self.blocks is None else [self.blocks])]
        return sum(each.nbytes for each in held)
