"""Several questions answered side by side, padded on the left, each as if it were alone. Knows no edits and nobody's hooks.

The beginning of each prompt is read, or taken from what is kept, by itself: so pictures are computed once however many questions
are about them, and what is kept is the same to the bit as after a question alone. Its last stretch and the tokens of the answer
go through the decoder together. The weights of an answer differ from those of the question alone by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from ..errors import VilaLabError
from ..families.base import Embedded, Family
from ..hooks import Tape
from ..hooks.joining import tape_of
from ..hooks.recorder import DecoderRecorder
from ..hooks.sinks import ResidualNorms
from ..interrupts import check_stop
from ..tokens import Token
from ..upstream import joined
from .answering import Stopped
from .asked import Asked
from .prefill import read_beginning, stretches_of
from .record import Record
from .reuse import Reuse
from .saying import Saying

Told: TypeAlias = "Callable[[int, Token], None]"


@dataclass(eq=False)
class Row:
    """One question of a batch.

    Attributes
    ----------
    start : int
        How much of its prompt was read by itself.
    stretch : Embedded
        What of it goes through the decoder next.
    error : VilaLabError or None
        Why it has no answer.
    is_stopped : bool
        Whether it ends with what was said.
    """

    asked: Asked
    saying: Saying
    cache: Any
    norms: ResidualNorms
    start: int
    stretch: Embedded
    error: VilaLabError | None = None
    is_stopped: bool = False

    @property
    def has_ended(self) -> bool:
        return self.error is not None or self.is_stopped or self.saying.has_ended

    @property
    def length(self) -> int:
        """Positions of the prompt."""
        return len(self.asked.question.embedded)


def can_batch(asked: Asked) -> bool:
    """Whether a question may stand beside others: no edits, no choices, a decoder that only looks backwards."""
    form = asked.request.form
    if asked.request.edits or (form is not None and form.choices):
        return False
    embedded = asked.question.embedded
    return embedded.blocks is None and not embedded.deep and embedded.positions.ndim == 1


@torch.no_grad()
def answer_batch(
    family: Family, batch: Sequence[Asked], reuse: Reuse, told: Told | None = None
) -> list[Record | VilaLabError]:
    """The records of several questions, or why there is none.

    Parameters
    ----------
    family
        Held by the caller.
    batch
        Each `can_batch`.
    reuse
        What was computed before.
    told
        Called with a question's number and each of its tokens as it comes; one that raises `Stopped` ends it there, a `VilaLabError` in place of it.
    """
    rows = [_begun(family, asked, reuse) for asked in batch]
    before = max(row.start for row in rows)
    width = max(len(row.stretch) for row in rows)
    cache = joined([row.cache for row in rows], family.new_cache()) if before else family.new_cache()
    columns = torch.arange(before)
    shown = torch.stack([columns >= before - row.start for row in rows])  # (B, K)
    layers = family.decoder_layers
    recorder = DecoderRecorder(family.sites)
    norms = ResidualNorms(layers[len(layers) // 2])
    with recorder.watching(), norms:
        while not all(row.has_ended for row in rows):
            check_stop()
            logits, cache, shown = family.decode_batch([row.stretch for row in rows], cache, shown)
            for number, row in enumerate(rows):
                if not row.has_ended:
                    _say(row, logits[number : number + 1], None if told is None else partial(told, number))
                place = row.asked.question.embedded.next_position + len(row.saying.tokens) - 1
                row.stretch = family.embed_ids([token.id for token in row.saying.tokens[-1:]] or [0], place)
    tape = tape_of(recorder, before + width)
    return [row.error or _record(row, number, tape, norms, before, width) for number, row in enumerate(rows)]


def _begun(family: Family, asked: Asked, reuse: Reuse) -> Row:
    """A question whose prompt was read up to its last cut."""
    question = asked.question
    layers = family.decoder_layers
    norms = ResidualNorms(layers[len(layers) // 2])
    with norms:
        cache, start = read_beginning(question, stretches_of(question), family.new_cache(), norms, reuse)
    return Row(asked, asked.new_saying(), cache, norms, start, question.embedded[start:])


def _say(row: Row, logits: torch.Tensor, told: Callable[[Token], None] | None) -> None:
    try:
        token = row.saying.add(logits)
        if told is not None:
            told(token)
    except Stopped:
        row.is_stopped = True
    except VilaLabError as error:
        row.error = error


def _record(row: Row, number: int, tape: Tape, norms: ResidualNorms, before: int, width: int) -> Record:
    """One question's record, its padding left out."""
    count, tail = len(row.saying.tokens), row.length - row.start
    columns = [
        *range(before - row.start, before),
        *range(before + width - tail, before + width + count - 1),
    ]
    first = row.length - 1
    mine = tape.of_item(number, range(count), columns, range(first, first + count))
    row.norms.add(norms.tensor(number)[columns[row.start] - before :])
    return row.asked.record(row.saying, row.norms.values(), mine)
