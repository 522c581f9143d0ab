"""Replay: a record's question, ready to be run again with other pictures or other words. Knows an engine, no method.

All passes are teacher-forced: prompt and answer go through the model at once, row p scoring the token at p + 1.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import CaptureError, OptionError
from ..families.base import Embedded, Family, Prepared
from ..interrupts import check_stop, uninterrupted
from ..prompt import Picture, Prompt
from ..tokenmap import TokenMap
from ..tokens import Token
from .lock import ModelLock
from .record import HeadSets, Record
from .target import Target

if TYPE_CHECKING:
    from .engine import Engine

NO_MODEL = (
    "this answer has no model any more (it was read from a file, or its session was unloaded): "
    "answer.bind(lab) gives it one, or ask again"
)


@dataclass
class Meter:
    """What was computed: whole sequences scored, backward passes, and positions put through the decoder."""

    forwards: int = 0
    backwards: int = 0
    positions: int = 0


class Replay:
    """One question, asked before, that can be run again.

    Parameters
    ----------
    record
        The question and its answer.
    engine
        A loaded model. Only a weak reference is kept, so that no replay keeps an unloaded model in memory.

    Raises
    ------
    OptionError
        If the answer was given under edits, which a clean run would not repeat.
    """

    def __init__(self, record: Record, engine: Engine) -> None:
        if record.edits:
            raise OptionError(
                f"this answer was given under edits ({'; '.join(record.edits)}), and running it again without them would explain "
                "another answer: ask without edits to attribute it"
            )
        self.record = record
        self.inputs = engine.inputs(record)
        self._engine = weakref.ref(engine)
        self.meter = Meter()
        self.remembered: dict[Hashable, NDArray[np.float64]] | None = None

    @property
    def engine(self) -> Engine:
        """The loaded model.

        Raises
        ------
        CaptureError
            If it is there no more.
        """
        engine = self._engine()
        if engine is None:
            raise CaptureError(NO_MODEL)
        return engine

    @property
    def family(self) -> Family:
        return self.engine.family

    @property
    def lock(self) -> ModelLock:
        """Held while the model works, so that no question runs at the same time."""
        return self.engine.lock

    @property
    def head_sets(self) -> HeadSets:
        """(layer, head) pairs by the name that ``heads=`` may give."""
        return self.engine.head_sets

    @property
    def token_map(self) -> TokenMap:
        """What every position of prompt and answer is."""
        return self.record.token_map

    @property
    def said(self) -> tuple[Token, ...]:
        """The answer's tokens."""
        return self.record.tokens

    @cached_property
    def prompt(self) -> Prompt:
        """What was asked."""
        return self.record.prompt

    @cached_property
    def options(self) -> Any:
        """The family's own options of the prompt."""
        return self.family.options_of(self.record.options)

    @property
    def model(self) -> Any:
        return self.family.model

    @property
    def prompt_length(self) -> int:
        return self.token_map.prompt_length

    # -- what goes in ----------------------------------------------------------------------------------------------

    @property
    def prepared(self) -> Prepared:
        """Model inputs of the prompt as it was asked."""
        if self.inputs.prepared is None:
            self.inputs.prepared = self.family.prepare(self.prompt, self.options)
        return self.inputs.prepared

    @property
    def embedded(self) -> Embedded:
        """What the decoder is given of the prompt as it was asked, P positions."""
        if self.inputs.embedded is None:
            self.inputs.embedded = self._embed(self.prepared)
        return self.inputs.embedded

    def with_pictures(self, images: Mapping[int, Image.Image]) -> Embedded:
        """The prompt with some pictures replaced by others of the same size."""
        return self._embed(self.prepare_with(images))

    def prepare_with(self, images: Mapping[int, Image.Image]) -> Prepared:
        """Model inputs of the prompt with some pictures replaced by others of the same size."""
        prompt = self.prompt.with_pictures(lambda k, picture: Picture.of(images[k]) if k in images else picture)
        return self.family.prepare(prompt, self.options)

    def variants(self, picture: int, images: Sequence[Image.Image]) -> list[Tensor]:
        """`Embedded.features` of pictures of one size, each as if it stood in this prompt in place of one of its own.

        Returns
        -------
        list of Tensor (n, F)
            In the order of ``token_map.rows_of(picture)``.
        """
        with torch.no_grad():
            return self.family.pictures_features(images, self.prepared, picture, self.engine.usable())

    def _embed(self, prepared: Prepared) -> Embedded:
        with torch.no_grad():
            return self.family.embed(prepared, self.engine.usable())

    # -- passes ----------------------------------------------------------------------------------------------------

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Inside, scores may be kept in `remembered`, so that several methods that want the same one compute it once."""
        self.remembered = {}
        try:
            yield
        finally:
            self.remembered = None

    def followed(self, prompt: Embedded, ids: Sequence[int]) -> Embedded:
        """A prompt, or what is left of it, with the answer's tokens behind it in their places."""
        return Embedded.cat([prompt, self.family.embed_ids(ids, self.embedded.next_position)])

    def values(self, target: Target, prompt: Embedded | None = None) -> Tensor:
        """The target's scores, under another prompt of the same length if given; gradients flow where they are on.  # (rows,)"""
        logits = []
        for each in target.passes:
            sequence = self.followed(self.embedded if prompt is None else prompt, each.fed)
            places = [self.prompt_length - 1 + row for row in each.rows]
            logits.append(self.decode(sequence, keep=places)[0])
        self.meter.forwards += len(logits)
        return target.values(logits)

    def decode(self, embedded: Embedded, cache: Any = None, keep: Sequence[int] | None = None) -> tuple[Tensor, Any]:
        """`Family.decode`, counted."""
        check_stop()
        self.meter.positions += len(embedded)
        return self.family.decode(embedded, cache, keep)


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No parameter takes part in gradients inside, and afterwards exactly those that did before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        try:
            _set_trained(trained, False)
            yield
        finally:
            _set_trained(trained, True)
    finally:  # again: a Ctrl-C may have come while the first ran
        _set_trained(trained, True)


def _set_trained(parameters: Sequence[Tensor], value: bool) -> None:
    with uninterrupted():
        for parameter in parameters:
            parameter.requires_grad_(value)
