"""The routes of class mode: joining, one's own standing, exercises, and the teacher's overview. Knows HTTP, and no model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ..teaching.quiz import COURSE
from .classroom import Classroom
from .doors import client_of
from .errand import Errand
from .exercises import Exercises
from .failures import Refused
from .tokens import OWNER
from .worker import Worker


class Joining(BaseModel):
    """Who wants to join, and with which code."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(max_length=100)
    name: str = Field(max_length=400)


class Prediction(BaseModel):
    """What somebody thinks that the model will do: which picture the answer needs most, and whether it survives without it."""

    model_config = ConfigDict(extra="forbid")

    picture: str = Field(pattern=r"^image_[1-9]\d{0,2}$")
    survives: bool


def schooling(classroom: Classroom, exercises: Exercises, worker: Worker, limit: float) -> APIRouter:
    """The routes.

    Parameters
    ----------
    classroom, exercises
    worker
        Whose thread asks the model what the exercises ask.
    limit
        Seconds that one request may take.
    """
    router = APIRouter(prefix="/class", tags=["class"])

    @router.post("/join")
    async def join(asked: Joining) -> dict[str, Any]:
        """Join with the code of the class: it gives a token of one's own. Needs none."""
        owner = classroom.join(asked.code, asked.name)
        return {"name": owner.name, "token": owner.token, "questions_per_hour": owner.questions_per_hour}

    @router.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        """Whose token it is."""
        name = client_of(request.scope)
        return {"name": name, "is_teacher": name == OWNER}

    @router.get("/overview")
    async def overview(request: Request) -> dict[str, Any]:
        """Of every student how many questions, the last one, and points; for the teacher alone, who has the owner's token."""
        if client_of(request.scope) != OWNER:
            raise Refused(403, "the overview is the teacher's, who has the token that the server printed at its start")
        numbers = list(range(1, len(COURSE) + 1))
        return {"code": classroom.code, "exercises": numbers, "students": classroom.overview()}

    @router.get("/exercises")
    async def listed(request: Request) -> dict[str, Any]:
        """What is asked, and of what one did already what came of it."""
        return {"exercises": exercises.listed(client_of(request.scope))}

    @router.post("/exercises/{number}")
    async def revealed(number: int, asked: Prediction, request: Request) -> dict[str, Any]:
        """Predict, once; then see what the model does."""
        owner, picture, survives = client_of(request.scope), asked.picture, asked.survives
        exercises.check(owner, number, picture)
        errand = Errand(worker, owner, lambda: exercises.reveal(owner, number, picture, survives), limit)
        found: dict[str, Any] = await errand.result(request.is_disconnected)
        classroom.scored(owner, number, found["points"])
        return found

    return router
