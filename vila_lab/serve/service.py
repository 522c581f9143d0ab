"""Completions: from a request in OpenAI's words to its response. Knows HTTP's requests, and of a model only the session's contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from fastapi import Request
from fastapi.responses import JSONResponse

from ..engine import request as engine
from ..errors import OptionError
from ..prompt import Prompt
from ..session import Session
from ..tokens import Token
from .completions import LEAST, Body, Completion, finish_reason, scores
from .doors import client_of
from .errand import attended
from .events import Events, event
from .failures import Busy, Refused, body
from .figures import Figures
from .kept import Kept
from .memo import Memo
from .question import Heard, Listener, Question
from .reading import Bounds, Fetch, prompt_of
from .wanted import Wanted
from .worker import Worker

READERS = 2  # threads that decode pictures
HELD = 2 * 2**30  # bytes of pictures of all questions that wait, at most


class Service:
    """Completions: from a request to its response.

    Parameters
    ----------
    lab, worker, figures, kept, fetch, memo, limit
        See `create_app`.
    heard
        Told whose question was answered, and how.
    """

    def __init__(
        self,
        lab: Session,
        worker: Worker,
        figures: Figures,
        kept: Kept,
        fetch: Fetch | None,
        memo: Memo,
        limit: float,
        heard: Heard | None = None,
    ) -> None:
        self._lab, self._worker, self._figures, self._kept = lab, worker, figures, kept
        self._heard = heard
        self._memo = memo
        self._fetch, self._limit = fetch, limit
        self._bounds = Bounds(lab.family.context_length)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="vila_lab reader")
        self._waited_for: WeakSet[Question] = WeakSet()
        self._known = tuple(each.name for each in fields(lab.family.options))
        self._open: WeakValueDictionary[Any, Question] = WeakValueDictionary()  # by what equal questions have in common
        self._running: WeakValueDictionary[tuple[str, str], Question] = WeakValueDictionary()  # by owner and answer

    def close(self) -> None:
        """Read no more pictures."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def completion(self, asked: Body, request: Request) -> Any:
        """The response to a request."""
        owner, wanted = client_of(request.scope), asked.vila_lab
        names = [Kept.new_id() for _ in range(asked.n)]
        listener = Listener(owner, wanted, names, self._figures.timer(), streams=asked.stream)
        if wanted is not None:
            self._kept.drop(owner, wanted.release)
        self._worker.check_room(owner)
        reading = asyncio.get_running_loop().run_in_executor(self._readers, self._requests, asked, owner)
        requests = await reading
        question = self._ask(listener, requests, may_share=not asked.stream)  # a stream may be stopped
        for name in names:
            self._running[owner, name] = question
        completion = Completion(self._lab.name, names[0])
        try:
            if asked.stream:
                # What is wrong with the question still has a status of its own.
                first = await attended(listener.next(), request.is_disconnected)
                chunks = _chunks(first, listener, completion, asked)
                return Events(chunks, partial(question.leave, listener))
            found = await attended(_answers(listener), request.is_disconnected)
        except BaseException:
            question.leave(listener)
            raise
        answers, cached, more = [each[0] for each in found], found[0][1], [each[2] for each in found]
        shown = None if wanted is None else more
        return JSONResponse(completion.whole(answers, asked.logprobs, cached, shown))

    def stop(self, owner: str, name: str) -> None:
        """Have an answer under way end with what was said; one that has ended already is not touched.

        Raises
        ------
        Refused
            If there is no such answer.
        """
        question = self._running.get((owner, name))
        if question is None:
            self._kept.get(owner, name)  # which says so
        else:
            question.stop()

    def _requests(self, asked: Body, owner: str) -> list[engine.Request]:
        """What is asked, once for every answer; outside the event loop, as pictures are read here."""
        lab, wanted = self._lab, asked.vila_lab or Wanted()
        options = lab.options_of(asked.options(self._known))
        edits = tuple(lab.spec_of(*self._edit(each, owner)) for each in wanted.edits)
        samplings, limits = asked.samplings(), asked.limits()
        prompt = prompt_of(
            asked.messages, self._bounds, self._fetch, apply_exif=wanted.apply_exif, background=wanted.background
        )
        prompt = lab.shared(replace(_with_replies(prompt, wanted.replies, self._said), goes_on=wanted.goes_on))
        return [engine.Request(prompt, options, each, edits=edits, **limits) for each in samplings]

    def _edit(self, told: Mapping[str, Any], owner: str) -> tuple[str, dict[str, Any]]:
        """An edit's name and arguments, an answer's id among them made the answer."""
        typed = dict(told)
        name = typed.pop("edit", None)
        if not isinstance(name, str):
            raise OptionError('an edit is a table with its name: {"edit": "knockout", "edge": "image_2 -> answer"}')
        if "from_answer" in typed:
            typed["from_answer"] = self._kept.get(owner, str(typed["from_answer"]))
        return name, typed

    def _said(self, ids: Sequence[int]) -> str:
        """The words of tokens that a client says were said."""
        size = int(self._lab.model.get_input_embeddings().weight.shape[0])
        if any(not 0 <= each < size for each in ids):
            raise OptionError(f"replies hold the ids of tokens, from 0 to {size - 1}")
        return self._lab.family.text(list(ids))

    def _ask(self, listener: Listener, requests: Sequence[engine.Request], *, may_share: bool) -> Question:
        """Have a question answered, or listen to an equal one that is being answered."""
        question = Question(self._lab, requests, self._kept, self._memo, self._heard)
        key = question.key if may_share else None
        found = self._open.get(key) if key is not None else None
        if found is not None and found.join(listener):
            return found
        if sum(each.nbytes for each in self._waited_for) + question.nbytes > HELD:
            raise Busy("the pictures of the questions that wait take too much memory; ask again later", 2)
        self._waited_for.add(question)
        question.join(listener)
        alike = question if question.may_stand_beside_others else None
        question.job = self._worker.submit(listener.owner, question.answer, question.fail, self._limit, alike)
        if key is not None:
            self._open[key] = question
        return question


