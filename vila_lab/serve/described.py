"""What the routes answer, for /openapi.json: refusals in OpenAI's form, completions, parcels. Knows shapes alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from .events import EVENTS

FILE = "application/vnd.safetensors"


class Told(BaseModel):
    """Why a request is refused."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None
    code: int


class Problem(BaseModel):
    """A refusal in OpenAI's form; ``vila_lab`` beside its own fields is the name of the error, where it is one of vila_lab's."""

    error: Told


REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused: what is wrong, and the way out"},
    "5XX": {"model": Problem, "description": "Nothing that the client can mend"},
}

_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string", "description": "also the answer's id below /v1/answers, where it is kept"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message", "finish_reason"]}},
        "usage": {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"]},
    },
}

_EVENTS = {"schema": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}}

COMPLETION: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion; with `stream` its chunks as events",
        "content": {"application/json": {"schema": _COMPLETION}, EVENTS: _EVENTS},
    }
}

PARCEL: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A safetensors file, which `vila_lab.parcels.unpack` reads",
        "content": {FILE: {"schema": {"type": "string", "format": "binary"}}},
    }
}

TOLD_PARCEL: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result as a parcel; where events are accepted how much is done, and the parcel in base64",
        "content": {**PARCEL[200]["content"], EVENTS: _EVENTS},
    }
}


def text(kind: str, what: str) -> dict[int | str, dict[str, Any]]:
    """A response that is text of a kind."""
    return {200: {"description": what, "content": {kind: {"schema": {"type": "string"}}}}}
