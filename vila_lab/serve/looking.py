"""Routes below /v1/answers: what is asked of an answer that is kept. Knows HTTP, and of a model only the session's contract."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from ..answer import Answer
from ..engine.record import Record
from ..engine.record_bytes import KEY
from ..errors import FileError, OptionError
from ..parcels import known_of, pack, unpack
from ..session import Session
from ..view.live import live_payload, live_reading
from ..wire import parsing
from .described import FILE, PARCEL, TOLD_PARCEL, text
from .doors import client_of
from .errand import Errand
from .events import EVENTS, Events, event
from .failures import Refused, body
from .kept import Kept
from .reading import MOST_PIXELS
from .wanted import heatmaps_of, ledger_of, run
from .worker import Worker

BYTES = "application/octet-stream"


def looking(lab: Session, worker: Worker, kept: Kept, limit: float) -> APIRouter:
    """The routes.

    Parameters
    ----------
    lab
    worker
        Whose thread alone touches answers: queries and keys may move between devices meanwhile.
    kept
    limit
        Seconds that one request may take.
    """
    router = APIRouter(prefix="/v1/answers", tags=["answers"])

    async def done(request: Request, work: Callable[[], Any]) -> Any:
        errand = Errand(worker, client_of(request.scope), work, limit)
        return await errand.result(request.is_disconnected)

    def mine(request: Request, name: str) -> Answer:
        return kept.get(client_of(request.scope), name)

    @router.get("")
    async def listed(request: Request) -> dict[str, Any]:
        """The answers that are kept for whoever asks, and what bounds them."""
        found = kept.of(client_of(request.scope))
        bounds = {"bytes": kept.most_bytes, "answers": kept.most_each, "seconds": kept.seconds}
        return {"object": "list", "data": found, "bounds": bounds}

    @router.post("")
    async def adopted(request: Request) -> dict[str, str]:
        """Keep an answer of this model that was saved, or kept by another server: the bytes of the file."""
        data, name = await request.body(), Kept.new_id()

        def adopt() -> None:
            kept.add(client_of(request.scope), name, lab.adopt(record_of(data)))

        await done(request, adopt)
        return {"id": name}

    @router.get("/{name}", response_class=Response, responses=PARCEL)
    async def saved(request: Request, name: str, pictures: bool = True) -> Response:
        """The file that `Answer.save` writes."""
        answer = mine(request, name)
        data = await done(request, lambda: answer.record.to_bytes(pictures=pictures))
        return Response(data, media_type=FILE, headers=_as_file(f"{name}.vila"))

    @router.delete("/{name}", status_code=204)
    async def dropped(request: Request, name: str) -> Response:
        """Let go of an answer."""
        if not kept.drop(client_of(request.scope), [name]):
            mine(request, name)  # which says so
        return Response(status_code=204)

    @router.get("/{name}/ledger")
    async def ledger(request: Request, name: str) -> JSONResponse:
        """Where each token was read: shares of attention, one row per token."""
        answer = mine(request, name)
        return JSONResponse(await done(request, lambda: ledger_of(answer)))

    @router.get("/{name}/heatmaps", response_class=Response, responses=PARCEL)
    async def heatmaps(request: Request, name: str) -> Response:
        """Attention over each picture, (tokens, rows, columns), as a parcel."""
        answer = mine(request, name)
        return Response(await done(request, lambda: pack(heatmaps_of(answer))), media_type=FILE)

    @router.get("/{name}/attention", response_class=Response, responses=PARCEL)
    async def attention(request: Request, name: str, layer: int | None = None, head: int | None = None) -> Response:
        """Exact attention weights of the rows that chose the tokens, (token, layer, head, position), as a parcel."""
        answer = mine(request, name)
        return Response(await done(request, lambda: pack(answer.attention(layer, head))), media_type=FILE)

    @router.post("/{name}/experiments/{experiment}", response_class=Response, responses=TOLD_PARCEL)
    async def experiment(request: Request, name: str, experiment: str) -> Response:
        """An experiment by its name: its options as JSON or as a parcel; its result as a parcel, or as events that tell how
        much is done."""
        owner, answer = client_of(request.scope), mine(request, name)
        options = _options(request.headers.get("content-type", ""), await request.body())

        def work() -> bytes:
            result = run(answer, experiment, options, lambda other: kept.get(owner, other))
            return pack(_with_ids(result, answer.record, owner), known_of(answer.record))

        if EVENTS in request.headers.get("accept", ""):
            errand = Errand(worker, owner, work, limit)
            return Events(_told(errand), errand.leave)
        return Response(await done(request, work), media_type=FILE)

    def _with_ids(result: Any, record: Record, owner: str) -> Any:
        """What came of it; another answer that came with it is kept as well."""
        after = getattr(result, "after", None)
        if not isinstance(after, Record):
            return result
        name = Kept.new_id()
        kept.add(owner, name, lab.answer_of(after))
        return {"result": result, "after": name}

    @router.get("/{name}/view")
    async def view(request: Request, name: str) -> JSONResponse:
        """What the viewer draws: attention, and every attribution that was asked for."""
        answer = mine(request, name)
        return JSONResponse(await done(request, lambda: live_payload(answer.record, attributions=answer.attributions)))

    @router.get("/{name}/reading")
    async def reading(
        request: Request, name: str, layer: int | None = None, head: int | None = None, sinks: bool = False
    ) -> JSONResponse:
        """What the viewer draws of one layer or head."""
        answer = mine(request, name)
        return JSONResponse(await done(request, lambda: live_reading(answer.record, layer, head, sinks)))

    @router.get("/{name}/page", response_class=Response, responses=text("text/html", "The page"))
    async def page(request: Request, name: str) -> HTMLResponse:
        """The answer as one self-contained page."""
        answer = mine(request, name)
        whole = await done(request, lambda: answer.display().page_text())
        return HTMLResponse(whole, headers=_as_file(f"{name}.html"))

    return router


def record_of(data: bytes) -> Record:
    """A saved answer from a stranger, refused before its pictures are there if they are too large.

    Raises
    ------
    FileError
        If it is none, or too large.
    """
    with parsing(data, KEY, "answer", "what was sent") as (header, tensors):
        pixels = sum(int(width) * int(height) for width, height in header["sizes"])
        if pixels > MOST_PIXELS:
            raise FileError(f"the answer's pictures have {pixels:,} pixels, and may have {MOST_PIXELS:,} together")
        return Record.restored(header, tensors)


def _as_file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _options(kind: str, data: bytes) -> dict[str, Any]:
    if kind.startswith((BYTES, FILE)):
        options = unpack(data, plain=True)
    else:
        try:
            options = json.loads(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise OptionError("the options of an experiment are a table in JSON, or a parcel") from error
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise OptionError('the options of an experiment are a table: {"method": "shapley", "token": 0}')
    return options


async def _told(errand: Errand) -> AsyncIterator[str]:
    try:
        async for kind, what in errand.events():
            if kind == "progress":
                done, total, unit = what
                yield event({"progress": {"done": done, "total": total, "unit": unit}})
            else:
                yield event({"parcel": base64.b64encode(what).decode()})
    except Refused as refused:
        yield event(body(refused.status, refused.message, refused.kind))
