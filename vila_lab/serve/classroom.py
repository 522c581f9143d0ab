"""Class mode: a code to join with, who joined, and what their teacher sees of them. Knows no model; nothing is written to disk."""

from __future__ import annotations

import hmac
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..answer import Answer
from ..errors import OptionError
from ..teaching.names import student_name
from .failures import Busy, Refused
from .tokens import OWNER, Owner, Owners

ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # without 0 and O, 1, I and L
LENGTH = 8  # of a code: 8e11 of them
STUDENTS = 200
QUESTIONS = 120  # an hour, of each
WRONG = 20  # codes that all together may get wrong ...
SECONDS = 60.0  # ... within so much time
SHOWN = 300  # characters of a question or an answer in the overview


@dataclass
class Student:
    """What is known of one who joined.

    Attributes
    ----------
    name : str
    questions : int
        How many were answered.
    question, answer : str
        The last one's.
    edits : tuple of str
        What acted on the model meanwhile.
    at : float, optional
        When, in seconds since 1970.
    points : dict
        By the number of an exercise.
    """

    name: str
    questions: int = 0
    question: str = ""
    answer: str = ""
    edits: tuple[str, ...] = ()
    at: float | None = None
    points: dict[int, int] = field(default_factory=dict)


class Classroom:
    """A class; from any thread.

    Parameters
    ----------
    owners
        Who may ask; students are added to them.
    students, questions_per_hour
        How many may join, and how often each may ask.
    clock, now
        Seconds that only grow, and seconds since 1970; others for tests.

    Attributes
    ----------
    code : str
        What a student joins with.

    Examples
    --------
    >>> room = Classroom(Owners())
    >>> room.join(room.code.lower(), "Ana").name, room.join(room.code, " ana ").name
    ('Ana', 'ana 2')
    """

    def __init__(
        self,
        owners: Owners,
        *,
        students: int = STUDENTS,
        questions_per_hour: int = QUESTIONS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.code = new_code()
        self.questions_per_hour = questions_per_hour
        self._owners, self._most = owners, students
        self._clock, self._now = clock, now
        self._wrong: deque[float] = deque()
        self._students: dict[str, Student] = {}
        self._joined = 0
        self._lock = threading.Lock()

    def join(self, code: str, name: str) -> Owner:
        """Let a student in.

        Returns
        -------
        Owner
            With a token of their own.

        Raises
        ------
        Busy
            If too many codes were wrong of late: then nobody's is looked at, so that nothing can be found by trying.
        Refused
            If the code is wrong, the name is none, or the class is full.
        """
        with self._lock:
            self._check_code(code)
            cleaned = clean_name(name)
            if self._joined >= self._most:
                raise Refused(403, f"the class is full: {self._most} have joined; ask your teacher")
            owner = Owner(self._free(cleaned), secrets.token_urlsafe(24), self.questions_per_hour)
            self._owners.add(owner)
            self._joined += 1
            self._of(owner.name)
        return owner

    def heard(self, owner: str, answer: Answer) -> None:
        """Note that somebody's question was answered."""
        if owner == OWNER:
            return
        record = answer.record
        words = " ".join(part for part in record.parts if isinstance(part, str))
        with self._lock:
            student = self._of(owner)
            student.questions += 1
            student.question, student.answer = shortened(words), shortened(answer.text)
            student.edits, student.at = tuple(record.edits), self._now()

    def scored(self, owner: str, exercise: int, points: int) -> None:
        """Note what somebody has for an exercise."""
        if owner == OWNER:
            return
        with self._lock:
            self._of(owner).points[exercise] = points

    def overview(self) -> list[dict[str, Any]]:
        """Everybody, in the order in which they came, as plain values."""
        with self._lock:
            return [
                {
                    "name": each.name,
                    "questions": each.questions,
                    "last_question": each.question,
                    "last_answer": each.answer,
                    "edits": list(each.edits),
                    "asked_at": each.at,
                    "points": {str(number): points for number, points in sorted(each.points.items())},
                }
                for each in self._students.values()
            ]

    def _of(self, name: str) -> Student:
        """One of them; who has a named token never joined, and is known from the first question on."""
        return self._students.setdefault(name, Student(name))

    def _check_code(self, code: str) -> None:
        now = self._clock()
        while self._wrong and self._wrong[0] + SECONDS <= now:
            self._wrong.popleft()
        if len(self._wrong) >= WRONG:
            seconds = max(1, math.ceil(self._wrong[0] + SECONDS - now))
            raise Busy(f"too many wrong codes were tried; try again in {seconds} s", seconds)
        if not hmac.compare_digest(plain_code(code).encode(), self.code.encode()):
            self._wrong.append(now)
            raise Refused(403, "this is not the code of the class; it has 8 letters and digits, and no 0, O, 1, I or L")

    def _free(self, name: str) -> str:
        taken = {each.casefold() for each in self._owners.names()}
        number = 1
        while (found := name if number == 1 else f"{name} {number}").casefold() in taken:
            number += 1
        return found


def new_code() -> str:
    """A code that nobody can guess, of characters that nobody takes for others.

    >>> len(new_code()), set(new_code()) <= set(ALPHABET)
    (8, True)
    """
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def plain_code(code: str) -> str:
    """A code as it was typed, without what makes it easier to read.

    >>> plain_code(" abcd-efgh ")
    'ABCDEFGH'
    """
    return "".join(each for each in code.upper() if each.isalnum())


def clean_name(name: str) -> str:
    """See `vila_lab.teaching.names.student_name`.

    Raises
    ------
    Refused
        If nothing is left of it, or too much.
    """
    try:
        return student_name(name)
    except OptionError as error:
        raise Refused(400, str(error)) from error


def shortened(text: str) -> str:
    """A text that fits into a row of the overview."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
