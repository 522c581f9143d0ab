"""Pointing: which picture, tokens or group of positions a reader means by a number, a name or a word. Knows texts, no map and no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Protocol, TypeAlias

from .errors import OptionError
from .options import nearest

__all__ = [
    "Said",
    "WhichPicture",
    "WhichTokens",
    "check_group",
    "first_token",
    "picture_index",
    "token_index",
    "token_numbers",
    "tokens_of_word",
]

WhichPicture: TypeAlias = "int | str"
WhichTokens: TypeAlias = "int | str | slice | Sequence[int] | None"

GROUPS = ("images", "prompt", "text", "template", "separators", "answer", "replies", "all")
"""Names of groups of positions, beside ``image_k`` and ``turn_k``."""


class Said(Protocol):
    """A token that was said: its characters, and whether it ended the answer."""

    @property
    def text(self) -> str: ...
    @property
    def stop(self) -> bool: ...


# -- pictures ------------------------------------------------------------------------------------------------------------


def picture_index(picture: Any, count: int) -> int:
    """The picture's number, from 0.

    Parameters
    ----------
    picture : int or str
        A number counted from 0 (negative from the end), or a name counted from 1, such as "image_1".
    count
        How many there are.

    Raises
    ------
    OptionError
        If there is no such picture.

    Examples
    --------
    >>> picture_index("image_2", 3), picture_index(1, 3), picture_index(-1, 3)
    (1, 1, 2)
    """
    if isinstance(picture, str):
        return _named(picture, count)
    if isinstance(picture, bool) or not isinstance(picture, Integral):
        raise OptionError(
            f"a picture must be a whole number counted from 0, or a name such as 'image_1', not {picture!r}"
        )
    number = int(picture)
    if not -count <= number < count:
        has = f"{count}, counted from 0; the last is {count - 1}, or 'image_{count}'" if count else "none"
        raise OptionError(f"there is no picture {number}: the prompt has {has}")
    return number % count


def _named(name: str, count: int) -> int:
    found = re.fullmatch(r"image_(\d+)", name)
    if found and 1 <= int(found[1]) <= count:
        return int(found[1]) - 1
    has = f"the prompt has {count} picture{'s' * (count != 1)}{_names(count)}"
    if found:
        raise OptionError(f"there is no {name}: {has}")
    number = re.search(r"(\d+)\s*$", name)
    near = f" (did you mean 'image_{number[1]}'?)" if number and 1 <= int(number[1]) <= count else ""
    raise OptionError(f"{name!r} names no picture{near}: {has}")


def _names(count: int) -> str:
    return ("", ", image_1")[count] if count < 2 else f", image_1 to image_{count}"


# -- tokens --------------------------------------------------------------------------------------------------------------


def token_numbers(token: Any, said: Sequence[Said]) -> tuple[list[int], str]:
    """The tokens meant, counted from 0, and a note where something was not plain.

    Parameters
    ----------
    token : None, int, str, slice or sequence of int
        Every token; one (negative counts from the end); the tokens of a word that was said; several.
    said
        The answer's tokens.

    Raises
    ------
    OptionError
        If there is no such token or word.

    Examples
    --------
    >>> from vila_lab import Token
    >>> said = [Token("a", 5, -0.1, 9), Token(" cat", 7, -0.2, 10), Token("", 0, -0.1, 11, stop=True)]
    >>> token_numbers("cat", said)[0], token_numbers(-1, said)[0], token_numbers(slice(2), said)[0]
    ([1], [2], [0, 1])
    """
    if token is None:
        return list(range(len(said))), ""
    if isinstance(token, str):
        return _word(token, said)
    if isinstance(token, slice):
        found = list(range(len(said)))[token]
        if not found:
            raise OptionError(f"{token} holds no token: this answer has {len(said)}, counted from 0")
        return found, ""
    if isinstance(token, Sequence):
        if not token:
            raise OptionError("token=[] names no token; leave it out for all of them")
        return sorted({token_index(each, said) for each in token}), ""
    return [token_index(token, said)], ""


def first_token(token: Any, said: Sequence[Said]) -> int:
    """The one token meant, where only one can be: of a word, or of several, the first."""
    return token_numbers(token, said)[0][0]


def token_index(token: Any, said: Sequence[Said]) -> int:
    """A token's number, from 0; negative counts from the end."""
    if isinstance(token, bool) or not isinstance(token, Integral):
        raise OptionError(f"token= takes a number, a slice, a list of numbers or a word, not {token!r}")
    number = int(token)
    if not -len(said) <= number < len(said):
        raise OptionError(f"there is no token {number}: this answer has {len(said)}, counted from 0")
    return number % len(said)


def _word(word: str, said: Sequence[Said]) -> tuple[list[int], str]:
    text = "".join(each.text for each in said)
    numbers = tokens_of_word(word, said)
    if not numbers:
        near = nearest(word, re.findall(r"\w+", text))
        raise OptionError(f"the word {word!r} is not in the answer {text!r}{near}")
    count = text.count(word.strip())
    return numbers, f"{word!r} occurs {count} times in the answer; the first is meant" if count > 1 else ""


def tokens_of_word(word: str, said: Sequence[Said]) -> list[int]:
    """Numbers of the tokens that hold the characters of a word's first occurrence; none if it was not said.

    >>> from vila_lab import Token
    >>> tokens_of_word("Azure", [Token(text, 0, -0.1, 9) for text in (" Az", "ure", ".")])
    [0, 1]
    """
    wanted = word.strip()
    start = "".join(each.text for each in said).find(wanted) if wanted else -1
    if start < 0:
        return []
    numbers: list[int] = []
    begin, pending = 0, []
    for number, each in enumerate(said):
        end = begin + len(each.text)
        if not each.text and not each.stop:
            pending.append(number)  # part of a character, which stands at the token that completes it
            continue
        if begin < start + len(wanted) and end > start:
            numbers += [*pending, number]
        pending, begin = [], end
    return numbers


# -- groups of positions -------------------------------------------------------------------------------------------------


def check_group(name: str, *more: str) -> None:
    """Refuse what names a group of positions in no prompt; see `TokenMap.positions`.

    Parameters
    ----------
    name
    more
        Further names that are known where it is used.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> check_group("image_7")
    >>> check_group("picture_2", "question")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: unknown group of positions 'picture_2' (did you mean 'image_2'?); known: image_1...
    """
    names = (*GROUPS, *more)
    if re.fullmatch(r"(image|turn)_[1-9]\d*", name) or name in names:
        return
    if re.fullmatch(r"(image|turn)_0+", name):
        raise OptionError(f"there is no {name}: names are counted from 1, {name.split('_')[0]}_1 is the first")
    number = re.search(r"([1-9]\d*)\s*$", name)
    kind = "turn" if name.startswith("turn") else "image"
    near = f" (did you mean '{kind}_{number[1]}'?)" if number else nearest(name, names)
    raise OptionError(
        f"unknown group of positions {name!r}{near}; known: image_1, ..., turn_1, ..., {', '.join(names)}"
    )
