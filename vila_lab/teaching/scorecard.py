"""Scorecard: what one student got right in a quiz, as one line of JSON that holds no answer. Knows no quiz and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ..errors import FileError
from .names import student_name

FORMAT = 1
LARGEST = 65_536  # bytes; a card of a hundred exercises has 9,000


@dataclass(frozen=True)
class Result:
    """What came of one exercise; neither what was predicted nor what is right.

    Attributes
    ----------
    number : int
        Which exercise, from 1.
    tries : int
        How often a prediction was said before it was revealed.
    picture_right, survival_right : bool or None
        Whether the two predictions were right; None if the exercise was not revealed.
    """

    number: int
    tries: int
    picture_right: bool | None = None
    survival_right: bool | None = None

    @property
    def points(self) -> int | None:
        """One for each that is right; None if the exercise was not revealed."""
        return None if self.picture_right is None else int(self.picture_right) + int(self.survival_right or False)


@dataclass(frozen=True)
class Scorecard:
    """What one student got right. Whoever has the file can edit it: it is a report, and no proof.

    Attributes
    ----------
    student : str
    when : datetime
        In UTC, to the second.
    quiz : str
        `Quiz.fingerprint` of the questions.
    results : tuple of Result
        One per exercise, in order.
    version : str
        Of the vila_lab that wrote it.

    Examples
    --------
    >>> card = Scorecard("Ana", datetime(2026, 1, 31, 9, tzinfo=UTC), "5f2b", (Result(1, 2, True, False),), "0.1.0")
    >>> line = card.to_line()
    >>> Scorecard.of_line(line.encode(), "ana.json") == card, card.points, line.count("\\n")
    (True, 1, 1)
    """

    student: str
    when: datetime
    quiz: str
    results: tuple[Result, ...]
    version: str

    @property
    def points(self) -> int:
        """Of all exercises together; one that was not revealed gives none."""
        return sum(each.points or 0 for each in self.results)

    def to_line(self) -> str:
        """The card as one line of JSON."""
        return json.dumps({
            "vila_lab_score": FORMAT,
            "student": self.student,
            "when": self.when.isoformat(timespec="seconds"),
            "quiz": self.quiz,
            "exercises": [asdict(each) for each in self.results],
            "version": self.version,
        }, ensure_ascii=False) + "\n"  # fmt: skip

    @classmethod
    def of_line(cls, data: bytes, name: str) -> Scorecard:
        """Read a card back.

        Parameters
        ----------
        data
            What is in the file.
        name
            What to call the file in an error.

        Raises
        ------
        FileError
            If it is no scorecard, damaged, or of a newer vila_lab.
        """
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):  # bytes that are no text, a text that is no JSON or was cut
            content = None
        if not isinstance(content, dict) or "vila_lab_score" not in content:
            raise FileError(f"{name} is damaged, or no score of vila_lab; have it exported again")
        if content["vila_lab_score"] != FORMAT:
            raise FileError(
                f"{name} has format {content['vila_lab_score']!r}, of another vila_lab; install the newest one"
            )
        try:
            return _card(content)
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{name} is damaged ({_what(error)}); have it exported again") from error


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _card(content: Mapping[str, Any]) -> Scorecard:
    when = datetime.fromisoformat(content["when"])
    if when.tzinfo is None:
        raise ValueError("'when' has no time zone")
    results = tuple(_result(entry, number) for number, entry in enumerate(content["exercises"], 1))
    return Scorecard(
        student_name(_text(content, "student")), when, _text(content, "quiz"), results, _text(content, "version")
    )


def _result(entry: Any, number: int) -> Result:
    found = Result(**entry)
    flags = (found.picture_right, found.survival_right)
    is_revealed = all(isinstance(flag, bool) for flag in flags)
    if found.number != number or not (is_revealed or flags == (None, None)):
        raise ValueError(f"exercise {number} is not what was exported")
    if type(found.tries) is not int or found.tries < is_revealed:
        raise ValueError(f"exercise {number} was tried {found.tries!r} times")
    return found


def _text(content: Mapping[str, Any], key: str) -> str:
    if not isinstance(content[key], str):
        raise ValueError(f"{key!r} is no text")
    found: str = content[key]
    return found


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error) if isinstance(error, ValueError) else "a value has another type"
