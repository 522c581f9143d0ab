"""A request made ready to be answered, and the record of what was said to it. Knows no pass of a model but its proof's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..hooks import Tape
from ..hooks.edits import is_look
from ..inputs.mentions import pictures_named
from .choices import log_probabilities
from .guide import Script
from .proof import Proof
from .question import Question
from .record import Record
from .repeating import how_asked
from .request import Request
from .reuse import Reuse
from .said import said_in
from .saying import Saying, stops_of

if TYPE_CHECKING:
    from .engine import Engine


class Asked:
    """A request made ready: its prompt laid out, its edits resolved.

    Parameters
    ----------
    engine
        Held by the caller.
    request

    Raises
    ------
    ContextTooLong
        If prompt and answer do not fit.
    NoEffect
        If an edit means nothing for this prompt.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self.request = request
        family, prompt = engine.family, request.prompt
        prepared = family.prepare(prompt, request.options)
        self._limit = engine.room(prepared, request.max_new_tokens)
        self._config = family.generation_config(prepared.options)
        self._config.max_length = len(prepared.token_map) + self._limit
        # Of a seed that nobody gave, so that an answer which is begun again goes on as it was.
        self._sampling = request.sampling.with_seed()
        self.choices: dict[str, float] = {}
        self.question = Question(family, prepared, goes_on=prompt.goes_on or bool(prompt.history))
        self.proof = Proof(self.question, request.edits, engine.clean)

    def new_saying(self) -> Saying:
        """An answer that begins."""
        may_break = bool(self.proof.labels) and not self._sampling.do_sample  # drawing from NaN is impossible
        ids = self.question.prepared.inputs["input_ids"]
        request, form = self.request, self.request.form
        return Saying(
            self.question.family,
            ids,
            self._config,
            self._sampling,
            self._limit,
            may_break=may_break,
            stop=request.stop,
            logprobs=request.logprobs,
            guide=None if form is None or form.choices else self._engine.guides.of(form, stops_of(self._config)),
        )

    def settle(self, saying: Saying, places: tuple[int, ...], reuse: Reuse | None) -> None:
        """Held by the caller, before the first token: of choices one is taken, the most probable or a drawn one."""
        if self.request.form is None or not self.request.form.choices or saying.text is not None:
            return
        choices, tokenizer = self.request.form.choices, self.question.family.tokenizer
        ids = [tokenizer(choice, add_special_tokens=False).input_ids for choice in choices]
        edits = [edit for edit in self.proof.edits if not is_look(edit)]
        found = log_probabilities(self.question, ids, saying.stops, edits, places, reuse)
        logprobs = torch.tensor([[logprob for logprob, _ in found]])  # (1, choices)
        probabilities = logprobs.double().softmax(-1)[0].tolist()
        self.choices = dict(zip(choices, probabilities, strict=True))
        taken = int(self._sampling.chooser(self._config)(torch.zeros(1, 0, dtype=torch.int64), logprobs))
        saying.text = choices[taken]
        saying.guide = Script([*ids[taken], found[taken][1]])

    def record(self, saying: Saying, norms: NDArray[np.float32], tape: Tape) -> Record:
        """Held by the caller: what is left of an answer of at least a token, once every edit is proven; one that did not end says that it was interrupted.

        Raises
        ------
        NoEffect
            If an edit changed no logit.
        """
        assert saying.first is not None
        question, ids = self.question, [token.id for token in saying.tokens]
        history, parts = said_in(self.request.prompt)
        self.proof.check(saying.first, ids)
        return Record(
            text=question.family.text(ids) if saying.text is None else saying.text,
            tokens=saying.said(),
            images=self.request.prompt.images,
            token_map=question.token_map.with_answer(len(ids)),
            parts=parts,
            history=history,
            notes=self._notes(saying),
            model=self._engine.name,
            norms=norms[: len(question.token_map) + len(ids) - 1],
            tape=tape,
            edits=self.proof.labels,
            options=vars(question.prepared.options),
            head_sets=self._engine.head_sets,
            choices=self.choices,
            frames=[picture.frame for picture in self.request.prompt.pictures],
            asked=how_asked(self.request, self._sampling),
        )

    def _notes(self, saying: Saying) -> list[str]:
        pictures = enumerate(self.request.prompt.pictures, 1)
        notes = [f"picture {k}: {note}" for k, picture in pictures for note in picture.notes]
        notes += [*self._pictures_named(), *self.question.prepared.notes, *self.question.family.notes]
        if saying.broken_at is not None:
            notes.append(f"the logits are no numbers (NaN) from token {saying.broken_at} on: the edits broke the model")
        count = len(saying.tokens)
        if not saying.has_ended:
            notes.append(f"the answer was interrupted after {count} token{'s' * (count > 1)}")
        elif saying.stopped_at is not None:
            notes.append(f"the answer ended before {saying.stopped_at!r}")
        elif not saying.tokens[-1].stop:
            notes.append(f"the answer was cut at {count} tokens; max_new_tokens sets the limit")
        return notes

    def _pictures_named(self) -> Iterator[str]:
        """A sentence where the question names pictures that were not given, and where there are more than the model knows."""
        prompt, most = self.request.prompt, self.question.family.trained_pictures
        count = len(prompt.pictures)
        missing = [
            k for k in pictures_named(part for part in prompt.parts if isinstance(part, str)) if not 0 < k <= count
        ]
        if missing:
            names = " and ".join(f"image {k}" for k in missing)
            given = (
                "no picture was" if not count else "only 1 picture was" if count == 1 else f"only {count} pictures were"
            )
            yield f"the question names {names}, but {given} given: what the answer says of it rests on something else"
        if most is not None and count > most:
            yield f"{count} pictures were given; this model was trained with at most {most} in a prompt"
