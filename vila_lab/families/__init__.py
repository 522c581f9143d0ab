"""Which model families there are, and what each adds to a question. Knows where they stand, and imports none of them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..nvila.prompt_options import NVILAOptions
from .vlm_options import VLMOptions

FAMILIES = {
    "nvila": ("vila_lab.families.nvila", "NVILAFamily"),
    "qwen2_vl": ("vila_lab.families.qwen", "Qwen2VLFamily"),
    "qwen2_5_vl": ("vila_lab.families.qwen", "Qwen25VLFamily"),
    "qwen3_vl": ("vila_lab.families.qwen", "Qwen3VLFamily"),
    "qwen3_vl_moe": ("vila_lab.families.qwen", "Qwen3VLMoeFamily"),
    "glm4v": ("vila_lab.families.qwen", "GLM4VFamily"),
    "glm4v_moe": ("vila_lab.families.qwen", "GLM4VMoeFamily"),
    "llava": ("vila_lab.families.llava", "LlavaFamily"),
    "llava_next": ("vila_lab.families.llava", "LlavaNextFamily"),
    "llava_onevision": ("vila_lab.families.llava", "LlavaOnevisionFamily"),
    "internvl": ("vila_lab.families.tiled", "InternVLFamily"),
    "aya_vision": ("vila_lab.families.tiled", "AyaVisionFamily"),
    "idefics3": ("vila_lab.families.tiled", "Idefics3Family"),
    "smolvlm": ("vila_lab.families.tiled", "SmolVLMFamily"),
    "gemma3": ("vila_lab.families.gemma", "Gemma3Family"),
    "paligemma": ("vila_lab.families.gemma", "PaliGemmaFamily"),
    "paligemma2": ("vila_lab.families.gemma", "PaliGemma2Family"),
    "pixtral": ("vila_lab.families.pixtral", "PixtralFamily"),
    "mistral3": ("vila_lab.families.pixtral", "Mistral3Family"),
}
"""Module and class of every family, by name."""


def name_of(family: type) -> str:
    """What a family is called here; empty for one that is not listed."""
    return next((name for name, (_, attribute) in FAMILIES.items() if attribute == family.__name__), "")


OPTIONS: dict[str, type] = {name: VLMOptions for name in FAMILIES} | {"nvila": NVILAOptions}
"""What a prompt may be told in each family alone, here too so that the command line can list it without loading torch."""


class _Families(ModuleType):
    """`vila_lab.families()` tells which there are, and `vila_lab.families.base` is a module: one name is both."""

    def __call__(self) -> Any:
        """See `vila_lab.families.verified.table`."""
        from .verified import table  # pandas takes its time

        return table()


sys.modules[__name__].__class__ = _Families