def _with_replies(
    prompt: Prompt, replies: Sequence[Sequence[int] | None] | None, said: Callable[[Sequence[int]], str]
) -> Prompt:
    """The conversation with the tokens that the model itself said in it.

    Raises
    ------
    OptionError
        If they are not those of the text.
    """
    if replies is None:
        return prompt
    spoken = [turn for turn in prompt.history if turn.role == "assistant"]
    if len(spoken) != len(replies):
        raise OptionError(f"replies are one for every message of the assistant: {len(spoken)}, not {len(replies)}")
    for turn, ids in zip(spoken, replies, strict=True):
        if ids is not None and said(ids) != "".join(part for part in turn.parts if isinstance(part, str)):
            raise OptionError("replies hold the ids of other words than the message's; leave them out")
    given = iter([tuple(ids or ()) for ids in replies])
    history = tuple(replace(turn, ids=next(given)) if turn.role == "assistant" else turn for turn in prompt.history)
    return replace(prompt, history=history)


async def _answers(listener: Listener) -> list[tuple[Any, int, Any]]:
    """Of each answer itself, how much of its prompt was known, and what else is told of it."""
    return [(what[2], what[3], what[4]) async for kind, what in listener.events() if kind == "answer"]


async def _chunks(
    first: tuple[str, Any], listener: Listener, completion: Completion, asked: Body
) -> AsyncIterator[str]:
    """The completion as it comes, as server-sent events."""
    begun: set[int] = set()
    answers, cached = [], 0
    wanted = asked.vila_lab
    try:
        kind, what = first
        while kind != "end":
            number, text, about = what[:3]
            if number not in begun:
                begun.add(number)
                name = {"answer": listener.names[number]} if wanted is not None else None
                yield event(completion.chunk(number, {"role": "assistant", "content": ""}, more=name))
            is_piece = kind == "piece"
            logprobs = scores([about]) if asked.logprobs and is_piece else None
            whole = {"token": _token(about)} if wanted is not None and wanted.tokens and is_piece else None
            if text or logprobs or whole:
                yield event(completion.chunk(number, {"content": text}, None, logprobs, whole))
            if not is_piece:
                answers.append(about)
                cached = what[3] if number == 0 else cached
                yield event(completion.chunk(number, {}, finish_reason(about), more=what[4]))
            kind, what = await listener.next()
        if asked.include_usage:
            yield event(completion.last(answers, cached))
        yield "data: [DONE]\n\n"
    except Refused as refused:
        yield event(body(refused.status, refused.message, refused.kind))


def _token(token: Token) -> dict[str, Any]:
    """A token whole, in numbers that JSON has."""
    others = [(text, number, max(logprob, LEAST)) for text, number, logprob in token.alternatives]
    return {**vars(token), "logprob": max(token.logprob, LEAST), "alternatives": others}
