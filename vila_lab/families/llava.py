"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision: CLIP or SigLIP, one square or any resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .geometry import Rows, Seen, any_resolution, any_resolution_or_padded, cropped, padded, squashed
from .patches import Patches, Read, in_canvas, in_squares, in_tiles
from .vlm import VLMFamily


def _one_square(seen: Seen) -> Rows:
    """Cropped, padded or squashed, whichever the checkpoint's image processor does."""
    cutter = seen.processor.image_processor
    if getattr(cutter, "do_pad", False):
        return padded(seen)
    return cropped(seen) if getattr(cutter, "do_center_crop", False) else squashed(seen)


def _tile_of_square(read: Read) -> Patches:
    return in_squares(read) if getattr(read.processor.image_processor, "do_pad", False) else in_tiles(read)


def _canvas_or_squares(read: Read) -> Patches:
    return in_canvas(read) if len(read.sizes) == 1 else in_squares(read)


class LlavaFamily(VLMFamily):
    model_types = ("llava",)
    processor_class = "LlavaProcessor"
    rows = _one_square
    tower = _tile_of_square

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return super().matches(config) and (config.get("vision_config") or {}).get("model_type") != "pixtral"


class LlavaNextFamily(VLMFamily):
    model_types = ("llava_next",)
    processor_class = "LlavaNextProcessor"
    rows = any_resolution
    tower = in_canvas
    tiles_are_whole = False


class LlavaOnevisionFamily(VLMFamily):
    """Of several pictures none is cut into tiles, so a picture beside others is another one than the picture alone."""

    model_types = ("llava_onevision",)
    processor_class = "LlavaOnevisionProcessor"
    rows = any_resolution_or_padded
    tower = _canvas_or_squares
    tiles_are_whole = False
    reads_alone = False
    box_tolerance = 9.0  # features are interpolated
