"""Engine: the only place where a loaded model answers questions. Knows a family, and no reader of its answers."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ContextTooLong, OptionError
from ..families.base import Family, Prepared
from ..interrupts import check_finished, keeps_gradients
from ..prompt import Picture, Prompt
from ..tokens import Token
from .generation import Generation
from .inputs import Inputs
from .lock import ModelLock
from .proof import CleanLogits, Proof
from .question import Question
from .record import HeadSets, Record
from .request import Request

DEFAULT_NEW_TOKENS = 256


class Engine:
    """A loaded model that answers requests.

    Parameters
    ----------
    family
        The loaded model.
    name
        What records call it.
    head_sets
        (layer, head) pairs by the name that ``heads=`` may give.

    Attributes
    ----------
    lock : ModelLock
        Held while the model works.
    head_sets : dict
        They may be added to at any time.
    clean : CleanLogits
        What is known of the last prompts without edits.

    Examples
    --------
    >>> import vila_lab
    >>> from vila_lab.engine.request import Request
    >>> from vila_lab.prompt import Prompt
    >>> engine, folder = vila_lab.load().engine, vila_lab.demo_images()
    >>> request = Request(Prompt.of([folder / "g.png", folder / "m.png", "What is in image 2?"]))
    >>> [token.text for token in engine.run(request)]
    ['Microsoft', '.', '']
    >>> engine.answer(request).text
    'Microsoft.'
    """

    def __init__(self, family: Family, name: str, head_sets: HeadSets | None = None) -> None:
        self.family = family
        self.name = name
        self.lock = ModelLock()
        self.head_sets: dict[str, Sequence[tuple[int, int]]] = dict(head_sets or {})
        self.clean = CleanLogits()
        self._inputs: weakref.WeakKeyDictionary[Record, Inputs] = weakref.WeakKeyDictionary()

    def run(self, request: Request) -> Generator[Token, None, Record]:
        """Answer a request: its tokens as they come, and its record as the generator's return value.

        The model is held for a token at a time, so several questions may be under way, each unaware of the others; a run that
        is closed, or let go of, stops there and leaves nothing behind.

        Raises
        ------
        ContextTooLong
            If prompt and answer do not fit, before anything is computed.
        NoEffect
            If an edit means nothing for this prompt, or changed no logit.
        NotANumber
            If the model's logits are NaN and no edit is there to blame.
        """
        answering = self._begin(request)
        while not answering.generation.has_ended:
            yield self._step(answering.generation)
        return self._end(answering)

    def answer(self, request: Request) -> Record:
        """`run` to its end, the model held throughout: nobody else's tokens come between, and hooks are put in once."""
        answering = self._begin(request)
        self._steps(answering.generation)
        return self._end(answering)

    def inputs(self, record: Record) -> Inputs:
        """What is kept of a record's question for its next experiment."""
        return self._inputs.setdefault(record, Inputs())

    def check_own(self, record: Record) -> None:
        """Refuse the record of another model.

        Raises
        ------
        OptionError
            If this one would cut or write its prompt otherwise, or reads other words from its tokens.
        """
        options = self.family.options_of(record.options)
        with self.lock:
            mine = self.family.prepare(record.prompt, options).token_map.with_answer(len(record.tokens))
        is_same_prompt = mine.same_positions(record.token_map) and mine.text == record.token_map.text
        if not is_same_prompt or self.family.text([token.id for token in record.tokens]) != record.text:
            raise OptionError(
                f"this answer is of another model: {record.model} gave it, and {self.name} reads its prompt or its words otherwise"
            )

    # -- one answer --------------------------------------------------------------------------------------------------

    @keeps_gradients
    def _begin(self, request: Request) -> _Answering:
        with self._turn():
            prepared = self.family.prepare(request.prompt, request.options)
            limit = self._room(prepared, request.max_new_tokens)
            config = self.family.generation_config(prepared.options)
            config.max_length = len(prepared.token_map) + limit
            question = Question(self.family, prepared)
            proof = Proof(question, request.edits, self.clean)
            may_break = bool(proof.labels) and not request.sampling.do_sample  # drawing from NaN is impossible
            generation = Generation(question, config, request.sampling, limit, proof.edits, may_break=may_break)
        return _Answering(request, question, proof, generation)

    @keeps_gradients
    def _step(self, generation: Generation) -> Token:
        with self._turn(), generation.in_the_model():
            return generation.step()

    @keeps_gradients
    def _steps(self, generation: Generation) -> None:
        with self._turn(), generation.in_the_model():
            while not generation.has_ended:
                generation.step()

    @keeps_gradients
    def _end(self, answering: _Answering) -> Record:
        with self._turn():
            return answering.record(self.name, self.head_sets)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self.lock:
            check_finished(self.family.model, "the model")
            yield

    def _room(self, prepared: Prepared, wanted: int | None) -> int:
        """How many tokens the answer may have."""
        token_map = prepared.token_map
        room = self.family.context_length - len(token_map)
        if room < (wanted or 1):
            raise ContextTooLong(
                f"the prompt has {len(token_map)} positions ({len(token_map.positions('images'))} of them for {token_map.n_pictures} pictures) and the answer "
                f"needs {wanted or 1}, but {self.name} holds {self.family.context_length}: give fewer pictures or a lower max_new_tokens"
            )
        return wanted or min(DEFAULT_NEW_TOKENS, room)


@dataclass(frozen=True)
class _Answering:
    """A request under way."""

    request: Request
    question: Question
    proof: Proof
    generation: Generation

    def record(self, model: str, head_sets: HeadSets) -> Record:
        """What is left of it, once every edit is proven."""
        generation, prompt = self.generation, self.request.prompt
        ids = [token.id for token in generation.tokens]
        assert generation.first is not None
        self.proof.check(generation.first, ids)
        return Record(
            text=self.question.family.text(ids),
            tokens=generation.tokens,
            images=prompt.images,
            token_map=self.question.token_map.with_answer(len(ids)),
            parts=_parts(prompt),
            notes=self._notes(),
            model=model,
            norms=generation.norms.values(),
            tape=generation.tape(),
            edits=self.proof.labels,
            options=vars(self.question.prepared.options),
            head_sets=head_sets,
        )

    def _notes(self) -> list[str]:
        generation, pictures = self.generation, self.request.prompt.pictures
        notes = [f"picture {k}: {note}" for k, picture in enumerate(pictures, 1) for note in picture.notes]
        if generation.broken_at is not None:
            notes.append(
                f"the logits are no numbers (NaN) from token {generation.broken_at} on: the edits broke the model"
            )
        if not generation.tokens[-1].stop:
            notes.append(f"the answer was cut at {len(generation.tokens)} tokens; max_new_tokens sets the limit")
        return notes


def _parts(prompt: Prompt) -> list[str | int]:
    """The prompt as asked: texts, and where a picture stood its index."""
    parts: list[str | int] = []
    for part in prompt.parts:
        parts.append(sum(isinstance(p, int) for p in parts) if isinstance(part, Picture) else part)
    return parts
