"""Questions about the demo's marks, and a sweep of them that is there for all tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vila_lab import demo_images

SAYS = {"g": "Google", "m": "Microsoft", "a": "Apple", "n": "NVIDIA"}


def questions(count: int) -> list[dict[str, Any]]:
    """Two pictures each, every row another."""
    found = []
    for k in range(count):
        marks = ["gman"[k % 4], "mang"[k % 4]]
        asked = 1 + k // 4 % 2
        images = [str(demo_images() / f"{mark}.png") for mark in marks]
        answer = SAYS[marks[asked - 1]]
        question = f"What is in image {asked}?"
        found.append(
            {
                "id": f"q{k}",
                "images": images,
                "question": question,
                "answer": answer,
                "rests_on": asked,
                "task": f"task {k % 2}",
            }
        )
    return found


@pytest.fixture(name="questions", scope="session")
def make_questions() -> Callable[[int], list[dict[str, Any]]]:
    """So many questions."""
    return questions
