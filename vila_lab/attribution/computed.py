"""Computed: the attributions of one answer that were computed, each found again by what was asked for. Knows results, no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..errors import OptionError
from ..picture import digest_of
from .registry import defaults_of
from .result import Attribution

MOST_BYTES = 2**28  # of one answer's results together; beyond, those go that were looked at least recently


class Computed:
    """Results of one answer by the calls that they answer.

    Examples
    --------
    >>> call = call_of("shapley", (0,), None, {"seed": 0})
    >>> call == call_of("shapley", (0,), None, {}), call == call_of("shapley", (0,), None, {"seed": 1})
    (True, False)
    >>> Computed().get(call, None) is None
    True
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._found: OrderedDict[Hashable, tuple[Any, Attribution]] = OrderedDict()
        self._most_bytes = most_bytes

    @property
    def results(self) -> tuple[Attribution, ...]:
        """All of them, the one that was asked for last at the end."""
        return tuple(found for _, found in list(self._found.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of their scores."""
        return sum(found.nbytes for found in self.results)

    def get(self, call: Hashable, state: Any) -> Attribution | None:
        """The result of a call, if the model was then as it is now.

        Parameters
        ----------
        call
            See `call_of`.
        state
            Of the model, to be compared; None where there is none any more: then whatever was computed counts.
        """
        before, found = self._found.get(call, (None, None))
        if found is None or state not in (None, before):
            return None
        self._found.move_to_end(call)
        return found

    def put(self, call: Hashable, state: Any, found: Attribution) -> None:
        """Keep a result."""
        self._found.pop(call, None)
        self._found[call] = state, found
        while len(self._found) > 1 and self.nbytes > self._most_bytes:
            self._found.popitem(last=False)


def listed(attributions: str | Attribution | Iterable[str | Attribution]) -> list[str | Attribution]:
    """Names of methods and results, as a list; one by itself is a list of one.

    Raises
    ------
    OptionError
        If there is something else among them.

    Examples
    --------
    >>> listed("shapley"), listed(("attention", "rollout"))
    (['shapley'], ['attention', 'rollout'])
    """
    if isinstance(attributions, str) or not isinstance(attributions, Iterable):
        return listed([attributions])
    found = list(attributions)
    for each in found:
        if not isinstance(each, str | Attribution):
            raise OptionError(f"attributions= takes names of methods and results of attribute, not {each!r}")
    return found


def call_of(method: str, token: Any, contrast: str | None, options: Mapping[str, Any]) -> Hashable:
    """What tells one call of `attribute` from another; an option that says what holds anyway makes no difference.

    An option whose content cannot be compared (a function, say) makes a call of its own, which no other equals.
    """
    given = defaults_of(method) | dict(options)
    return method, frozen(token), frozen(contrast), frozen(given)


def frozen(value: Any) -> Hashable:
    """A value by its content, as what can be compared and hashed.

    >>> frozen([1, {"a": 2}]) == frozen((1, {"a": 2})), frozen(1) == frozen(True), frozen(print) == frozen(print)
    (True, False, False)
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), value  # 1, 1.0 and True are not the same option
    if isinstance(value, np.generic):
        return frozen(value.item())
    if isinstance(value, list | tuple | range):
        return tuple(frozen(each) for each in value)
    if isinstance(value, Mapping):
        return frozenset((frozen(name), frozen(each)) for name, each in value.items())
    if isinstance(value, Image.Image):
        return digest_of(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.shape, value.dtype.str, value.tobytes()
    return object()
