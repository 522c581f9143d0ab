"""The proof that each edit of a question changes the logits. Knows no kind of edit.

The logits under the first k edits are compared with those under the first k - 1. What the rounding of the model's number type
explains does not count (in bfloat16 that is 0.8 % of the largest logit, so a very small edit may be refused). First the
prompt's last row is compared; an edit that leaves it alone (it may act on later rows only) is compared on all rows of the
answer. Clean logits are kept for the last few prompts, so that many edits of one question share one clean pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import NoEffect
from ..hooks.edits import Edit, closed_before
from ..upstream import state_of
from .question import Question, Spec

KEPT = 8  # prompts whose clean logits are kept
ROUNDING = 16 * 2.0**-23  # of the largest logit: two kernels differ by about a tenth of that in float32


class CleanLogits:
    """What the last row of the last few prompts says without edits."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, question: Question) -> Tensor:
        """Logits of a prompt's last row, computed where they are not known.  # (V,)"""
        key = fingerprint(question)
        if key not in self._known:
            self._known[key] = question.last_row()
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]

    def clear(self) -> None:
        self._known.clear()


@dataclass(frozen=True)
class Resolved:
    """A hook or an edit, and what it means for one prompt."""

    spec: Spec
    edits: list[Edit]


class Proof:
    """The hooks and edits of one question, and whether each edit changes what the model says.

    Parameters
    ----------
    question
    specs
        In order.
    clean
        Where clean logits are kept.

    Raises
    ------
    NoEffect
        If one means nothing for this prompt, or an earlier knock-out leaves it nothing to do.
    """

    def __init__(self, question: Question, specs: Sequence[Spec], clean: CleanLogits) -> None:
        self._question = question
        self._clean = clean
        steps = [Resolved(spec, spec.resolve(question)) for spec in specs]
        self.edits: list[Edit] = [edit for step in steps for edit in step.edits]
        self._changes = [step for step in steps if step.spec.is_edit]
        for index, step in enumerate(self._changes):
            earlier = [edit for other in self._changes[:index] for edit in other.edits]
            if step.edits and all(closed_before(edit, earlier) for edit in step.edits):
                raise NoEffect(
                    f"{step.spec.label} changes nothing: an earlier knock-out has closed these edges already"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """The edits in words; hooks are none."""
        return tuple(step.spec.label for step in self._changes)

    def check(self, first: Tensor, ids: Sequence[int]) -> None:
        """Check that every edit changed the logits.

        Parameters
        ----------
        first : Tensor (V,)
            What the prompt's last row said under all edits.
        ids
            The answer.

        Raises
        ------
        NoEffect
            If one did not.
        """
        if all(step.spec.changes_nothing(self._question) for step in self._changes):
            return
        after = self._prompt_row(0, first)
        for k, step in enumerate(self._changes, 1):
            before, after = after, self._prompt_row(k, first)
            if differ(before, after, self._rounding) or step.spec.changes_nothing(self._question):
                continue
            without, under = (self._question.answer_rows(ids, self._first_edits(count)) for count in (k - 1, k))
            if not differ(without, under, self._rounding):
                raise NoEffect(
                    f"{step.spec.label} changes nothing: the logits of every row of the answer are as without it"
                )

    @property
    def _rounding(self) -> float:
        """What the model's number type explains, as a share of the largest logit; the logits may have been widened since."""
        return max(ROUNDING, torch.finfo(self._question.embedded.vectors.dtype).eps)

    def _prompt_row(self, count: int, first: Tensor) -> Tensor:
        """Logits of the prompt's last row under the first edits.  # (V,)"""
        if count == len(self._changes):
            return first
        return self._question.last_row(self._first_edits(count)) if count else self._clean.of(self._question)

    def _first_edits(self, count: int) -> list[Edit]:
        return [edit for step in self._changes[:count] for edit in step.edits]


def differ(before: Tensor, after: Tensor, rounding: float) -> bool:
    """Whether logits differ by more than a share of the largest."""
    # Written this way round because an edit that ends in NaN has an effect too.
    return not bool((before - after).abs().max() <= rounding * before.abs().max())


def fingerprint(question: Question) -> tuple[Any, ...]:
    """Tells prompts apart, and a model before and after its weights changed."""
    return question.prepared.identity, state_of(question.model)
