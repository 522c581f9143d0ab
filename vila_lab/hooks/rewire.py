"""Puts another attention function into chosen attention modules for the length of a block. Knows no numerics.

Only these modules are touched: each gets a shallow copy of its config in which the attention implementation is another one.
The model's own config keeps its implementation. So masks are built by the wrapped implementation itself (padding cannot
get lost), a second model that shares the config object does not notice, and taking the function out means putting the same
config object back. What the function needs lies in an attribute of the module, never in a global.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vila_lab.errors import CaptureError
from vila_lab.hooks.towers import SHADOW_OF, Site, config_of
from vila_lab.interrupts import uninterrupted
from vila_lab.upstream import config_with_attention

WAY_OUT = "leave that block first, or load the model again if an interrupt left it so."


@contextmanager
def rewired(slots: Mapping[Site, Any], attribute: str, implementation: str) -> Iterator[None]:
    """The modules of `slots` answer through a registered attention function inside, and are afterwards as before.

    Parameters
    ----------
    slots
        For each module what the function finds there, under `attribute`.
    attribute
        Name of the module's attribute.
    implementation
        Name under which the function is registered with transformers' `AttentionInterface`.

    Raises
    ------
    CaptureError
        If a module has a slot of that name already.
    """
    before: list[tuple[Any, Any, Any]] = []
    shadows: dict[int, Any] = {}
    try:
        try:
            for site, slot in slots.items():
                config = site.module.config
                before.append((site.module, config, slot))
                # One step, so that of two threads only one finds the module free.
                if site.module.__dict__.setdefault(attribute, slot) is not slot:
                    raise CaptureError(f"{site.name} is already being captured or edited; {WAY_OUT}")
                if id(config) not in shadows:
                    shadows[id(config)] = config_with_attention(config, implementation)
                    setattr(shadows[id(config)], SHADOW_OF, config_of(site.module))
                site.module.config = shadows[id(config)]
            yield
        finally:
            _put_back(before, attribute)
    finally:  # again: a Ctrl-C may have come while the first ran
        _put_back(before, attribute)


def _put_back(before: list[tuple[Any, Any, Any]], attribute: str) -> None:
    with uninterrupted():
        for module, config, slot in before:
            if module.__dict__.get(attribute) is slot:
                module.config = config
                del module.__dict__[attribute]
