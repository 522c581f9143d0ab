"""What one hook or edit is, before there is a question: the seam that every kind implements. Knows no kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..families.base import Embedded, Family, Prepared
from ..hooks.editing import Editing
from ..hooks.edits import Edit
from ..tokenmap import TokenMap


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt about to be answered.

    Attributes
    ----------
    family
        The loaded model.
    prepared
        What it will be given.
    """

    family: Family
    prepared: Prepared

    @property
    def model(self) -> Any:
        return self.family.model

    @property
    def token_map(self) -> TokenMap:
        return self.prepared.token_map

    @cached_property
    def embedded(self) -> Embedded:
        with torch.no_grad():
            return self.family.embed(self.prepared)

    def forward(self, edits: Sequence[Edit] = ()) -> Tensor:
        """One forward over the prompt under edits: the logits of its last row.  # (V,)"""
        with torch.no_grad(), Editing(self.model, edits):
            logits = self.family.decode(self.embedded, keep=[len(self.embedded) - 1])[0]
        return logits[0]


class Spec(Protocol):
    """One hook or edit."""

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
