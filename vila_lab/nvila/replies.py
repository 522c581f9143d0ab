"""Earlier answers in a rendered conversation: which tokens are theirs. Knows tokenizers and text, no pictures.

A conversation goes on from the prompt of its last turn, so that prompt must be the beginning of the next one, token by token,
and the answer behind it what the model generated, not what its words would be cut into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Tokens: TypeAlias = "tuple[list[int], list[tuple[int, int]]]"
"""Ids, and the characters each stands for."""


@dataclass(frozen=True)
class Reply:
    """An earlier answer.

    Attributes
    ----------
    start : int
        Character at which the prompt before it ended.
    stop : int
        Character behind its last.
    ids : tuple of int
        Its own tokens; empty: its text is tokenised.
    """

    start: int
    stop: int
    ids: tuple[int, ...] = ()


def tokenised(tokenise: Callable[[str, bool], Tokens], text: str, replies: Sequence[Reply]) -> Tokens:
    """The tokens of a conversation, with each reply's own in their place.

    Parameters
    ----------
    tokenise
        Of a text, and whether special tokens come before it.
    text
        The rendered conversation.
    replies
        In order.

    Returns
    -------
    Tokens
        Those of the whole text, unless a token would reach over the beginning or the end of a reply: then its parts are
        tokenised by themselves.
    """
    whole = tokenise(text, True)
    if not replies:
        return whole
    bounds = [0, *(place for reply in replies for place in (reply.start, reply.stop)), len(text)]
    pieces = _cut(whole, bounds)
    if pieces is None or not _begins_alike(tokenise, text, whole, replies):
        pieces = []
        for number, (start, stop) in enumerate(pairwise(bounds)):
            ids, offsets = tokenise(text[start:stop], number == 0) if stop > start else ([], [])
            pieces.append((ids, [(a + start, b + start) for a, b in offsets]))
    for number, reply in enumerate(replies):
        if reply.ids and list(reply.ids) != pieces[2 * number + 1][0]:
            pieces[2 * number + 1] = list(reply.ids), [(reply.start, reply.stop)] * len(reply.ids)
    return [token for ids, _ in pieces for token in ids], [span for _, spans in pieces for span in spans]


def _cut(tokens: Tokens, bounds: Sequence[int]) -> list[Tokens] | None:
    """Tokens between each two bounds; None if one reaches over a bound."""
    ids, offsets = tokens
    places = []
    for bound in bounds[1:-1]:
        place = next((k for k, (_, stop) in enumerate(offsets) if stop > bound), len(ids))
        if place < len(ids) and offsets[place][0] < bound:
            return None
        places.append(place)
    return [(ids[a:b], offsets[a:b]) for a, b in pairwise([0, *places, len(ids)])]


def _begins_alike(tokenise: Callable[[str, bool], Tokens], text: str, whole: Tokens, replies: Sequence[Reply]) -> bool:
    """Whether the prompt before each reply has the same tokens alone as in the whole conversation."""
    for reply in replies:
        ids = tokenise(text[: reply.start], True)[0]
        if whole[0][: len(ids)] != ids:
            return False
    return True
