"""Generation: one question being answered, a token a step, by whoever holds the model. Knows no record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..hooks import Tape
from ..hooks.editing import Editing
from ..hooks.edits import is_look, looks_before
from ..hooks.joining import tape_of
from ..hooks.recorder import DecoderRecorder
from ..hooks.sinks import ResidualNorms
from ..interrupts import check_finished, check_stop
from ..tokens import Token
from .asked import Asked
from .prefill import read_prompt, stretches_of
from .reuse import Reuse


class Generation:
    """One question being answered.

    Parameters
    ----------
    asked
        The question, and the edits under which it is answered.
    reuse : callable
        Gives what is kept of pictures and of beginnings of prompts, or None; asked once, before anything of this run is in the
        model.

    Attributes
    ----------
    saying : Saying
        The answer so far.
    """

    def __init__(self, asked: Asked, *, reuse: Callable[[], Reuse | None]) -> None:
        question, edits = asked.question, asked.proof.edits
        family = question.family
        layers = family.decoder_layers
        self.saying = asked.new_saying()
        self._asked = asked
        self.norms = ResidualNorms(layers[len(layers) // 2])
        self._question = question
        self._usable = reuse
        self._reuse: Reuse | None = None
        self._cuts: tuple[int, ...] = ()
        self._edits = tuple(edits)
        self._editing = Editing(family.model, edits)
        self._recorder = DecoderRecorder(family.sites)
        self._cache = family.new_cache()

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """What records and edits is in the model inside; the block may be entered again for the tokens to come."""
        check_finished(self._question.model, "the model")
        with torch.no_grad():
            if not self.saying.tokens:
                self._begin()
        with torch.no_grad(), self._editing, self._recorder.watching(), self.norms:
            yield

    def step(self) -> Token:
        """The next token; inside `in_the_model`.

        Raises
        ------
        NotANumber
            If the model's logits are NaN and that is not expected.
        """
        check_stop()
        return self.saying.add(self._forward())

    def tape(self) -> Tape:
        """Queries and keys of the answer; a step that was interrupted left none."""
        length = len(self._question.token_map)
        self._recorder.keep(length + len(self.saying.tokens) - 1)
        return tape_of(self._recorder, length)

    def _begin(self) -> None:
        """Decide how the prompt is read.

        Under edits, and where others have hooks in the model, it is read in one go and nothing is reused: an edited beginning is
        another beginning. Those who only look must not change a bit of the answer either, and yet see a prompt in one go: so if
        they look at what comes before the last cut, they are shown it in a pass of its own.
        """
        question = self._question
        usable = question.known = self._usable()
        if usable is None or not all(map(is_look, self._edits)):
            self._asked.settle(self.saying, (), None)
            return
        self._reuse, self._cuts = usable, stretches_of(question)
        self._asked.settle(self.saying, self._cuts, self._reuse)
        if self._cuts and any(looks_before(edit, self._cuts[-1]) for edit in self._edits):
            with Editing(question.model, self._edits):
                question.family.decode(
                    question.embedded, question.family.new_cache(), keep=[len(question.embedded) - 1]
                )
            self._editing = Editing(question.model, self._edits, looks_from=len(question.embedded))

    def _forward(self) -> Tensor:
        """The logits behind all that was said so far.  # (1, V)"""
        if self.saying.tokens:
            place = self._question.embedded.next_position + len(self.saying.tokens) - 1
            row = self._question.family.embed_ids([self.saying.tokens[-1].id], place)
            logits, self._cache = self._question.family.decode(row, self._cache)
        else:
            logits, self._cache = read_prompt(self._question, self._cuts, self._cache, self.norms, self._reuse)
        return logits
