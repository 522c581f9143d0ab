"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V, with experts or without: pictures at their own shape, positions with three axes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .geometry import grid_of_patches
from .patches import in_groups, in_windows
from .vlm import VLMFamily


class QwenFamily(VLMFamily):
    """What they have in common."""

    rows = grid_of_patches
    tower = in_groups
    tiles_are_whole = False
    brackets = 1
    axes = 3

    def positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Time, height and width: inside a picture they count cells, behind it all three go on from the largest."""
        given = {
            name: inputs[name] for name in ("mm_token_type_ids", "image_grid_thw", "attention_mask") if name in inputs
        }
        found: Tensor = self.model.model.get_rope_index(inputs["input_ids"], **given)[0]
        return found[:, 0]


class Qwen2VLFamily(QwenFamily):
    model_types = ("qwen2_vl",)
    processor_class = "Qwen2VLProcessor"


class Qwen25VLFamily(QwenFamily):
    model_types = ("qwen2_5_vl",)
    processor_class = "Qwen2_5_VLProcessor"
    tower = in_windows


class Qwen3VLFamily(QwenFamily):
    """Adds features of several depths of its tower behind its first layers."""

    model_types = ("qwen3_vl",)
    processor_class = "Qwen3VLProcessor"


class GLM4VFamily(QwenFamily):
    model_types = ("glm4v",)
    processor_class = "Glm4vProcessor"


class Qwen3VLMoeFamily(Qwen3VLFamily):
    """With experts in the place of every MLP."""

    model_types = ("qwen3_vl_moe",)
    switches_experts = True


class GLM4VMoeFamily(GLM4VFamily):
    """GLM-4.5V: with experts in the place of most MLPs."""

    model_types = ("glm4v_moe",)
    switches_experts = True
