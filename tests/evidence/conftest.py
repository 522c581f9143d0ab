"""Answers to weigh: of a tiny random checkpoint, and of the embedded model."""

from __future__ import annotations

import pytest

from vila_lab.answer import Answer
from vila_lab.session import Session

QUESTION = "What is in image 2?"


@pytest.fixture(scope="session")
def tiny(golden_session) -> Session:
    """A random checkpoint with one tile per picture."""
    return golden_session("nvila-resize")


@pytest.fixture(scope="session")
def answer(tiny, golden_image) -> Answer:
    return tiny.ask([golden_image("a_land.png"), golden_image("d_wide.png"), QUESTION], max_new_tokens=3)


@pytest.fixture(scope="session")
def microsoft(lab, demo) -> Answer:
    """The embedded model names what is in the second of two pictures."""
    found = lab.ask([demo / "g.png", demo / "m.png", QUESTION])
    assert found.text == "Microsoft."
    return found
