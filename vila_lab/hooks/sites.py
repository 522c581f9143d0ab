"""Where a model's attention modules are and what each of them would call. Knows nothing of rows or recording.

An attention module is recognised by what it does, not by its name: its forward looks its function up in transformers'
`AttentionInterface`. SigLIP's modules carry no `layer_idx`, so the layer also comes from the module's path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from vila_lab.errors import CaptureError, OptionError
from vila_lab.upstream import (
    AttentionFunction,
    attention_function,
    attention_name,
    calls_attention_function,
    leaves_softcap_out,
)

if TYPE_CHECKING:
    import pandas as pd

SHADOW_OF = "_vila_lab_shadow_of"
"""Attribute of a config that stands in for another one while a module is acted on (see `vila_lab.hooks.call`)."""


@dataclass(frozen=True)
class Site:
    """One attention module.

    Attributes
    ----------
    name : str
        Path of the module in the model.
    module : nn.Module
    owner : nn.Module
        The nearest enclosing `PreTrainedModel`: the tower whose forward runs all layers once.
    tower : str
        "text" for the decoder, "vision" for everything else.
    layer : int
        Counted from 0 in the order of the layers; equal to `layer_idx` in a decoder.
    """

    name: str
    module: nn.Module
    owner: nn.Module
    tower: str
    layer: int


def find_sites(model: PreTrainedModel) -> list[Site]:
    """All attention modules of a model that go through `AttentionInterface`, each with its tower and layer."""
    found = [(name, module) for name, module in model.named_modules() if calls_attention_function(module)]
    text_config = model.config.get_text_config(decoder=True)
    numbered = {name for name, module in found if isinstance(getattr(module, "layer_idx", None), int)}
    by_config = any(name in numbered and config_of(module) is text_config for name, module in found)
    sites = []
    for name, module in found:
        has_layer = name in numbered
        is_text = has_layer and (config_of(module) is text_config or not by_config)
        layer = module.layer_idx if has_layer else _last_number(name)
        sites.append(Site(name, module, _owner(model, name), "text" if is_text else "vision", int(layer)))
    return sites


def select_sites(model: PreTrainedModel, towers: tuple[str, ...]) -> dict[str, list[Site]]:
    """The attention modules of the named towers, by tower, ordered by layer.

    Raises
    ------
    OptionError
        If a tower is unknown or the model has none of that kind; the message lists those it has.
    CaptureError
        If two modules claim the same layer of a tower, so that their rows could not be told apart.
    """
    sites = find_sites(model)
    known = sorted({site.tower for site in sites})
    chosen: dict[str, list[Site]] = {}
    for tower in towers:
        members = sorted((site for site in sites if site.tower == tower), key=lambda site: site.layer)
        if not members:
            raise OptionError(
                f"{type(model).__name__} has no tower {tower!r} whose attention goes through AttentionInterface; it has {known or 'none'}."
            )
        for first, second in pairwise(members):
            if first.layer == second.layer:
                raise CaptureError(
                    f"{first.name} and {second.name} both claim layer {first.layer} of the {tower} tower; capture the sub-model you mean instead."
                )
        chosen[tower] = members
    return chosen


def implementation_of(site: Site) -> str:
    """Name of the attention implementation that a module would use now."""
    return attention_name(site.module.config)


def heads_of(site: Site) -> int:
    """Number of query heads of a module."""
    module: Any = site.module
    return int(getattr(module, "num_heads", None) or module.config.num_attention_heads)


def config_of(module: Any) -> Any:
    """The module's own config, also while another one stands in for it."""
    return getattr(module.config, SHADOW_OF, module.config)


def base_function(site: Site) -> AttentionFunction:
    """The attention function that a module would call now."""
    name = implementation_of(site)
    if "flex" in name or name.startswith("paged"):
        raise CaptureError(
            f"attention cannot be captured under the {name!r} implementation; load the model with attn_implementation='sdpa'."
        )
    if leaves_softcap_out(site.module, name):
        raise CaptureError(
            f"under {name!r} the installed transformers leaves out the soft-cap of {site.name}, so its attention is not that of the "
            "model; load it with attn_implementation='eager'."
        )
    base = attention_function(site.module, name)
    if base is None:
        raise CaptureError(
            f"{site.name} has no eager attention function to wrap; load the model with attn_implementation='sdpa'."
        )
    return base


def _owner(model: PreTrainedModel, name: str) -> nn.Module:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        parent = model.get_submodule(".".join(parts[:length]))
        if isinstance(parent, PreTrainedModel):
            return parent
    return model


def _last_number(name: str) -> int:
    numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
    return int(numbers[-1]) if numbers else 0


def layer_table(model: PreTrainedModel, tower: str) -> pd.DataFrame:
    """The layers of the "text" or "vision" tower, one row each; see `Session.cross_modal_layers`."""
    import pandas as pd

    sites = sorted((site for site in find_sites(model) if site.tower == tower), key=lambda site: site.layer)
    return pd.DataFrame(map(_layer_row, sites), index=pd.Index([site.layer for site in sites], name="layer"))


def _layer_row(site: Site) -> dict[str, Any]:
    module: Any = site.module
    config = module.config
    heads = heads_of(site)
    return {
        "name": site.name,
        "heads": heads,
        "kv_heads": int(getattr(config, "num_key_value_heads", None) or heads),
        "window": getattr(module, "sliding_window", None),
        "implementation": implementation_of(site),
    }
