"""Token: one generated token, and the characters that each id adds. Knows decoded text, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alternative:
    """A token that could have come: id and natural log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True, repr=False)
class Token:
    """A generated token.

    Attributes
    ----------
    text : str
        Its characters; empty for the token that ends the answer, and for one that holds only part of a character
        (the characters stand at the token that completes them).
    id : int
        Its id in the vocabulary.
    logprob : float
        Natural logarithm of its probability under the model, before any temperature.
    position : int
        Its place in the sequence, prompt included. The row before it chose it.
    alternatives : tuple
        The most probable tokens at this place, as (text, id, logprob), best first: five, or as many as ``logprobs=`` asked for.
    stop : bool
        Whether it ended the answer.

    Examples
    --------
    >>> Token(" cat", 812, -0.105360515, 41), Token("", 2, -0.5, 42, stop=True)
    (Token(' cat', 90 %, id 812, position 41), Token('', 60.7 %, id 2, position 42, ends the answer))
    >>> token = Token(" cat", 812, -0.105360515, 41, alternatives=((" cat", 812, -0.105), (" dog", 813, -2.5)))
    >>> token.text, token.id, token.position, token.stop, token.alternatives[1][0]
    (' cat', 812, 41, False, ' dog')
    >>> token.logprob, round(token.probability, 3)
    (-0.105360515, 0.9)
    """

    text: str
    id: int
    logprob: float
    position: int
    alternatives: tuple[tuple[str, int, float], ...] = ()
    stop: bool = False

    def __repr__(self) -> str:
        end = ", ends the answer" if self.stop else ""
        return f"Token({self.text!r}, {100 * self.probability:.3g} %, id {self.id}, position {self.position}{end})"

    @property
    def probability(self) -> float:
        """The model's own probability of it, from 0 to 1."""
        return float(np.exp(self.logprob))


def sureness(texts: Sequence[str], probabilities: Sequence[float]) -> str:
    """How probable tokens were together, and the least probable one of them, in words.

    >>> sureness(["Micro", "soft"], [0.5, 0.98])
    "probability of the answer: 0.49, least of 'Micro': 0.50"
    """
    least = int(np.argmin(probabilities))
    of_one = f", least of {texts[least].strip()!r}: {_in_words(probabilities[least])}" if len(texts) > 1 else ""
    return f"probability of the answer: {_in_words(float(np.prod(probabilities)))}{of_one}"


def _in_words(probability: float) -> str:
    return f"{probability:.2f}" if probability >= 0.01 else f"{probability:.1e}"


class Spelling:
    """The characters that each next id adds; one that holds part of a character adds nothing until it is complete.

    Parameters
    ----------
    decode
        Text of a list of ids.

    Examples
    --------
    >>> spelling = Spelling(lambda ids: bytes(ids).decode(errors="replace"))
    >>> [spelling.add(byte) for byte in [72, 0xE7, 0x8C, 0xAB]]
    ['H', '', '', '猫']
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token: int, *, is_last: bool = False) -> str:
        """What one more id adds; behind the last one nothing can be completed, so it shows what there is."""
        self._ids.append(token)
        whole = self._decode(self._ids)
        if whole.endswith("\ufffd") and not is_last:
            return ""
        added = whole[len(self._shown) :]
        self._shown = whole
        return added

    @property
    def held(self) -> str:
        """What the ids so far add where no other follows: part of a character, or nothing."""
        return self._decode(self._ids)[len(self._shown) :]
