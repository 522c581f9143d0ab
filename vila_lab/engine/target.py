"""Target: which words are scored, and against which. Knows token ids and texts, no model and no pictures.

A target is scored by the sum of its tokens' log-probabilities, each given what stands before it. A contrast is scored
in its place, from the same position on, and taken away: log p(target) - log p(contrast).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..options import nearest
from ..pointing import token_index, token_numbers
from ..tokens import Token


@dataclass(frozen=True)
class Row:
    """A row of the result: the answer's token it is about (counted from 0), its characters, and whether it is a stop."""

    number: int
    text: str
    stop: bool = False


@dataclass(frozen=True)
class Entry:
    """One scored token: row (0 is the last prompt row), id, weight (-1 in a contrast), and the result's row it adds to."""

    row: int
    id: int
    weight: float
    out: int


@dataclass(frozen=True)
class Pass:
    """One teacher-forced sequence: the ids fed behind the prompt, and what is scored in it."""

    fed: tuple[int, ...]
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> list[int]:
        return sorted({entry.row for entry in self.entries})


@dataclass(frozen=True)
class Target:
    """What is scored.

    Attributes
    ----------
    text : str
        The target in words.
    contrast : str or None
    rows : tuple of Row
        A row per token; a single one for a contrast.
    passes : tuple of Pass
        One, or two where target and contrast need different sequences.
    length : int
        Positions of the answer that the result covers.
    note : str
        What a reader must know, or empty.
    score : str
        A name in `SCORES`.
    """

    text: str
    contrast: str | None
    rows: tuple[Row, ...]
    passes: tuple[Pass, ...]
    length: int
    note: str = ""
    score: str = "logprob"

    def values(self, logits: Sequence[Tensor]) -> Tensor:
        """Scores from each pass's logits at its `Pass.rows`.  # (rows,)"""
        parts = [self.part(index, table) for index, table in enumerate(logits)]
        return torch.stack(parts).sum(0)

    def part(self, index: int, logits: Tensor) -> Tensor:
        """What one pass adds to the scores.  # (rows,)"""
        each = self.passes[index]
        places = {row: place for place, row in enumerate(each.rows)}
        rows = [places[entry.row] for entry in each.entries]
        if rows != list(range(len(logits))):  # a target and its contrast may be scored in one row
            logits = logits[rows]
        ids = torch.tensor([entry.id for entry in each.entries], device=logits.device)
        outs = torch.tensor([entry.out for entry in each.entries], device=logits.device)
        scores = SCORES[self.score](logits, ids)
        weights = scores.new_tensor([entry.weight for entry in each.entries])
        return scores.new_zeros(len(self.rows)).index_add(0, outs, weights * scores)

    def summed(self) -> Target:
        """The same words scored as one: a single row, the sum of the others. The token that ended the answer is left out.

        Examples
        --------
        >>> said = [Token("a", 5, -0.1, 9), Token(" cat", 7, -0.2, 10), Token("", 0, -0.1, 11, stop=True)]
        >>> resolve(said, lambda text: [9]).summed().passes[0].entries
        (Entry(row=0, id=5, weight=1.0, out=0), Entry(row=1, id=7, weight=1.0, out=0))
        """
        said = [out for out, row in enumerate(self.rows) if not row.stop] or list(range(len(self.rows)))
        passes = tuple(
            replace(each, entries=tuple(replace(entry, out=0) for entry in each.entries if entry.out in said))
            for each in self.passes
        )
        return replace(self, rows=(Row(self.rows[said[0]].number, self.text),), passes=passes)

    def query_rows(self) -> list[int]:
        """For each row of the result the row that chose its token (0 is the last prompt row)."""
        return [next(e.row for e in self.passes[0].entries if e.out == out) for out in range(len(self.rows))]

    def ids(self) -> list[int]:
        """For each row of the result its token's id."""
        return [next(e.id for e in self.passes[0].entries if e.out == out) for out in range(len(self.rows))]


def logprob(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural logarithm of each row's token's probability.  # (n, V), (n,) -> (n,)"""
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]


def logodds(logits: Tensor, tokens: Tensor) -> Tensor:
    """log(p / (1 - p)): each row's token's logit over all others together. Unlike log p it keeps a gradient where p is near 1."""
    others = logits.scatter(-1, tokens[:, None], -torch.inf)
    return logits.gather(-1, tokens[:, None])[:, 0] - torch.logsumexp(others, -1)


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"logprob": logprob, "logodds": logodds}


