"""Checks the options of a call against its signature and its ranges, and names what was meant. Knows no models and no methods."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, get_origin

import numpy as np

from .errors import OptionError

__all__ = ["check_range", "check_types", "check_whole", "given", "nearest", "spelled"]

P = ParamSpec("P")
R = TypeVar("R")

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool)),
    "float": ("a number", lambda value: _is_number(value)),
    "bool": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "None": ("None", lambda value: value is None),
}


def check_types(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Compare values with the plain types (int, float, bool, str, None) that a function's signature states.

    Parameters
    ----------
    function
        Annotated with strings, as ``from __future__ import annotations`` does; other types than these are not looked at. Names
        that a `Literal` offers beside ``str`` are texts as others.
    values
        By parameter name.

    Raises
    ------
    OptionError
        A value has another type; a bool is no number, and neither are NaN and infinity.

    Examples
    --------
    >>> def draw(width: int, name: str | None = None) -> None: ...
    >>> check_types(draw, {"width": 3, "name": "cat"})
    >>> check_types(draw, {"width": 1.5})
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: width must be a whole number, not 1.5
    """
    parameters = inspect.signature(function).parameters
    spaces = getattr(inspect.unwrap(function), "__globals__", {})
    for name, value in values.items():
        parts = [part.strip() for part in str(parameters[name].annotation).split("|")]
        allowed = [part for part in parts if "str" not in parts or get_origin(spaces.get(part)) is not Literal]
        if not set(allowed) <= set(KINDS) or any(KINDS[kind][1](value) for kind in allowed):
            continue
        raise OptionError(f"{name} must be {' or '.join(KINDS[kind][0] for kind in allowed)}, not {value!r}")


def check_range(
    name: str, value: float | None, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """Compare a number with its bounds; None, an option that was not given, is inside.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> check_range("top_p", 1.5, above=0, most=1)
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: top_p must be above 0 and at most 1, not 1.5
    """
    if value is None:
        return
    low = least is not None and value < least
    under = above is not None and value <= above
    high = most is not None and value > most
    if low or under or high:
        bounds = (("at least", least), ("above", above), ("at most", most))
        wanted = " and ".join(f"{words} {bound}" for words, bound in bounds if bound is not None)
        raise OptionError(f"{name} must be {wanted}, not {value!r}")


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number, True and 1.0 included.

    Raises
    ------
    OptionError
    """
    words, fits = KINDS["int"]
    if not fits(value):
        raise OptionError(f"{name} must be {words}, not {value!r}")


def nearest(name: Any, known: Iterable[str]) -> str:
    """The known name that a misspelt one resembles, for a message to put behind it; empty where none does.

    Upper and lower case, and blanks, hyphens and underscores, are alike.

    Examples
    --------
    >>> nearest("leave-one-ot", ["attention", "leave_one_out"]), nearest("magic", ["attention"])
    (" (did you mean 'leave_one_out'?)", '')
    """
    plain = {_plain(each): each for each in known}
    found = difflib.get_close_matches(_plain(str(name)), plain, 1)
    return f" (did you mean {plain[found[0]]!r}?)" if found else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def spelled(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose misspelt options are answered with the nearest of its own, instead of Python's remark.

    Raises
    ------
    OptionError
        When it is called with an option that it does not have.

    Examples
    --------
    >>> @spelled
    ... def draw(width: int = 1) -> None: ...
    >>> draw(widht=3)
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: draw has no option 'widht' (did you mean 'width'?); it has width
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise OptionError(
                    f"{function.__name__} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}"
                )
        return function(*args, **kwargs)

    return call


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: None leaves one at its default.

    >>> given(steps=None, seed=0)
    {'seed': 0}
    """
    return {name: value for name, value in options.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
