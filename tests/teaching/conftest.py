"""The embedded model, and the exercises that a class does on it."""

from __future__ import annotations

import pytest

import vila_lab
from vila_lab.teaching import Quiz


@pytest.fixture(scope="module")
def lab():
    return vila_lab.load()


@pytest.fixture(scope="module")
def solved(lab):
    """A quiz of two drawn exercises with everything computed, to be taken anew by each student."""
    quiz = Quiz.drawn(lab, 2, seed=3)
    quiz.solutions()
    return quiz
