"""The service's routes: OpenAI's chat completions over one worker. Knows HTTP, and of a model only the session's contract."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .. import __version__
from ..answer import Answer
from ..prompt import Prompt
from ..session import Session
from .completions import Body, Completion, Pieces, finish_reason, prompt_of, scores
from .doors import Doors, client_of
from .failures import Refused, body, refusal_of
from .figures import Figures
from .worker import Job, Worker

log = logging.getLogger("vila_lab.serve")
POLL = 0.1  # seconds between two looks whether a client is still there
GRACE = 10.0  # seconds that a running question has after the server is told to end


def create_app(
    lab: Session,
    tokens: dict[str, str],
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    fetch: Callable[[str], bytes] | None = None,
) -> FastAPI:
    """The service around a session.

    Parameters
    ----------
    lab
        A resident model; nobody else's while it serves.
    tokens
        Bearer tokens, by the name of who has it.
    hosts
        Names under which the server may be asked.
    fetch
        Gives the pictures of other servers; None to read none.
    """
    worker, figures = Worker(), Figures()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close, GRACE)

    app = FastAPI(title="vila_lab", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Doors, tokens=tokens, hosts=hosts)
    app.state.worker = worker
    known = tuple(each.name for each in fields(lab.family.options))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """A question can be answered."""
        if not lab.is_loaded:
            raise Refused(503, "the model is not loaded")
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        figures.look(worker, lab)
        return PlainTextResponse(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is resident."""
        return {"object": "list", "data": [{"id": lab.name, "object": "model", "created": 0, "owned_by": "vila_lab"}]}

    @app.post("/v1/chat/completions")
    async def completions(asked: Body, request: Request) -> Any:
        """Answer a conversation with pictures, at once or as it comes."""
        prompt = await asyncio.to_thread(prompt_of, asked.messages, fetch)
        question = Question(lab, prompt, asked, known, figures)
        job = worker.submit(client_of(request.scope), question.answer, question.fail)
        if asked.stream:
            first = await question.next()  # what is wrong with the question still has a status of its own
            return StreamingResponse(question.chunks(first, job), media_type="text/event-stream")
        return JSONResponse(await question.whole(job, request.is_disconnected))

    for error in (Refused, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _answer_error)
    return app


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse(body(400, f"{where or 'the body'}: {first['msg']}"), 400)
    if isinstance(error, HTTPException):
        return JSONResponse(body(error.status_code, str(error.detail)), error.status_code, error.headers)
    refused = refusal_of(error)
    return JSONResponse(body(refused.status, refused.message), refused.status, refused.headers)


class Question:
    """One request: worked on in the worker's thread, waited for in the event loop."""

    def __init__(self, lab: Session, prompt: Prompt, asked: Body, known: tuple[str, ...], figures: Figures) -> None:
        self._lab, self._prompt, self._asked = lab, prompt, asked
        self._options = asked.options(known)
        self._timer = figures.timer()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._completion = Completion(lab.name)
        self._answers: list[Answer] = []
        self._cached = 0

    # -- in the worker's thread ----------------------------------------------------------------------------------------

    def answer(self, job: Job) -> None:
        """Answer, and tell each token as it comes."""
        self._timer.begins()
        for number, options in enumerate(self._options):
            stream = self._lab.stream(self._prompt, **options)
            job.follow(stream)
            pieces = Pieces(self._asked.stop)
            for token in stream:
                self._timer.token()
                self._tell("piece", (number, pieces.add(token.text), token))
            if job.is_cancelled:
                self._timer.ends("abort")
                return
            self._cached = max(self._cached, stream.reused) if number == 0 else self._cached
            self._answers.append(stream.answer)
            self._tell("answer", (number, pieces.rest(stream.answer.text), stream.answer))
        self._timer.ends("stop")
        self._tell("end", None)

    def fail(self, error: BaseException) -> None:
        """Tell why there is no answer."""
        self._timer.ends("error")
        refused = refusal_of(error)
        if refused.status == 500:
            log.error("a question failed", exc_info=error)
        self._tell("error", refused)

    def _tell(self, kind: str, what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, what))
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.info("an answer came after the server's end")

    # -- in the event loop -----------------------------------------------------------------------------------------------

    async def next(self) -> tuple[str, Any]:
        """The next event.

        Raises
        ------
        Refused
            If there is no answer.
        """
        kind, what = await self._events.get()
        if kind == "error":
            raise what
        return kind, what

    async def whole(self, job: Job, is_gone: Callable[[], Any]) -> dict[str, Any]:
        """The completion, once it is there; a client that goes away stops it."""
        waiting = asyncio.ensure_future(self._end())
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=POLL)
                if not waiting.done() and await is_gone():
                    raise Refused(499, "the client went away")
            waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
            job.cancel()
        return self._completion.whole(self._answers, self._asked.logprobs, self._cached)

    async def _end(self) -> None:
        while (await self.next())[0] != "end":
            pass

    async def chunks(self, first: tuple[str, Any], job: Job) -> AsyncIterator[str]:
        """The completion as it comes, as server-sent events; leaving it stops the model."""
        begun: set[int] = set()
        try:
            kind, what = first
            while kind != "end":
                number, text, about = what
                if number not in begun:
                    begun.add(number)
                    yield _event(self._completion.chunk(number, {"role": "assistant", "content": ""}))
                logprobs = scores([about]) if self._asked.logprobs and kind == "piece" else None
                if text or logprobs:
                    yield _event(self._completion.chunk(number, {"content": text}, None, logprobs))
                if kind == "answer":
                    yield _event(self._completion.chunk(number, {}, finish_reason(about)))
                kind, what = await self.next()
            if self._asked.include_usage:
                yield _event(self._completion.last(self._answers, self._cached))
            yield "data: [DONE]\n\n"
        except Refused as refused:
            yield _event(body(refused.status, refused.message))
        finally:
            job.cancel()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