def resolve(
    said: Sequence[Token],
    encode: Callable[[str], list[int]],
    token: Any = None,
    contrast: str | None = None,
    *,
    at: int | None = None,
    score: str = "logprob",
) -> Target:
    """What `answer.attribute(token=..., contrast=..., at=...)` means.

    Parameters
    ----------
    said
        The answer's tokens.
    encode
        From a text to token ids, without special tokens.
    token : None, int, slice, sequence of int, or str
        Every token; one (negative counts from the end); several; or a word. A word is looked for in the answer; with
        `at` it is put in the answer's place from there on, whether or not the model said it.
    contrast : str, optional
        A word that is scored in the target's place and taken away.
    at : int, optional
        The answer's token from which a given word stands.
    score
        A name in `SCORES`.

    Raises
    ------
    OptionError
        If there is no such token or word, or a word has no tokens.

    Examples
    --------
    >>> said = [Token("a", 5, -0.1, 9), Token(" cat", 7, -0.2, 10), Token("", 0, -0.1, 11, stop=True)]
    >>> target = resolve(said, lambda text: [9], token="cat", contrast="dog")
    >>> target.text, target.contrast, target.passes
    ('cat', 'dog', (Pass(fed=(5,), entries=(Entry(row=1, id=7, weight=1.0, out=0), Entry(row=1, id=9, weight=-1.0, out=0))),))
    """
    if score not in SCORES:
        raise OptionError(f"unknown score {score!r}{nearest(score, SCORES)}; known: {', '.join(SCORES)}")
    if not said:
        raise OptionError("the answer has no tokens, so there is nothing to attribute")
    if at is not None and not isinstance(token, str):
        raise OptionError("at= says where a given word stands; give token= that word")
    ids = [each.id for each in said]
    if isinstance(token, str) and at is not None:
        start = token_index(at, said)
        word = encode_word(token, said[start].text, encode, "the target")
        note = f"the word was put in the answer's place from token {start} on; the model did not choose it there"
        numbers, ids = list(range(start, start + len(word))), [*ids[:start], *word]
        rows = tuple(Row(number, text) for number, text in zip(numbers, _pieces(token, len(word)), strict=True))
        text = token
    else:
        numbers, note = _numbers(token, said)
        rows = tuple(Row(n, said[n].text, said[n].stop) for n in numbers)
        text = token if isinstance(token, str) else "".join(said[n].text for n in numbers).strip()
    length = max(len(said), len(ids))
    if contrast is None:
        entries = tuple(Entry(n, ids[n], 1.0, out) for out, n in enumerate(numbers))
        return Target(text, None, rows, (Pass(tuple(ids[: max(numbers)]), entries),), length, note, score)
    if token is None:
        numbers = [n for n in numbers if not said[n].stop] or numbers
    target = _contrasted(ids, numbers, contrast, said, encode)
    row = Row(numbers[0], f"{text} - {contrast}")
    longest = max(length, *(len(each.fed) + 1 for each in target))
    return Target(text, contrast, (row,), target, longest, note, score)


def _contrasted(
    ids: Sequence[int], numbers: Sequence[int], contrast: str, said: Sequence[Token], encode: Callable[[str], list[int]]
) -> tuple[Pass, ...]:
    """The target's sequence and the contrast's, as one where they are fed the same."""
    if any(b != a + 1 for a, b in pairwise(numbers)):
        raise OptionError("a contrast needs neighbouring tokens; give one token, a slice or a word")
    start = numbers[0]
    other = encode_word(contrast, said[start].text, encode, "the contrast")
    mine = [ids[n] for n in numbers]
    if mine == other:
        raise OptionError(f"the contrast {contrast!r} is the target itself; give another word")
    passes = []
    for word, weight in ((mine, 1.0), (other, -1.0)):
        entries = tuple(Entry(start + k, each, weight, 0) for k, each in enumerate(word))
        passes.append(Pass((*ids[:start], *word[:-1]), entries))
    if passes[0].fed == passes[1].fed:
        return (replace(passes[0], entries=passes[0].entries + passes[1].entries),)
    return tuple(passes)


def encode_word(word: str, place: str, encode: Callable[[str], list[int]], what: str) -> list[int]:
    """Ids of a word with the space before it that the token in its place has."""
    if not word.strip():
        raise OptionError(f"{what} {word!r} has no tokens; give a word")
    ids = encode(" " + word if place.startswith(" ") and not word.startswith(" ") else word)
    if not ids:
        raise OptionError(f"{what} {word!r} has no tokens for this model; give another word")
    return list(ids)


def _numbers(token: Any, said: Sequence[Token]) -> tuple[list[int], str]:
    """The tokens meant, and a note; a word that was not said may be meant to stand in the answer's place."""
    try:
        return token_numbers(token, said)
    except OptionError as error:
        if not isinstance(token, str):
            raise
        raise OptionError(
            f"{error}; token={token!r} with at=k scores it in place of the answer from token k on"
        ) from None


def _pieces(word: str, count: int) -> list[str]:
    """A label for each of a word's tokens."""
    return [word] if count == 1 else [f"{word} ({k + 1}/{count})" for k in range(count)]
