"""The exercises of the course in a class: what is asked, what is right, who predicted what. Knows teaching, and no HTTP."""

from __future__ import annotations

import threading
from typing import Any

from ..pointing import picture_index
from ..session import Session
from ..teaching import Exercise, Prediction, Quiz, Reveal
from ..teaching.exercise import POINTS
from ..teaching.quiz import COURSE
from .failures import Refused


class Exercises:
    """The exercises of one class.

    Parameters
    ----------
    lab
        Asked in the worker's thread alone, and once for all students.
    """

    def __init__(self, lab: Session) -> None:
        self._quiz = Quiz.course(lab)
        self._found: dict[tuple[str, int], dict[str, Any]] = {}  # by who and which
        self._lock = threading.Lock()

    def listed(self, owner: str) -> list[dict[str, Any]]:
        """All of them, without what is right; of those that somebody did, what came of it."""
        with self._lock:
            return [
                {
                    "number": number,
                    "question": question,
                    "pictures": list(names),
                    "possible": POINTS,
                    "done": self._found.get((owner, number)),
                }
                for number, (names, question) in enumerate(COURSE, 1)
            ]

    def check(self, owner: str, number: int, picture: str) -> None:
        """Raise why a prediction cannot be taken.

        Raises
        ------
        Refused
            If there is no such exercise, or somebody did it before.
        OptionError
            If it has no such picture.
        """
        if not 1 <= number <= len(COURSE):
            raise Refused(404, f"there is no exercise {number}; there are 1 to {len(COURSE)}")
        picture_index(picture, len(COURSE[number - 1][0]))
        if (owner, number) in self._found:
            raise Refused(409, f"you did exercise {number} already; a prediction counts before the answer is seen")

    def reveal(self, owner: str, number: int, picture: str, survives: bool) -> dict[str, Any]:
        """What the model did, and the points for what was predicted; in the worker's thread."""
        exercise: Exercise = self._quiz[number - 1]
        found = told(Reveal(exercise.answer, *exercise.solution, Prediction(picture, survives)))
        with self._lock:
            self.check(owner, number, picture)
            self._found[owner, number] = found
        return found


def told(reveal: Reveal) -> dict[str, Any]:
    """What an exercise reveals, as plain values."""
    picture, survives = reveal.predicted
    rows = reveal.table.to_dict("records")
    return {
        "answer": reveal.answer.text,
        "picture": reveal.picture,
        "survives": reveal.survives,
        "predicted": {"picture": picture, "survives": survives},
        "points": reveal.points,
        "pictures": [
            {"read": float(row["read"]), "needed": float(row["needed"]), "without": str(row["without it"])}
            for row in rows
        ],
    }
