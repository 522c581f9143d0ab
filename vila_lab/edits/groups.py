"""What "image_2 -> answer" means: from names to positions of a prompt and of the answer behind it. Knows the TokenMap only.

In a decoder, cross-modal attention is the part of self-attention in which rows of text look at columns of pictures. A row
is a reader, a column a source. Row p chooses the token at p + 1, so as a reader "answer" begins at the prompt's last
position, which chooses the first token; as a source it begins at the first generated token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attribution.features import phrase_groups
from ..errors import NoEffect, OptionError
from ..hooks.spans import Span
from ..pointing import check_group
from ..tokenmap import TokenMap

PART = r"""("[^"]+"|'[^']+'|“[^”]+”|[^"'“]+?)"""
EDGE = re.compile(rf"\s*{PART}\s*(?:->|→)\s*{PART}\s*")
QUOTED = re.compile(r"""(["'“])(.+)(["'”])""")
LATER = "*"
QUESTION = "question"  # what the user wrote; the TokenMap calls it text


def parse_edge(edge: str) -> tuple[str, str]:
    """Source and reader of "source -> reader".

    Raises
    ------
    OptionError
        If it is not written that way.
    NoEffect
        If a part has a name that is in no prompt, or the reader stands before the source in all of them.

    Examples
    --------
    >>> parse_edge("image_2 -> answer")
    ('image_2', 'answer')
    """
    found = EDGE.fullmatch(edge) if isinstance(edge, str) else None
    if found is None or any(re.match(r"[^\"'“]*(->|→)", part) for part in found.groups()):
        raise OptionError(f"an edge is written 'source -> reader', such as 'image_2 -> answer', not {edge!r}")
    source, reader = found.groups()
    if source == LATER:
        raise OptionError(f"'*' stands on the right of an edge only, for every later row; in {edge!r} name the source")
    check_part(source)
    check_part(reader, LATER)
    if source == "answer" and reader not in ("answer", "all", LATER):
        raise NoEffect(
            f"there is no edge {edge!r}: {reader} stands before {source}, and a decoder's rows only see what stands before them"
        )
    return source, reader


def check_part(name: str, *more: str) -> None:
    """Refuse what names no part of any prompt: neither a group nor a quoted phrase.

    Parameters
    ----------
    more
        Further names that are known where it is used.

    Raises
    ------
    NoEffect
    """
    if QUOTED.fullmatch(name.strip()):
        return
    try:
        check_group(name, QUESTION, *more)
    except OptionError as error:
        raise NoEffect(f"{error}, or a quoted phrase of the question") from None


def check_places(places: Any) -> None:
    """`check_part` of one name or of each of several; positions by number are only known in a prompt."""
    for name in [places] if isinstance(places, str) else places:
        if isinstance(name, str):
            check_part(name, LATER)


def edge_spans(edge: str, token_map: TokenMap) -> tuple[Span, Span]:
    """Source and reader of an edge in a prompt.

    Raises
    ------
    NoEffect
        If a part is not in the prompt, or no reader comes after a source or shares a block with one: elsewhere a decoder's rows
        see earlier columns only.
    """
    source_name, reader_name = parse_edge(edge)
    source = source_span(source_name, token_map)
    reader = source_later(source, token_map) if reader_name == LATER else reader_span(reader_name, token_map)
    last, first = reader.last, source.first
    if first is None or not reader:
        raise NoEffect(
            f"there is no edge {edge!r}: {source_name if first is None else reader_name} has no positions here"
        )
    if last is not None and last <= first and not token_map.share_block(list(source.positions), list(reader.positions)):
        raise NoEffect(
            f"there is no edge {edge!r}: {reader_name} stands before {source_name}, and a decoder's rows only see what stands before them"
        )
    return source, reader


def source_span(name: str, token_map: TokenMap) -> Span:
    """Columns of a group; "answer" is every generated token."""
    if name == "answer":
        return Span(onward=token_map.prompt_length)
    return Span.of(_positions(name, token_map))


def reader_span(name: str | Sequence[int], token_map: TokenMap) -> Span:
    """Rows of a group, or given positions; "answer" is every row that chooses a token of it, "all" every row."""
    if not isinstance(name, str):
        return Span.of(_numbers(name, token_map))
    last = token_map.prompt_length - 1
    if name == "answer":
        return Span(onward=last)
    if name in ("all", LATER):
        return Span(onward=0)
    # The last row of the prompt chooses the first token: it reads for the answer, and for nothing else.
    return Span.of(position for position in _positions(name, token_map) if position != last)


def column_span(columns: str | Sequence[str] | Sequence[int], token_map: TokenMap) -> Span:
    """Columns of one group, of several, or given positions."""
    if isinstance(columns, str):
        return Span(onward=0) if columns in ("all", LATER) else source_span(columns, token_map)
    if all(isinstance(name, str) for name in columns):
        spans = [source_span(str(name), token_map) for name in columns]
        onward = min((span.onward for span in spans if span.onward is not None), default=None)
        return Span.of({p for span in spans for p in span.positions}, onward)
    return Span.of(_numbers(columns, token_map))


def source_later(source: Span, token_map: TokenMap) -> Span:
    """Every row behind the source's first position that is not of it, and those before it that share a block with it."""
    length = token_map.prompt_length
    first = source.first
    if source.onward is not None or first is None:
        return Span(onward=length)
    earlier = [place for place in range(first) if token_map.share_block([place], list(source.positions))]
    return Span.of(earlier, onward=first + 1).without(source, length)


def _positions(name: str, token_map: TokenMap) -> list[int]:
    quoted = QUOTED.fullmatch(name.strip())
    check_part(name)
    try:
        if quoted:
            groups = phrase_groups(token_map, phrases=[quoted[2]])
            return [int(p) for positions in groups.values() for p in positions]
        found = token_map.positions("text" if name == QUESTION else name)
        if name == "images" or name.startswith("image_"):  # with the padding that carries what they show
            pictures = np.unique(token_map.picture[found])
            found = np.sort(np.concatenate([found[:0], *(token_map.rows_of(int(k)) for k in pictures)]))
    except OptionError as error:
        raise NoEffect(str(error)) from error
    return [int(p) for p in found if p < token_map.prompt_length]


def _numbers(positions: Any, token_map: TokenMap) -> list[int]:
    try:
        found = [int(p) for p in np.asarray(list(positions)).tolist()]
    except (TypeError, ValueError):
        raise OptionError(f"positions are whole numbers or the name of a group, not {positions!r}") from None
    if not found or min(found) < 0:
        raise NoEffect(
            f"positions count from 0 at the start of the prompt, and at least one is needed, not {positions!r}"
        )
    return found
