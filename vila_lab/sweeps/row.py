"""Row: a question of a sweep, its pictures in order, its options and its right answer. Knows cells of a table, no model."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import PromptError
from ..inputs.naming import Text
from ..inputs.sources import shorten
from .columns import Columns

__all__ = ["Row", "row_of"]

MARKER = "<image>"
LETTERED = re.compile(r"\s*\(?([A-Za-z])\s*[).:]\s*")  # an option that has its letter already
ADDRESS = re.compile(r"(?:https?|data|file):", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A question, as a sweep asks it.

    Attributes
    ----------
    number : int
        Its place in the table, from 0.
    id : str, int or None
        As given.
    question : str
        As given, with its markers.
    named : tuple of str
        Its pictures' names, as the table has them.
    parts : tuple
        `Text`, and sources of pictures where they stand: a path, bytes, an address, an image.
    options : tuple of str
        What to choose from, without letters.
    expected : str or None
        The right answer: of options its letter.
    rests_on : tuple of int
        The pictures that the answer should rest on, from 1.
    more : dict
        The table's other plain columns.
    error : str
        Why it cannot be asked, in one sentence; "" where it can.
    """

    number: int
    id: str | int | None
    question: str
    named: tuple[str, ...] = ()
    parts: tuple[Any, ...] = ()
    options: tuple[str, ...] = ()
    expected: str | None = None
    rests_on: tuple[int, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def row_of(cells: Mapping[str, Any], number: int, columns: Columns, folder: Path | None = None) -> Row:
    """A table's row as a question. What is wrong with it stands in its `error`.

    Parameters
    ----------
    cells
        By the names of columns.
    number
        Its place in the table.
    columns
        Which hold what.
    folder
        Where pictures lie that have a relative name.

    Examples
    --------
    >>> row = row_of({"images": ["a.png", "b.png"], "question": "Is <image> as <image>?"}, 0, Columns(("images",), "question"))
    >>> row.parts
    ('Is ', PosixPath('a.png'), ' as ', PosixPath('b.png'), '?')
    """
    question = _text(cells.get(columns.question))
    identity = _plain(cells.get(columns.id)) if columns.id else None
    used = {*columns.images, columns.question, columns.options, columns.answer, columns.id, columns.rests_on}
    more = {name: value for name, value in cells.items() if name not in used and _is_plain(value)}
    found = list(_pictures(cells, columns.images))
    row = Row(number, identity, question, tuple(map(_name, found)), more=more)
    try:
        options = _options(cells.get(columns.options)) if columns.options else ()
        pictures = [_source(cell, folder) for cell in found]
        listed = _listed(options) if isinstance(options, tuple) else options
        text = f"{question}\n{listed}" if listed else question
        parts = tuple(_in_order(text, pictures))
        choices = options if isinstance(options, tuple) else tuple(_split(options))
        expected = _expected(cells.get(columns.answer), choices) if columns.answer else None
        rests_on = _numbers(cells.get(columns.rests_on)) if columns.rests_on else ()
    except PromptError as error:
        return replace(row, error=str(error))
    return replace(row, parts=parts, options=choices, expected=expected, rests_on=rests_on)


def letter_of(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names, by its letter or by its words; None where it names none.

    >>> [letter_of(said, ["a cat", "a dog"]) for said in ("(B)", "B.", "A dog.", "The answer is (A).", "neither")]
    ['B', 'B', 'B', 'A', None]
    """
    letters = [chr(ord("A") + k) for k in range(len(options))]
    said = plain_words(text)
    ways = (
        re.findall(r"^\s*([A-Za-z])\s*[).:]?\s*$", text),  # nothing but a letter
        re.findall(r"\(([A-Za-z])\)", text),
        re.findall(r"^\s*([A-Z])[).:](?=\s)", text),
        [letter for letter, option in zip(letters, options, strict=True) if plain_words(option) == said],
        re.findall(r"(?:answer|option|choice) (?:is )?:?\s*([A-Z])\b", text),
    )
    named = {letter.upper() for letter in next(filter(None, ways), [])}
    return named.pop() if len(named) == 1 and named <= set(letters) else None


def plain_words(text: str) -> str:
    """Words in small letters, without what stands around them and between them.

    >>> plain_words(" A dog, and a cat. ")
    'a dog and a cat'
    """
    return " ".join(re.findall(r"[\w%+\-.]*\w%?", text.lower().replace("_", " ")))


def _text(value: Any) -> str:
    return "" if _is_missing(value) else str(value)


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own."""
    return value.item() if getattr(value, "shape", None) == () else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float) and not _is_missing(value)


def _pictures(cells: Mapping[str, Any], names: Sequence[str]) -> Iterator[Any]:
    """The cells of the pictures that are there, in order."""
    for name in names:
        value = cells.get(name)
        for cell in _as_list(value):
            if not _is_missing(cell):
                yield cell


def _name(cell: Any) -> str:
    """What a message or a table calls a picture."""
    if isinstance(cell, Mapping):
        return str(cell.get("path") or "bytes")
    return shorten(str(cell)) if isinstance(cell, str | Path) else type(cell).__name__


def _as_list(value: Any) -> Sequence[Any]:
    """A cell of one or of several: a list, or one that a table of text holds as JSON or as Python writes it."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "O":  # a column of lists, as pandas reads it
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(value)
            except (ValueError, SyntaxError):
                continue
            if isinstance(found, list):
                return found
    return value if isinstance(value, list | tuple) else [value]


def _source(cell: Any, folder: Path | None) -> Any:
    """What a cell of a picture names: datasets hold bytes and a path together."""
    if isinstance(cell, Mapping):
        data, path = cell.get("bytes"), cell.get("path")
        if data is None and path is None:
            raise PromptError(
                f"a picture's cell holds neither bytes nor a path, but {', '.join(map(str, cell)) or 'nothing'}"
            )
        return data if data is not None else _source(path, folder)
    if not isinstance(cell, str):
        return cell
    if ADDRESS.match(cell):
        return cell
    path = Path(cell).expanduser()
    beside = path if folder is None or path.is_absolute() else folder / path
    return beside if beside.exists() or not path.exists() else path


def _options(value: Any) -> tuple[str, ...] | str:
    """Options as a list, without letters, or one text as it stands."""
    if _is_missing(value):
        return ()
    listed = _as_list(value)
    if isinstance(value, str) and listed == [value]:
        return value
    texts = [_text(each) for each in listed]
    lettered = [LETTERED.match(text) for text in texts]
    if all(found and found[1].upper() == chr(ord("A") + k) for k, found in enumerate(lettered)):
        texts = [text[found.end() :] for text, found in zip(texts, lettered, strict=True) if found]
    return tuple(texts)


def _listed(options: Sequence[str]) -> str:
    return "\n".join(f"({chr(ord('A') + k)}) {option}" for k, option in enumerate(options))


def _split(options: str) -> list[str]:
    """The options of one text, where each begins a line with its letter."""
    lines = [line for line in options.splitlines() if line.strip()]
    found = [LETTERED.match(line) for line in lines]
    if not all(each and each[1].upper() == chr(ord("A") + k) for k, each in enumerate(found)):
        return []
    return [line[each.end() :] for line, each in zip(lines, found, strict=True) if each]


def _in_order(text: str, pictures: Sequence[Any]) -> Iterator[Any]:
    """Text and pictures: each marker is the next picture; without markers pictures come first."""
    pieces = text.split(MARKER)
    if len(pieces) == 1:
        yield from pictures
        yield from ([Text(text)] if text else [])
        return
    if len(pieces) - 1 != len(pictures):
        raise PromptError(f"the text marks {len(pieces) - 1} pictures with {MARKER}, and the row has {len(pictures)}")
    for piece, picture in zip(pieces, [*pictures, None], strict=True):
        if piece:
            yield Text(piece)
        if picture is not None:
            yield picture


def _expected(value: Any, options: Sequence[str]) -> str | None:
    """The right answer; of options its letter, however the table says it."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    value = _plain(value)
    if _is_missing(value):
        return None
    if options and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return chr(ord("A") + value)
    text = str(value).strip()
    return (letter_of(text, options) or text) if options else text


def _numbers(value: Any) -> tuple[int, ...]:
    """Numbers of pictures, from 1, or their names."""
    if _is_missing(value):
        return ()
    found = []
    for each in _as_list(value):
        number = re.fullmatch(r"\s*(?:image_|picture )?(\d+)(?:\.0)?\s*", str(each))
        if number is None or int(number[1]) < 1:
            raise PromptError(f"a picture to rest on is a number from 1 or a name such as image_2, not {each!r}")
        found.append(int(number[1]))
    return tuple(found)
