"""Gemma 3, PaliGemma and PaliGemma 2: squares, and rows that see each other both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptError
from ..prompt import Prompt
from .base import Prepared
from .geometry import squashed
from .rendering import Message
from .vlm import VLMFamily
from .vlm_options import VLMOptions


class Gemma3Family(VLMFamily):
    """The rows of a picture see each other both ways."""

    model_types = ("gemma3",)
    processor_class = "Gemma3Processor"
    rows = squashed
    marker = "boi_token"

    def blocks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        visual = inputs["token_type_ids"][0] == 1
        begins = visual & ~torch.nn.functional.pad(visual, (1, 0))[:-1]
        return torch.where(visual, begins.long().cumsum(0) - 1, -1)


class PaliGemmaFamily(VLMFamily):
    """All pictures, then the words; every row of the prompt sees every other. Its models were not trained on several pictures."""

    model_types = ("paligemma",)
    processor_class = "PaliGemmaProcessor"
    rows = squashed
    first_position = 1
    keeps_order = False
    needs_no_picture = False
    puts_on_white = False

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return super().matches(config) and cls._text_type(config) != "gemma2"

    @staticmethod
    def _text_type(config: Mapping[str, Any]) -> Any:
        return (config.get("text_config") or {}).get("model_type")

    @classmethod
    def default_template(cls) -> str:
        """Its checkpoints have none: markers, and then the words."""
        return (
            "{%- for m in messages -%}{%- for c in m.content if c.type == 'image' -%}{{ '<image>' }}{%- endfor -%}"
            "{%- for c in m.content if c.type == 'text' -%}{{ c.text }}{%- endfor -%}{%- endfor -%}"
        )

    def prepare(self, prompt: Prompt, options: VLMOptions | None = None) -> Prepared:
        if not prompt.pictures:
            raise PromptError("PaliGemma answers no question without a picture; give one")
        if prompt.history:
            raise PromptError("PaliGemma holds no conversation: ask one question, its pictures with it")
        return super().prepare(prompt, options)

    def written(self, messages: list[Message]) -> str:
        pictures, marker, words = super().written(messages).rpartition(self.processor.image_token)
        return f"{pictures}{marker}{self.tokenizer.bos_token}{words}\n"

    def typed(self, text: str) -> str:
        return text.replace(self.tokenizer.bos_token, "", 1)[:-1]  # the processor writes both by itself

    def blocks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(inputs["input_ids"][0])


class PaliGemma2Family(PaliGemmaFamily):
    """PaliGemma on Gemma 2, whose layers look through a window by turns, which the prompt's block reaches over."""

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") in cls.model_types and cls._text_type(config) == "gemma2"

    @classmethod
    def load(cls, folder: Path, name: str, **given: Any) -> VLMFamily:
        """Eager where nobody says otherwise: transformers before 5.21 takes sdpa, and leaves the soft-cap out."""
        return super().load(folder, name, **{"attn_implementation": "eager"} | given)
