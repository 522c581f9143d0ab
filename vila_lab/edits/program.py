"""Program: the hooks and edits of a session, in order, and the proof that each edit bites. Knows no kind of edit.

Proof: the logits under the first k edits are compared with those under the first k - 1. What the rounding of the model's
number type explains does not count (in bfloat16 that is 0.8 % of the largest logit, so a very small edit may be refused).
First the prompt's last row is compared; an edit that leaves it alone (it may act on later rows only) is compared on all
rows of the answer. Clean logits are kept for the last few prompts, so that many edits of one question share one clean pass.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.replay import Replay
from ..errors import NoEffect
from ..hooks.editing import Editing
from ..hooks.edits import Edit
from ..upstream import times_written
from .edges import closed_before
from .handle import ENTERED, Handle
from .spec import Question, Spec

KEPT = 8  # prompts whose clean logits are kept
ROUNDING = 16 * 2.0**-23  # of the largest logit: two kernels differ by about a tenth of that in float32


class Program:
    """The hooks and edits of one session; each caller has its own, in the order in which they were made."""

    def __init__(self) -> None:
        self._mine = threading.local()  # those that this thread made
        self._all: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._known: OrderedDict[Any, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._acting())

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._acting())

    def add(self, spec: Spec) -> Handle:
        """Put a hook or an edit behind those that are there."""
        handle = Handle(spec, self._forget_removed)
        self._mine.handles = [*self._made_here(), handle]
        self._all.add(handle)
        return handle

    def clear(self) -> None:
        """Remove those that act here."""
        for handle in self:
            handle.remove()
        self._known.clear()

    def clear_everywhere(self) -> None:
        """Remove all of them, whoever made them."""
        for handle in list(self._all):
            handle.remove()
        self._known.clear()

    def _acting(self) -> list[Handle]:
        """What acts on a question asked here: blocks that were entered, also before this thread began, and what this thread made."""
        made = self._made_here()
        inherited = [handle for handle in ENTERED.get() if handle in self._all and handle not in made]
        return [handle for handle in [*inherited, *made] if handle.acts_here]

    def _forget_removed(self) -> None:
        """What an edit holds (an answer to patch from) goes with it."""
        self._mine.handles = [handle for handle in self._made_here() if handle.active]

    def _made_here(self) -> list[Handle]:
        found: list[Handle] = getattr(self._mine, "handles", [])
        return found

    @contextmanager
    def running(self, question: Question) -> Iterator[Run]:
        """The model works under the program inside.

        Raises
        ------
        NoEffect
            If an edit means nothing for this prompt.
        """
        run = Run(question, [Step(handle.spec, handle.spec.resolve(question)) for handle in self], self._known)
        with Editing(question.model, run.edits), run.first_logits():
            yield run


@dataclass(frozen=True)
class Step:
    """A hook or an edit, and what it means for one prompt."""

    spec: Spec
    edits: list[Edit]


class Run:
    """One question answered under a program."""

    def __init__(self, question: Question, steps: Sequence[Step], known: OrderedDict[Any, Tensor]) -> None:
        self._question = question
        self._steps = steps
        self._changes = [step for step in steps if step.spec.is_edit]
        self._known = known
        self._first: Tensor | None = None
        self._between: dict[int, Tensor] = {}
        for index, step in enumerate(self._changes):
            earlier = [edit for other in self._changes[:index] for edit in other.edits]
            if step.edits and all(closed_before(edit, earlier) for edit in step.edits):
                raise NoEffect(
                    f"{step.spec.label} changes nothing: an earlier knock-out has closed these edges already"
                )

    @property
    def edits(self) -> list[Edit]:
        return [edit for step in self._steps for edit in step.edits]

    @property
    def labels(self) -> tuple[str, ...]:
        """The edits in words; hooks are none."""
        return tuple(step.spec.label for step in self._changes)

    @contextmanager
    def first_logits(self) -> Iterator[None]:
        """Remember what the prompt's last row said, from the generation itself."""
        if not self._changes:
            yield
            return

        def keep(module: Any, args: Any, output: Any) -> None:
            if self._first is None:
                self._first = output.logits[0, -1].detach().clone()

        with ExitStack() as stack:
            stack.callback(self._question.model.register_forward_hook(keep).remove)
            yield

    def prove(self, replay: Replay, ids: Sequence[int]) -> None:
        """Check that every edit changed the logits; call it after the generation, outside the program.

        Raises
        ------
        NoEffect
            If one did not.
        """
        rows: dict[int, Tensor] = {}

        def answer_rows(count: int) -> Tensor:
            if count not in rows:
                rows[count] = self._answer_rows(count, replay, ids)
            return rows[count]

        for k, step in enumerate(self._changes, 1):
            if step.spec.changes_nothing(self._question):
                continue
            if self._differ(self._prompt_row(k - 1), self._prompt_row(k)):
                continue
            if not self._differ(answer_rows(k - 1), answer_rows(k)):
                raise NoEffect(
                    f"{step.spec.label} changes nothing: the logits of every row of the answer are as without it"
                )

    def _differ(self, before: Tensor, after: Tensor) -> bool:
        one, other = before.float(), after.float()
        number_type = self._question.model.get_input_embeddings().weight.dtype  # the logits may have been widened since
        rounding = max(ROUNDING, torch.finfo(number_type).eps)
        # Written this way round because an edit that ends in NaN has an effect too.
        return not bool((one - other).abs().max() <= rounding * one.abs().max())

    def _prompt_row(self, count: int) -> Tensor:
        """Logits of the prompt's last row under the first edits.  # (V,)"""
        if count == len(self._changes):
            assert self._first is not None
            return self._first
        if count:
            if count not in self._between:
                self._between[count] = self._question.forward(self._first_edits(count))
            return self._between[count]
        key = fingerprint(self._question)
        if key not in self._known:
            self._known[key] = self._question.forward()
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]

    def _answer_rows(self, count: int, replay: Replay, ids: Sequence[int]) -> Tensor:
        """Logits of all rows that chose a token, the answer given, under the first edits.  # (tokens, V)"""
        sequence = replay.followed(replay.embedded, ids[:-1])
        rows = range(replay.prompt_length - 1, len(sequence))
        with torch.no_grad(), Editing(self._question.model, self._first_edits(count)):
            return replay.decode(sequence, keep=rows)[0]

    def _first_edits(self, count: int) -> list[Edit]:
        return [edit for step in self._changes[:count] for edit in step.edits]


def fingerprint(question: Question) -> tuple[Any, ...]:
    """Tells prompts apart, and a model before and after its weights were changed in place."""
    versions = [times_written(parameter) for parameter in question.model.parameters()]
    return digest(question.prepared.inputs), len(versions), sum(versions)


def digest(inputs: Mapping[str, Tensor]) -> str:
    """A hash of model inputs."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        value = inputs[name]
        found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.update(value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
