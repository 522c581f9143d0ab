"""Pixtral and Mistral 3: pictures at their own shape, a token behind every line of patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .geometry import grid_of_size
from .patches import in_lines
from .vlm import VLMFamily


class PixtralFamily(VLMFamily):
    """A checkpoint of LLaVA's classes with Pixtral's tower."""

    model_types = ("llava",)
    processor_class = "PixtralProcessor"
    packages = ("torchvision",)
    rows = grid_of_size
    tower = in_lines
    tiles_are_whole = False

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return super().matches(config) and (config.get("vision_config") or {}).get("model_type") == "pixtral"


class Mistral3Family(VLMFamily):
    model_types = ("mistral3",)
    processor_class = "PixtralProcessor"
    packages = ("torchvision",)
    rows = grid_of_size
    tower = in_lines
    tiles_are_whole = False
