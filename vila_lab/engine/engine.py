"""Engine: the only place where a loaded model answers questions. Knows a family, and no reader of its answers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from ..errors import ContextTooLong, OptionError, OutOfMemory, VilaLabError
from ..families.base import Family, Prepared
from ..hooks.call import is_acted_on
from ..interrupts import check_finished, keeps_gradients
from ..progress import progress
from ..tokens import Token
from ..upstream import foreign_hooks, is_out_of_memory, keeps_everything, state_of
from .answering import Answering
from .asked import Asked
from .band import Band
from .batch import Told, answer_batch, can_batch
from .guide import Guides
from .inputs import Inputs
from .lock import ModelLock
from .proof import CleanLogits
from .record import HeadSets, Record
from .request import Request
from .reuse import Reuse

DEFAULT_NEW_TOKENS = 256
BATCH = 16  # questions side by side, at most, where nobody says how many
PACKAGE = __name__.partition(".")[0]

T = TypeVar("T")


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
        Held while the model works; who asks something of it begins with `check`.
    head_sets : dict
        They may be added to at any time.
    clean : CleanLogits
        What is known of the last prompts without edits.
    reuse : Reuse
        Features of pictures and beginnings of prompts, to be asked for by `usable`.
    band : Band or None
        Where answers are redirected; `Session.find_band` finds it.
    is_alone : bool
        Whether nobody else's hooks were in the model when `usable` looked last, which every answer does.

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
        self.band: Band | None = None
        self.clean = CleanLogits()
        self.reuse = Reuse()
        self.is_alone = True
        self._state: tuple[Any, ...] = ()
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
        answering = Answering(self, request)
        while not answering.has_ended:
            yield answering.step()
        return answering.record()

    def answer(self, request: Request) -> Record:
        """`run` to its end, the model held throughout: nobody else's tokens come between, and hooks are put in once."""
        with progress(None, "tokens", "answering") as count:
            answering = Answering(self, request)
            count.follow(lambda: len(answering.tokens))
            answering.rest()
            return answering.record()

    def run_many(
        self, requests: Sequence[Request], batch_size: int | None = None, told: Told | None = None
    ) -> Generator[Record | VilaLabError, None, None]:
        """Answer requests side by side: for each, in order, its record, or why it has none.

        Those under edits, and all while somebody's hooks are in the model, are answered one by one.

        Parameters
        ----------
        batch_size
            How many stand side by side; by default as many as there is memory for, and at most `BATCH`.
        told
            Called with a request's number and each of its tokens as it comes; see `vila_lab.engine.batch.answer_batch`.
        """
        size, place = batch_size or BATCH, 0
        while place < len(requests):
            some = requests[place : place + size]
            try:
                yield from self._together(some, None if told is None else partial(_behind, told, place))
            except OutOfMemory:
                if batch_size is not None or len(some) == 1:
                    raise
                size = max(1, len(some) // 2)
                continue
            place += len(some)

    @keeps_gradients
    def _together(self, requests: Sequence[Request], told: Told | None) -> list[Record | VilaLabError]:
        """The records of one batch."""
        found: dict[int, Record | VilaLabError] = {}
        ready: dict[int, Asked] = {}
        for number, request in enumerate(requests):
            try:
                ready[number] = self.with_room(partial(self.asked, request))
            except OutOfMemory:
                raise
            except VilaLabError as error:
                found[number] = error
        found |= self.with_room(lambda: self._batch(ready, told))
        for number, request in enumerate(requests):
            if number not in found:
                found[number] = self._alone(request, None if told is None else partial(told, number))
        return [found[number] for number in range(len(requests))]

    def _batch(self, ready: dict[int, Asked], told: Told | None) -> dict[int, Record | VilaLabError]:
        """The records of those that can stand side by side, if there is more than one."""
        with self.lock:
            self.check()
            reuse = self.usable()
            if reuse is None or not keeps_everything(self.family.new_cache()):
                return {}
            for asked in ready.values():
                asked.question.known = reuse
            batch = {number: asked for number, asked in ready.items() if can_batch(asked)}
            if len(batch) < 2:
                return {}
            numbers = list(batch)
            mine = None if told is None else lambda place, token: told(numbers[place], token)
            return dict(zip(batch, answer_batch(self.family, list(batch.values()), reuse, mine), strict=True))

    def _alone(self, request: Request, told: Callable[[Token], None] | None) -> Record | VilaLabError:
        try:
            answering = Answering(self, request)
            answering.rest(told)
            return answering.record()
        except OutOfMemory:
            raise
        except VilaLabError as error:
            return error

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
        spelled = "".join(token.text for token in record.tokens).strip()  # a stop text is no part of the answer's text
        if not is_same_prompt or self.family.text([token.id for token in record.tokens]) not in (record.text, spelled):
            raise OptionError(
                f"this answer is of another model: {record.model} gave it, and {self.name} reads its prompt or its words otherwise"
            )

    def forget(self) -> None:
        """Let go of everything that can be computed again; not from inside a question."""
        with self.lock:
            self.reuse.clear()
            self.clean.clear()
            for inputs in list(self._inputs.values()):
                inputs.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def with_room(self, work: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """Do something; where memory runs out, `forget` and try once more, by `again` if that is something else.

        Raises
        ------
        OutOfMemory
            If there is no room then either.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self.forget()  # here, where the error and its frames are gone: they hold what there was no room for
        try:
            return (again or work)()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:120]
        raise OutOfMemory(
            f"{self.name} has no room for this, also after its caches were dropped ({reason}): ask with fewer or smaller pictures or "
            "fewer tokens, let go of answers, or load it in a smaller type"
        )

    @cached_property
    def guides(self) -> Guides:
        """What keeps answers in a form."""
        head = self.family.model.get_output_embeddings()
        return Guides(self.family.tokenizer, int(head.weight.shape[0]))

    # -- what an answer under way asks of it ---------------------------------------------------------------------------

    def asked(self, request: Request) -> Asked:
        """A request made ready."""
        with self.lock:
            self.check()
            return Asked(self, request)

    def check(self) -> None:
        """Refuse to work with a model in which an interrupt left something behind.

        Raises
        ------
        CaptureError
            With the way out.
        """
        check_finished(self.family.model, "the model")

    @property
    def state(self) -> tuple[Any, ...] | None:
        """Tells the model before from after a change of its weights; None while somebody acts on it: hooks, say."""
        model = self.family.model
        return None if foreign_hooks(model, PACKAGE) or is_acted_on(model) else state_of(model)

    def usable(self) -> Reuse | None:
        """What was computed before; None while somebody else's hooks are in the model, who are to see all that it does, at once.

        What the model computed with other weights is let go of first.
        """
        state = self.state
        self.is_alone = state is not None
        if state is None:
            return None
        if state != self._state:
            self.reuse.clear()
            self._state = state
        return self.reuse

    def room(self, prepared: Prepared, wanted: int | None) -> int:
        """How many tokens an answer may have.

        Raises
        ------
        ContextTooLong
            If prompt and answer do not fit.
        """
        token_map = prepared.token_map
        room = self.family.context_length - len(token_map)
        if room < (wanted or 1):
            raise ContextTooLong(
                f"the prompt has {len(token_map)} positions ({len(token_map.positions('images'))} of them for {token_map.n_pictures} pictures) and the answer "
                f"needs {wanted or 1}, but {self.name} holds {self.family.context_length}: give fewer pictures or a lower max_new_tokens"
            )
        return wanted or min(DEFAULT_NEW_TOKENS, room)


def _behind(told: Told, before: int, number: int, token: Token) -> None:
    told(before + number, token)
