"""Routes that no single answer has: answers side by side, and methods by their names. Knows HTTP, and of a model only its answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ..attribution import methods
from ..view.compare import side_by_side
from .doors import client_of
from .errand import Errand
from .kept import Kept
from .worker import Worker

MOST = 8  # answers side by side


class Compared(BaseModel):
    """Answers to be shown side by side.

    Attributes
    ----------
    answers
        From a name for it to an answer's id, in the order in which they are shown.
    """

    model_config = ConfigDict(extra="forbid")

    answers: dict[str, str] = Field(min_length=2, max_length=MOST)


def comparing(worker: Worker, kept: Kept, limit: float) -> APIRouter:
    """The routes.

    Parameters
    ----------
    worker, kept, limit
        As `vila_lab.serve.looking.looking` takes them.
    """
    router = APIRouter(prefix="/v1", tags=["answers"])

    @router.get("/methods")
    async def listed() -> dict[str, Any]:
        """Methods of attribution: what each measures, and what it costs."""
        return {"object": "list", "data": described()}

    @router.post("/compare")
    async def compared(asked: Compared, request: Request) -> JSONResponse:
        """What the viewer draws of several answers side by side, and in words what differs."""
        owner = client_of(request.scope)
        answers = {label: kept.get(owner, name) for label, name in asked.answers.items()}
        errand = Errand(worker, owner, lambda: side_by_side(list(answers.values()), list(answers)).payload, limit)
        return JSONResponse(await errand.result(request.is_disconnected))

    return router


def described() -> list[dict[str, Any]]:
    """Every method as plain values.

    >>> described()[7]["name"], described()[7]["signed"]
    ('leave_one_out', True)
    """
    table = methods().reset_index().rename(columns={"method": "name"})
    return [
        {name: value if isinstance(value, str) else bool(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]
