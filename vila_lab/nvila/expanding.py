"""From a rendered text with a marker for each block of visual tokens to a layout of positions. Knows a tokenizer, no pictures."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from vila_lab.errors import PromptError
from vila_lab.nvila.layout import BlockGeometry, ImageBlock, PromptLayout
from vila_lab.nvila.prompting import IMAGE_TOKEN
from vila_lab.nvila.replies import Reply, tokenised
from vila_lab.nvila.typed import spelled_out


def expanded(
    text: str,
    geometry: Sequence[BlockGeometry],
    spans: list[tuple[int, int]],
    *,
    tokenizer: Any,
    image_token_id: int,
    separated_by: tuple[str | None, str | None],
    special: bool = True,
    replies: Sequence[Reply] = (),
) -> PromptLayout:
    """The layout of a text.

    Parameters
    ----------
    text
        With ``<image>`` for every block of visual tokens.
    geometry
        Of these blocks, in order.
    spans
        Characters that a user wrote.
    tokenizer
    image_token_id : int
        What the tokenizer makes of a marker.
    separated_by
        What stands before and behind each block.
    special
        Whether the tokenizer adds its own specials.
    replies
        What the model said earlier.

    Raises
    ------
    PromptError
        If there are more or fewer markers than blocks.
    """
    typed = [*spans, *((reply.start, reply.stop) for reply in replies if not reply.ids)]
    tokens = tokenised(partial(_tokenise, tokenizer), text, replies) if replies else _tokenise(tokenizer, text, special)
    ids, offsets = spelled_out(tokenizer, *tokens, text, typed)
    if (markers := ids.count(image_token_id)) != len(geometry):
        raise PromptError(
            f"The text has {markers} {IMAGE_TOKEN} markers for {len(geometry)} blocks of visual tokens; give one marker per picture."
        )
    before, after = (_separator_ids(tokenizer, words) for words in separated_by)
    new_ids: list[int] = []
    new_offsets: list[tuple[int, int]] = []
    separators: list[int] = []
    blocks: list[ImageBlock] = []
    for token, (start, stop) in zip(ids, offsets, strict=True):
        if token != image_token_id:
            new_ids.append(token)
            new_offsets.append((start, stop))
            continue
        block = geometry[len(blocks)].at(len(new_ids) + len(before))
        visual = block.stop - block.start
        separators += [*range(len(new_ids), block.start), *range(block.stop, block.stop + len(after))]
        new_ids += [*before, *[token] * visual, *after]
        new_offsets += [*[(start, start)] * len(before), *[(start, stop)] * visual, *[(stop, stop)] * len(after)]
        blocks.append(block)
    begins = [start for start, _ in new_offsets]
    return PromptLayout(
        text=text,
        input_ids=np.array(new_ids, dtype=np.int64),
        offsets=np.array(new_offsets, dtype=np.int64).reshape(-1, 2),
        blocks=blocks,
        separators=np.array(separators, dtype=np.int64),
        user_spans=spans,
        replies=[_positions(reply, begins) for reply in replies],
    )


def _separator_ids(tokenizer: Any, text: str | None) -> list[int]:
    """Ids with the tokenizer's default specials: a Llama tokenizer puts its begin token into every separator."""
    return list(tokenizer(text).input_ids) if text else []


def _tokenise(tokenizer: Any, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    options: dict[str, Any] = {} if special else {"add_special_tokens": False}
    if not tokenizer.is_fast:
        ids = list(tokenizer(text, **options).input_ids)
        return ids, _offsets_by_search(tokenizer, text, ids)
    encoded = tokenizer(text, return_offsets_mapping=True, **options)
    return list(encoded.input_ids), [tuple(span) for span in encoded.offset_mapping]


def _positions(reply: Reply, begins: Sequence[int]) -> tuple[int, int]:
    """First and one-past-last position of a reply and the token that ended it; its words may be none, its tokens some."""
    first = bisect_left(begins, reply.start)
    return first, (first + len(reply.ids) if reply.ids else bisect_left(begins, reply.stop)) + 1


def _offsets_by_search(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Spans for a tokenizer that gives none: each decoded token is looked for from where the last one ended."""
    spans: list[tuple[int, int]] = []
    cursor = 0
    for token in ids:
        piece = tokenizer.decode([token])
        place = text.find(piece, cursor) if piece else -1
        spans.append((place, place + len(piece)) if place >= 0 else (cursor, cursor))
        cursor = spans[-1][1]
    return spans
