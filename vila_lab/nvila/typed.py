"""Control tokens that a user typed: they are that user's characters, never control. Knows tokenizers, no pictures.

A question may quote ``<|im_end|>`` or ``</s>``; as the token itself it would end the user's turn in the middle. The ids of
such a token inside what the user wrote are replaced by those of its characters; all other ids stay what they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]


def spelled_out(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[Span], text: str, typed: Sequence[Span]
) -> tuple[list[int], list[Span]]:
    """Ids and character spans with every control token inside the typed spans written as its characters.

    Parameters
    ----------
    ids, offsets
        The tokenised text, and which characters each token stands for.
    typed
        Character spans that the user wrote, in order.
    """
    control = set(tokenizer.added_tokens_decoder)
    spans = _joined(typed)
    begins = [begin for begin, _ in spans]
    new_ids: list[int] = []
    new_offsets: list[Span] = []
    for token, (start, stop) in zip(ids, offsets, strict=True):
        if token in control and start < stop and _lies_in(spans, begins, start, stop):
            characters = _as_characters(tokenizer, text[start:stop])
            new_ids += [each for each, _ in characters]
            new_offsets += [(start + a, start + b) for _, (a, b) in characters]
        else:
            new_ids.append(token)
            new_offsets.append((start, stop))
    return new_ids, new_offsets


def _lies_in(spans: Sequence[Span], begins: Sequence[int], start: int, stop: int) -> bool:
    """Whether one of the spans, which are sorted and apart, holds all of this."""
    place = bisect_right(begins, start) - 1
    return place >= 0 and stop <= spans[place][1]


def _as_characters(tokenizer: Any, text: str) -> list[tuple[int, Span]]:
    options = {"add_special_tokens": False, "split_special_tokens": True}
    if not tokenizer.is_fast:
        return [(token, (0, len(text))) for token in tokenizer(text, **options).input_ids]
    encoded = tokenizer(text, return_offsets_mapping=True, **options)
    return list(zip(encoded.input_ids, map(tuple, encoded.offset_mapping), strict=True))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans that touch as one: a token may have been typed across two parts of a prompt."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined
