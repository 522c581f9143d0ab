"""NVILA and VILA1.5 behind the seam: from a prompt to model inputs and a TokenMap. Knows no capture and no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from transformers import GenerationConfig

from ..prompt import Picture, Prompt
from ..tokenmap import Kind, TokenMap
from .base import Prepared

if TYPE_CHECKING:
    from ..nvila.layout import PromptLayout
    from ..nvila.modeling_nvila import NVILAForConditionalGeneration
    from ..nvila.processing_nvila import NVILAProcessor


class NVILAFamily:
    """A loaded NVILA or VILA1.5 checkpoint."""

    def __init__(self, model: NVILAForConditionalGeneration, processor: NVILAProcessor) -> None:
        self._model = model
        self.processor = processor

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> NVILAFamily:
        """Load a checkpoint; the options are those of `vila_lab.nvila.checkpoint.load_checkpoint`."""
        from ..nvila.checkpoint import load_checkpoint

        return cls(*load_checkpoint(source, **options))

    @property
    def model(self) -> NVILAForConditionalGeneration:
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def context_length(self) -> int:
        return min(int(self.tokenizer.model_max_length), int(self.model.config.text_config.max_position_embeddings))

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        layers: nn.ModuleList = self.model.language_model.model.layers
        return list(layers)

    def prepare(self, prompt: Prompt, *, conv_mode: str = "auto", tile_all_images: bool = False) -> Prepared:
        parts = [part.image if isinstance(part, Picture) else part for part in prompt.parts]
        features, layout = self.processor.prepare(parts, conv_mode=conv_mode, tile_all_images=tile_all_images)
        device = self.model.get_input_embeddings().weight.device
        inputs = {name: value.to(device) for name, value in features.items()}
        token_map = token_map_of(layout, [image.size for image in prompt.images])
        return Prepared(inputs, token_map, self.processor.resolve_conv_mode(conv_mode))

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model.embed(inputs["input_ids"], inputs.get("pixel_values"), inputs.get("block_sizes"))

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.language_model.model.norm
        return norm

    def generation_config(self, conv_mode: str) -> GenerationConfig:
        from ..nvila.generation import default_generation_config

        return default_generation_config(self.processor, self.model.config.text_config, conv_mode)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def token_map_of(layout: PromptLayout, sizes: Sequence[tuple[int, int]]) -> TokenMap:
    """The token map of a laid-out prompt."""
    length = len(layout.input_ids)
    kind = np.full(length, Kind.TEMPLATE, np.int8)
    picture, tile, scale = (np.full(length, -1, np.int32) for _ in range(3))
    box = np.full((length, 4), np.nan)
    for start, stop in layout.user_spans:
        overlaps = (layout.offsets[:, 0] < stop) & (layout.offsets[:, 1] > start)
        kind[overlaps] = Kind.TEXT
    kind[layout.separators] = Kind.SEPARATOR
    for block in layout.blocks:
        mine = slice(block.start, block.stop)
        kind[mine], picture[mine], tile[mine], scale[mine], box[mine] = (
            Kind.IMAGE,
            block.picture,
            block.tiles,
            block.scale,
            block.boxes,
        )
    _give_separators(kind, picture)
    return TokenMap(kind, picture, tile, scale, box, layout.offsets.astype(np.int32), layout.text, tuple(sizes))


def _give_separators(kind: np.ndarray, picture: np.ndarray) -> None:
    """A separator belongs to the picture that stands before it, or behind it if none does."""
    for position in np.flatnonzero(kind == Kind.SEPARATOR):
        before = picture[position - 1] if position else -1
        after = picture[position + 1 :][picture[position + 1 :] >= 0][:1]
        picture[position] = before if before >= 0 else (after[0] if after.size else -1)
