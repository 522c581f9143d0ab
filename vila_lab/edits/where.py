"""Which layers and heads: from what a user writes to heads by layer, checked against the model. Knows no positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

from ..attribution.attention import named_heads
from ..errors import NoEffect, OptionError
from ..families.base import Family
from ..hooks.edits import Where

Layers: TypeAlias = "int | Sequence[int] | None"
Heads: TypeAlias = "str | int | Sequence[int] | Sequence[tuple[int, int]] | None"


@dataclass(frozen=True)
class Shape:
    """Layers of a decoder, query heads of each, and the named head sets of its session."""

    layers: int
    heads: int
    head_sets: Mapping[str, Sequence[tuple[int, int]]]

    @classmethod
    def of(cls, family: Family, head_sets: Mapping[str, Sequence[tuple[int, int]]]) -> Shape:
        text = family.model.config.get_text_config(decoder=True)
        return cls(len(family.decoder_layers), int(text.num_attention_heads), head_sets)


def resolve(shape: Shape, layers: Layers = None, heads: Heads = None) -> Where:
    """Heads by layer.

    Parameters
    ----------
    layers
        One, several, or None for all; negative counts from the last.
    heads
        None for all; numbers of heads, taken in every chosen layer; (layer, head) pairs; or the name of a head set.

    Raises
    ------
    NoEffect
        If a layer or a head does not exist.
    OptionError
        If a head set is unknown, or layers are given twice.

    Examples
    --------
    >>> resolve(Shape(3, 4, {"routing": [(1, 0), (1, 3)]}), heads="routing")
    {1: (0, 3)}
    >>> resolve(Shape(3, 4, {}), layers=-1)
    {2: None}
    """
    named = named_heads(shape.head_sets, heads) if isinstance(heads, str) else heads
    wanted = None if named is None else _listed(named, "heads")
    if wanted is not None and not wanted:
        raise NoEffect("heads=[] names no head; leave it out for all of them")
    if wanted and not isinstance(wanted[0], Integral):
        if layers is not None:
            raise OptionError("give layers= or heads= as (layer, head) pairs, not both: the pairs name their layers")
        found: dict[int, tuple[int, ...]] = {}
        for layer, head in _pairs(wanted):
            index = _checked(layer, shape.layers, "layer")
            found[index] = (*found.get(index, ()), _checked(head, shape.heads, "head"))
        return {layer: tuple(sorted(set(members))) for layer, members in sorted(found.items())}
    chosen = list(range(shape.layers)) if layers is None else _listed(layers, "layers")
    if not chosen:
        raise NoEffect("layers=[] names no layer; leave it out for all of them")
    members = None if wanted is None else tuple(sorted({_checked(head, shape.heads, "head") for head in wanted}))
    return dict.fromkeys(sorted({_checked(layer, shape.layers, "layer") for layer in chosen}), members)


def in_words(where: Where, shape: Shape, heads: Heads = None) -> str:
    """The heads in words.

    >>> in_words({2: None}, Shape(3, 4, {})), in_words({0: (1,), 1: (1,)}, Shape(2, 4, {}))
    ('all heads of layer 2', 'head 1 of all layers')
    """
    if isinstance(heads, str):
        return f"the {heads} heads"
    which = (
        "all layers" if len(where) == shape.layers else f"layer{'s' * (len(where) > 1)} {', '.join(map(str, where))}"
    )
    sets = set(where.values())
    if sets == {None}:
        return "all layers and heads" if len(where) == shape.layers else f"all heads of {which}"
    if len(sets) == 1:
        (members,) = sets
        assert members is not None
        return f"head{'s' * (len(members) > 1)} {', '.join(map(str, members))} of {which}"
    return "heads " + ", ".join(f"{layer}.{head}" for layer, members in where.items() for head in members or ())


def _listed(given: Any, what: str) -> list[Any]:
    """One number or several, as a list; numpy's count too."""
    if isinstance(given, Integral):
        return [given]
    try:
        return list(given)
    except TypeError:
        raise OptionError(f"{what} are whole numbers counted from 0, not {given!r}") from None


def _pairs(wanted: Sequence[Any]) -> list[tuple[Any, Any]]:
    try:
        return [(layer, head) for layer, head in wanted]
    except (TypeError, ValueError):
        raise OptionError(f"heads are numbers, or (layer, head) pairs throughout, not {list(wanted)!r}") from None


def _checked(value: Any, count: int, what: str) -> int:
    if not isinstance(value, Integral):
        raise OptionError(f"a {what} is a whole number counted from 0, not {value!r}")
    number = int(value)
    if not -count <= number < count:
        raise NoEffect(
            f"there is no {what} {number}: the decoder has {count} {what}s{' a layer' * (what == 'head')}, counted from 0"
        )
    return number % count
