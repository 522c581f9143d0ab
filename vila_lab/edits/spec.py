"""What one hook or edit is, before there is a question: the seam that every kind implements. Knows no kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..capture.editing import Editing
from ..capture.edits import Edit
from ..tokenmap import TokenMap


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt about to be answered.

    Attributes
    ----------
    model
        The transformers model.
    inputs
        What it will be given.
    token_map : TokenMap
    """

    model: Any
    inputs: Mapping[str, Tensor]
    token_map: TokenMap

    def forward(self, edits: Sequence[Edit] = ()) -> Tensor:
        """One forward over the prompt under edits: the logits of its last row.  # (V,)"""
        with torch.no_grad(), Editing(self.model, edits):
            logits: Tensor = self.model(**self.inputs, logits_to_keep=1, use_cache=True).logits[0, -1]
        return logits


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
