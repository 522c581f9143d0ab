"""What a request may ask for beyond OpenAI's words, and how it is sent. Knows answers and parcels, no HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..answer import Answer
from ..engine.record import Record
from ..errors import OptionError
from ..parcels import known_of, pack

RESERVED = ("self", "name", "record", "replay", "from_record")  # what a session gives by itself
MOST = 64  # edits, or experiments, of one request


class Wanted(BaseModel):
    """The field ``vila_lab`` of a request. Its presence alone has the answer kept, to be looked at by its id.

    Attributes
    ----------
    keep
        Keep the answer for `GET /v1/answers/ID` and what lies below it.
    ledger
        Where each token was read: columns and rows of shares.
    heatmaps
        Attention over each picture for every token, in the parcel.
    attention
        Attention averaged over the heads of each layer, (tokens, layers, T), in the parcel.
    experiments
        Experiments on the answer, ``{"name": "attribute", "method": "shapley", "token": 0}``, in the parcel in this order.
    edits
        What acts on the model meanwhile, ``{"edit": "knockout", "edge": "image_2 -> answer", "layers": [4]}``: the names and
        arguments of the session's methods; ``from_answer`` of a patch is an answer's id.
    tokens
        Tell every token with its id, position and alternatives.
    record
        Send the whole record but pictures, queries and keys, in base64.
    alternatives
        How many alternatives of every token are kept, instead of ``top_logprobs``.
    do_sample
        Sample although no temperature is given.
    apply_exif
        Turn pictures as their EXIF data says.
    background
        The colour behind what is transparent in pictures, "white" or "#ffffff".
    goes_on
        Another question of this conversation is to come, so all of its prompt is worth keeping.
    replies
        For every message of the assistant the ids of its tokens, where it is an answer of this model; else null.
    release
        Ids of answers that need not be kept any more.
    """

    model_config = ConfigDict(extra="forbid")

    keep: bool = True
    ledger: bool = False
    heatmaps: bool = False
    attention: bool = False
    experiments: list[dict[str, Any]] = Field(default_factory=list, max_length=MOST)
    edits: list[dict[str, Any]] = Field(default_factory=list, max_length=MOST)
    tokens: bool = False
    record: bool = False
    alternatives: int | None = Field(default=None, ge=0, le=1000)
    do_sample: bool | None = None
    apply_exif: bool = False
    background: str | None = Field(default=None, max_length=100)
    goes_on: bool = False
    replies: list[list[int] | None] | None = None
    release: list[str] = Field(default_factory=list, max_length=10_000)


def told(answer: Answer, wanted: Wanted, name: str, reused: int) -> dict[str, Any]:
    """The field ``vila_lab`` of a response.

    Raises
    ------
    VilaLabError
        If an experiment cannot be done.
    """
    record = answer.record
    found: dict[str, Any] = {
        "answer": name if wanted.keep else None,
        "notes": list(record.notes),
        "layout": layout_of(record),
        "reused": reused,
    }
    if record.choices:
        found["choices"] = record.choices
    if wanted.ledger:
        found["ledger"] = ledger_of(answer)
    if wanted.record:
        found["record"] = base64.b64encode(record.to_bytes(pictures=False, tape=False)).decode()
    parcel: dict[str, Any] = {}
    if wanted.heatmaps:
        parcel["heatmaps"] = heatmaps_of(answer)
    if wanted.attention:
        parcel["attention"] = record.layer_means()
    if wanted.experiments:
        parcel["experiments"] = [_experiment(answer, each) for each in wanted.experiments]
    if parcel:
        found["parcel"] = base64.b64encode(pack(parcel, known_of(record))).decode()
    return found


def layout_of(record: Record) -> list[dict[str, Any]]:
    """What was read, in order: texts, and pictures by their numbers from 1."""

    def parts(listed: Any) -> list[str | dict[str, int]]:
        return [part if isinstance(part, str) else {"picture": part + 1} for part in listed]

    before = [{"role": said.role, "parts": parts(said.parts)} for said in record.history]
    return [*before, {"role": "user", "parts": parts(record.parts)}]


def ledger_of(answer: Answer) -> dict[str, Any]:
    """The ledger as plain values."""
    table = answer.ledger()
    rows = [[float(value) for value in row] for row in table.to_numpy()]
    return {"columns": list(table.columns), "tokens": [token.text for token in answer.tokens], "rows": rows}


def heatmaps_of(answer: Answer) -> list[Any]:
    """Attention over each picture for every token, (tokens, rows, cols) each."""
    import numpy as np

    tokens = range(len(answer.tokens))
    return [np.stack([answer.heatmap(image, token) for token in tokens]) for image in range(len(answer.images))]


def _experiment(answer: Answer, asked: Mapping[str, Any]) -> Any:
    options = dict(asked)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError('an experiment is a table with its name: {"name": "attribute", "method": "shapley"}')
    return run(answer, name, options)


def run(answer: Answer, name: str, options: Mapping[str, Any], answer_of: Callable[[str], Answer] | None = None) -> Any:
    """An experiment on an answer, from options as they were sent.

    Parameters
    ----------
    answer_of
        From an id to an answer of the same owner's, for ``from_answer``; None where none may be named.
    """
    given = dict(options)
    taken = next((each for each in given if each in RESERVED), None)
    if taken is not None:
        raise OptionError(f"{name} has no option {taken!r}")
    if "from_answer" in given:
        if answer_of is None:
            raise OptionError("from_answer names an answer that is kept: POST /v1/answers/ID/experiments/patch_scan")
        given["from_record"] = answer_of(str(given.pop("from_answer"))).record
    return answer.known_or_run(name, **given)
