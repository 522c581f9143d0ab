"""Token: one generated token, and the characters that each id adds. Knows decoded text, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Alternative:
    """A token that could have come: id and natural log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True)
class Token:
    """A generated token.

    Attributes
    ----------
    text
        Its characters; empty for the token that ends the answer, and for one that holds only part of a character
        (the characters stand at the token that completes them).
    id
        Its id in the vocabulary.
    logprob
        Natural logarithm of its probability under the model, before any temperature.
    position
        Its place in the sequence, prompt included. The row before it chose it.
    alternatives
        The five most probable tokens at this place, as (text, id, logprob), best first.
    stop
        Whether it ended the answer.
    """

    text: str
    id: int
    logprob: float
    position: int
    alternatives: tuple[tuple[str, int, float], ...] = ()
    stop: bool = False

    @property
    def probability(self) -> float:
        return float(np.exp(self.logprob))


def token_texts(decode: Any, ids: Sequence[int]) -> list[str]:
    """The characters that each id adds; an id that holds part of a character adds nothing until it is complete.

    >>> token_texts(lambda ids: bytes(ids).decode(errors="replace"), [72, 0xE7, 0x8C, 0xAB])
    ['H', '', '', '猫']
    """
    texts: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        whole = decode(list(ids[:end]))
        if whole.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(whole[len(shown) :])
        shown = whole
    return texts


def alternatives_as_text(decode: Any, found: Sequence[Alternative]) -> tuple[tuple[str, int, float], ...]:
    return tuple((decode([entry.id]), entry.id, entry.logprob) for entry in found)
