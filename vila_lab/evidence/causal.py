"""How much of the change from one answer to another each head carries, read by patching. Knows pairs of answers, no ranking.

A sample is asked twice: as it is, and with another of its pictures where the picture that it is about stood. What each head
hands on, from the rows behind the pictures to the row that chooses the token in which the answers part, is then put from the
second run into the first (activation patching: Wang et al. 2023, "Interpretability in the Wild"; Zhang and Nanda 2024). The
path that is meant is head -> answer: heads that only carry a picture about inside its own rows are left out. Patched from the
wrong run into the right one, because it is loss that an ablation measures afterwards: what is found is what the right answer
needs, and heads that could each do alone (Wang et al.'s backup heads) show less than they could do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..engine.lab import Lab
from ..engine.record import Record
from ..engine.request import Request
from ..prompt import Picture, Prompt

if TYPE_CHECKING:
    from .heads import Head, Sample


@dataclass(frozen=True, eq=False)
class Change:
    """One sample's answer, the answer with another picture in its picture's place, and what each head alone carries of the change."""

    right: Record
    other: Record
    heads: NDArray[np.float64]  # (layers, heads), 0: nothing, 1: all of it


def read_change(lab: Lab, sample: Sample, longest: int) -> Change | None:
    """Ask twice and patch; None if the sample's word was not said, or both answers say the same."""
    right = lab.run(Request(Prompt.of([*sample.images, sample.question]), max_new_tokens=longest))
    if not right.rows_of(sample.word):
        return None
    stood = right.images[sample.picture]
    instead = Picture.of(right.images[(sample.picture + 1) % len(right.images)].resize(stood.size))
    prompt = right.prompt.with_pictures(lambda k, picture: instead if k == sample.picture else picture)
    other = lab.run(Request(prompt, max_new_tokens=longest))
    if other.text == right.text:
        return None
    found = lab.experiment(right, "patch_heads", from_record=other)
    return Change(right, other, found.to_numpy())


def together(lab: Lab, change: Change, sets: Sequence[Sequence[Head]]) -> list[float]:
    """What sets of heads carry together."""
    found = lab.experiment(change.right, "patch_heads", from_record=change.other, sets=[list(heads) for heads in sets])
    carried: list[float] = found.to_numpy().tolist()
    return carried


def most(carried: NDArray[np.float64], top: int) -> list[Head]:
    """The heads that carry most, at most half of any layer: so each leaves another of its own layer to compare it with.

    >>> most(np.array([[0.0, 0.1, 0.0, 0.0], [0.5, 0.4, 0.3, 0.2]]), 3)
    [(1, 0), (1, 1), (0, 1)]
    """
    heads = carried.shape[1]
    found: list[Head] = []
    for place in np.argsort(-carried, axis=None, kind="stable").tolist():
        layer, head = divmod(place, heads)
        if len(found) < top and sum(each == layer for each, _ in found) < max(1, heads // 2):
            found.append((layer, head))
    return found
