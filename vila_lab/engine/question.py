"""A prompt about to be answered, and what a hook or an edit must tell about it. Knows no kind of edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..families.base import Embedded, Family, KnownFeatures, Prepared
from ..hooks.editing import Editing
from ..hooks.edits import Edit
from ..tokenmap import TokenMap


@dataclass(eq=False)
class Question:
    """A prompt about to be answered.

    Attributes
    ----------
    family
        The loaded model.
    prepared
        What it will be given.
    known
        Features of pictures that need not be computed again.
    goes_on
        Whether the prompt is part of a conversation, which the next question will repeat.
    reused
        How many positions of the prompt were not computed again.
    """

    family: Family
    prepared: Prepared
    known: KnownFeatures | None = None
    goes_on: bool = False
    reused: int = 0

    @property
    def model(self) -> Any:
        return self.family.model

    @property
    def token_map(self) -> TokenMap:
        return self.prepared.token_map

    @cached_property
    def embedded(self) -> Embedded:
        """What the decoder is given of the prompt."""
        with torch.no_grad():
            return self.family.embed(self.prepared, self.known)

    def followed(self, ids: Sequence[int]) -> Embedded:
        """The prompt with generated tokens behind it."""
        return Embedded.cat([self.embedded, self.family.embed_ids(ids, self.embedded.next_position)])

    def last_row(self, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits of the prompt's last row under edits, in one forward.  # (V,)"""
        return self._logits(self.embedded, [len(self.embedded) - 1], edits)[0]

    def answer_rows(self, ids: Sequence[int], edits: Sequence[Edit] = ()) -> Tensor:
        """Logits of all rows that chose an answer's tokens, the answer given, under edits.  # (tokens, V)"""
        sequence = self.followed(ids[:-1])
        return self._logits(sequence, range(len(self.embedded) - 1, len(sequence)), edits)

    def _logits(self, sequence: Embedded, rows: Sequence[int], edits: Sequence[Edit]) -> Tensor:
        with torch.no_grad(), Editing(self.model, edits):
            return self.family.decode(sequence, keep=rows)[0]


class Spec(Protocol):
    """One hook or edit, before there is a question."""

    @property
    def label(self) -> str:
        """What it does, in words."""
        ...

    @property
    def is_edit(self) -> bool:
        """Whether it changes what the model computes (a hook only looks)."""
        ...

    def resolve(self, question: Question) -> list[Edit]:
        """What it means for a prompt.

        Raises
        ------
        NoEffect
            If it means nothing there.
        """
        ...

    def changes_nothing(self, question: Question) -> bool:
        """Whether it is declared to leave everything as it is (a factor of 1, a patch from the same prompt)."""
        ...
