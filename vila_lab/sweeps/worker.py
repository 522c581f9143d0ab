"""Worker: asks a batch of rows, and writes its part. Knows a session, a plan and a store; no order and no other worker."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..answer import Answer
from ..errors import Interrupted, MissingExtra, PromptError, VilaLabError
from ..inputs.decoding import HowRead
from ..inputs.naming import Text
from ..inputs.sources import shorten
from ..picture import Picture
from ..prompt import Prompt
from ..session import Session
from ..video import is_video_name
from .findings import Arrays, Found, findings, kept
from .plan import Plan, asked_of, weights_of
from .row import Row
from .store import Store, table_of

__all__ = ["Done", "Keyed", "Worker", "about"]

WEB = ("http://", "https://")


@dataclass(frozen=True)
class Keyed:
    """A row and its key."""

    key: str
    row: Row


@dataclass(frozen=True)
class Done:
    """What became of a batch: the name of its part, and the errors by their keys."""

    name: str
    errors: Mapping[str, str]
    seconds: float


class Worker:
    """Asks rows with one session.

    Parameters
    ----------
    lab
        The session.
    plan
        What is done with every row.
    store
        Where its parts go.
    """

    def __init__(self, lab: Session, plan: Plan, store: Store) -> None:
        self.lab, self.plan, self.store = lab, plan, store

    def run(self, batch: Sequence[Keyed]) -> Done:
        """Ask a batch and write its part.

        Raises
        ------
        KeyboardInterrupt
            Where it was interrupted; nothing of the batch is written.
        FileAccessError
            If the part cannot be written.
        """
        started = time.perf_counter()
        errors: dict[str, str] = {}
        prompts: dict[str, Prompt] = {}
        for each in batch:
            try:
                prompts[each.key] = prompt_of(each.row, self.plan.reading)
            except VilaLabError as error:
                errors[each.key] = _sentence(error)
        found: dict[str, Found] = {}
        arrays: Arrays = {}
        for key, answer in zip(prompts, self._answers(list(prompts.values())), strict=True):
            try:
                if not isinstance(answer, Answer):
                    raise answer
                found[key] = findings(answer, self.plan.methods)
                if found[key].failed:
                    errors[key] = "; ".join(f"{name}: {_sentence(each)}" for name, each in found[key].failed.items())
                arrays |= {f"{key}/{name}": each for name, each in self._kept(answer, found[key]).items()}
                answer.release()
            except Exception as error:  # whatever a model raises is this question's, and the others go on
                errors[key] = _sentence(error)
        seconds = time.perf_counter() - started
        name = hashlib.sha256("".join(sorted(each.key for each in batch)).encode()).hexdigest()[:20]
        self._write(name, batch, found, errors, arrays, seconds)
        return Done(name, errors, seconds)

    def _kept(self, answer: Answer, found: Found) -> Arrays:
        return kept(answer, found, records=self.plan.records, originals=self.plan.originals)

    def _answers(self, prompts: list[Prompt]) -> Sequence[Answer | Exception]:
        """The answers of a batch; where it fails as a whole each question is asked by itself, so that one can fail alone."""
        if not prompts:
            return []
        try:
            answers = self.lab.ask_many(prompts, errors="keep", **self.plan.options)
        except Exception as error:
            return [error] if len(prompts) == 1 else [each for prompt in prompts for each in self._answers([prompt])]
        if any(isinstance(each, Interrupted) for each in answers):
            raise KeyboardInterrupt
        return [each if isinstance(each, Answer) else _own(each) for each in answers]

    def _write(
        self,
        name: str,
        batch: Sequence[Keyed],
        found: Mapping[str, Found],
        errors: Mapping[str, str],
        arrays: Arrays,
        seconds: float,
    ) -> None:
        at = time.time()
        rows, tokens = [], []
        for each in batch:
            cells = row_cells(each, self.plan) | {
                "part": name,
                "error": errors.get(each.key),
                "at": at,
                "seconds": seconds / len(batch),
            }
            if each.key in found:
                cells |= found[each.key].cells
                tokens += [{"key": each.key, "part": name, **token} for token in found[each.key].tokens]
            rows.append(cells)
        self.store.write(name, table_of(rows), table_of(tokens), arrays)


def about(lab: Session, options: Mapping[str, Any]) -> tuple[str, str]:
    """Name and weights of a session's model, which takes such options of its family.

    Raises
    ------
    OptionError
        If it does not take them.
    """
    lab.options_of(options)
    return lab.name, weights_of(lab.family.model)


def row_cells(each: Keyed, plan: Plan) -> dict[str, Any]:
    """What a row of the store says of its question."""
    row = each.row
    return {
        "key": each.key,
        "id": None if row.id is None else str(row.id),
        "id_is_number": isinstance(row.id, int),
        "row": row.number,
        "run": plan.run,
        "asked": asked_of(row),
        "question": row.question,
        "images": list(row.named),
        "options": list(row.options),
        "expected": row.expected,
        "rests_on": list(row.rests_on),
        "more": json.dumps(dict(row.more), ensure_ascii=False) if row.more else None,
    }


def prompt_of(row: Row, reading: HowRead) -> Prompt:
    """A row's question, its pictures read so.

    Raises
    ------
    PromptError, PictureError
        What is wrong with the row, in one sentence.
    """
    if row.error:
        raise PromptError(row.error)
    count = sum(not isinstance(part, Text) for part in row.parts)
    number = 0
    parts: list[Any] = []
    for part in row.parts:
        if isinstance(part, Text):
            parts.append(part)
            continue
        number += 1
        try:
            parts.append(part if is_video_name(part) else _picture(part, reading))
        except VilaLabError as error:
            raise type(error)(f"picture {number} of {count}: {error}") from error
    return Prompt.of(parts, apply_exif=reading.apply_exif, background=reading.background)


def _picture(source: Any, reading: HowRead) -> Picture:
    """A picture, whatever its name looks like: no name is ever taken for text. What lies behind a web address is fetched as the
    service does."""
    if isinstance(source, str) and source.lower().startswith(WEB):
        return Picture.read(_fetched(source), reading)
    return Picture.read(source, reading)


def _fetched(address: str) -> bytes:
    try:
        from ..inputs.fetching import fetch
    except ImportError as error:
        raise MissingExtra('pictures behind web addresses need httpcore: pip install "vila-lab[sweep]"') from error
    return fetch(address)


def _own(error: VilaLabError) -> Exception:
    """A question's error without its place in the batch, which says nothing to a reader of the table."""
    return error.__cause__ if isinstance(error.__cause__, VilaLabError) else error


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, VilaLabError) else f"{type(error).__name__}: {shorten(said, 300)}"
