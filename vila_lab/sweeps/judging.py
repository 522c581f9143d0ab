"""Whether an answer is the right one. Knows texts, options and letters, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .row import letter_of, plain_words

__all__ = ["is_right"]


def is_right(answer: Any, expected: Any, options: Sequence[str]) -> bool | None:
    """Whether what was said is what was expected; None where nothing was, or nothing was said.

    Of options the letter counts, or an option's words; of free answers the words, without marks and capitals, and yes and no
    are true and false.

    Examples
    --------
    >>> is_right("A dog.", "B", ["a cat", "a dog"]), is_right("Google.", "google", []), is_right("yes", "True", [])
    (True, True, True)
    """
    if not isinstance(answer, str) or not isinstance(expected, str):
        return None
    if len(options):
        return (letter_of(answer, options) or "") == (letter_of(expected, options) or expected)
    return _meant(answer) == _meant(expected)


def _meant(text: str) -> str:
    words = plain_words(text)
    return {"yes": "true", "no": "false"}.get(words, words)
