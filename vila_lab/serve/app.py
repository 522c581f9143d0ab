"""The service's routes: OpenAI's chat completions over one worker. Knows HTTP, and of a model only the session's contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .. import __version__
from ..parcels import pack
from ..session import Session
from .classroom import Classroom
from .comparing import comparing
from .completions import Body
from .described import COMPLETION, FILE, PARCEL, REFUSED, text
from .doors import Doors, client_of
from .exercises import Exercises
from .failures import Refused, body, refusal_of
from .figures import Figures
from .kept import Kept
from .looking import looking
from .memo import Memo
from .page import paging
from .reading import Fetch
from .schooling import schooling
from .service import Service
from .settings import TIME_LIMIT
from .together import Together
from .tokens import Owner, Owners, owners_of
from .worker import Worker

GRACE = 10.0  # seconds that a running question has after the server is told to end
ABOUT = """One resident model, many clients: OpenAI's chat completions with several pictures, and what is asked of an answer: where
each of its tokens was read, and any experiment by its name. Every path below /v1 and /metrics needs `Authorization: Bearer TOKEN`."""


def create_app(
    lab: Session,
    tokens: Owners | Mapping[str, str] | Iterable[Owner],
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    fetch: Fetch | None = None,
    *,
    time_limit: float = TIME_LIMIT,
    batch: int = 1,
    classroom: bool = False,
) -> FastAPI:
    """The service around a session.

    Parameters
    ----------
    lab
        A resident model; nobody else's while it serves.
    tokens
        Bearer tokens, by the name of who has it; or owners with quotas.
    hosts
        Names under which the server may be asked.
    fetch
        Gives the pictures of other servers; None to read none.
    time_limit
        Seconds that one request may take.
    batch
        How many questions are answered side by side; beyond 1 an answer is what it is alone to the rounding of a batch.
    classroom
        Whether students may join with a code; see `vila_lab.serve.classroom`.
    """
    memo, figures, kept, owners = Memo(lab.engine), Figures(), Kept(), owners_of(tokens)
    worker = Worker(batch, Together(lab.engine, memo, batch) if batch > 1 else None)
    room = Classroom(owners) if classroom else None
    service = Service(lab, worker, figures, kept, fetch, memo, time_limit, room.heard if room else None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close, GRACE)
        service.close()

    app = FastAPI(
        title="vila_lab",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=REFUSED,
    )
    app.add_middleware(Doors, tokens=owners, hosts=hosts)
    app.state.worker, app.state.kept, app.state.owners, app.state.classroom = worker, kept, owners, room

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """A question can be answered."""
        if not (lab.is_loaded and worker.is_open):
            raise Refused(503, "the model is not there, or not any more", {"Retry-After": "10"})
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses=text("text/plain", "Figures"))
    async def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        figures.look(worker, lab, kept.nbytes)
        return PlainTextResponse(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is resident."""
        return {"object": "list", "data": [{"id": lab.name, "object": "model", "created": 0, "owned_by": "vila_lab"}]}

    @app.get("/v1/lab", response_class=Response, responses=PARCEL)
    async def described() -> Response:
        """What `vila_lab.connect` must know of the model, as a parcel."""
        return Response(pack(description(lab)), media_type=FILE)

    @app.post("/v1/chat/completions", responses=COMPLETION)
    async def completions(asked: Body, request: Request) -> Any:
        """Answer a conversation with pictures, at once or as it comes."""
        return await service.completion(asked, request)

    @app.post("/v1/answers/{name}/stop", status_code=204)
    async def stop(name: str, request: Request) -> Response:
        """Have an answer end here, with what was said."""
        service.stop(client_of(request.scope), name)
        return Response(status_code=204)

    app.include_router(looking(lab, worker, kept, time_limit))
    app.include_router(comparing(worker, kept, time_limit))
    app.include_router(paging(lab.name, classroom=classroom))
    if room is not None:
        app.include_router(schooling(room, Exercises(lab), worker, time_limit))
    for error in (Refused, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _answer_error)
    return app


def description(lab: Session) -> dict[str, Any]:
    """The model, as one who is not in its process must know it."""
    shape = lab.shape
    return {
        "name": lab.name,
        "version": __version__,
        "layers": shape.layers,
        "heads": shape.heads,
        "head_sets": {name: [list(pair) for pair in pairs] for name, pairs in lab.head_sets.items()},
        "options": [each.name for each in fields(lab.family.options)],
        "first_reading": dict(lab.first_reading),
        "context_length": lab.family.context_length,
        "cross_modal_layers": lab.layer_table("text"),
        "vision_layers": lab.layer_table("vision"),
    }


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse(body(400, f"{where or 'the body'}: {first['msg']}"), 400)
    if isinstance(error, HTTPException):
        return JSONResponse(body(error.status_code, str(error.detail)), error.status_code, error.headers)
    refused = refusal_of(error)
    return JSONResponse(body(refused.status, refused.message, refused.kind), refused.status, refused.headers)
