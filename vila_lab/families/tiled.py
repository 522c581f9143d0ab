"""InternVL, Aya Vision, Idefics 3 and SmolVLM: tiles row by row, the whole picture last."""

from __future__ import annotations

from .geometry import tiles_by_marker, tiles_by_shape
from .vlm import VLMFamily


class InternVLFamily(VLMFamily):
    model_types = ("internvl",)
    processor_class = "InternVLProcessor"
    rows = tiles_by_shape


class AyaVisionFamily(VLMFamily):
    model_types = ("aya_vision",)
    processor_class = "AyaVisionProcessor"
    rows = tiles_by_shape


class Idefics3Family(VLMFamily):
    model_types = ("idefics3",)
    processor_class = "Idefics3Processor"
    rows = tiles_by_marker
    tiles_are_whole = False


class SmolVLMFamily(VLMFamily):
    model_types = ("smolvlm",)
    processor_class = "SmolVLMProcessor"
    packages = ("torchvision", "num2words")
    rows = tiles_by_marker
    tiles_are_whole = False
