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

from vila_lab.capture.towers import SHADOW_OF, Site, config_of
from vila_lab.upstream import config_with_attention


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
    """
    before: list[tuple[Any, Any]] = []
    shadows: dict[int, Any] = {}
    try:
        for site, slot in slots.items():
            config = site.module.config
            if id(config) not in shadows:
                shadows[id(config)] = config_with_attention(config, implementation)
                setattr(shadows[id(config)], SHADOW_OF, config_of(site.module))
            before.append((site.module, config))
            site.module.__dict__[attribute] = slot
            site.module.config = shadows[id(config)]
        yield
    finally:
        for module, config in before:
            module.config = config
            module.__dict__.pop(attribute, None)
