"""An NVILA of random weights in any shape, made where it stays, and a question about pictures of noise. Knows no measurement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vila_lab.families.nvila import NVILAFamily
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.nvila.processing_nvila import NVILAProcessor
from vila_lab.session import Session
from vila_lab.tiny import weights_folder

QUESTION = "What is in image 1?"


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and how much is asked of it."""

    layers: int = 28
    width: int = 3584
    inner: int = 18944
    heads: int = 28
    key_heads: int = 4
    rows: int = 151_648
    tower_layers: int = 27
    tower_width: int = 1152
    tower_inner: int = 4304
    tower_heads: int = 16
    tile: int = 448
    context: int = 32768
    pictures: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 33
    explained: int = 8  # tokens of an answer that is attributed
    rounds: int = 3


SMALL = Shape(2, 64, 128, 4, 2, 2048, 2, 32, 64, 4, 56, 4096, (1, 2), 4, 2, 1)
# The decoder's, with a small tower, so that what is measured is the decoder's.
HALF_B = Shape(
    layers=24, width=896, inner=4864, heads=14, key_heads=2, rows=4096, tower_layers=2, tower_width=64, tower_inner=256,
    tower_heads=4,
)  # fmt: skip


def tokenizer(rows: int, context: int) -> PreTrainedTokenizerFast:
    """The embedded model's, made as long as the decoder: every id has a text, no text is cut otherwise."""
    folder = weights_folder() / "llm"
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    words, special = content["model"]["vocab"], content["added_tokens"]
    first = rows - len(special)
    words |= {f"w{number}": number for number in range(len(words), first)}  # no merge leads there
    for number, token in enumerate(special, first):
        token["id"] = number
    kept = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token", "chat_template")}
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), model_max_length=context, **kept
    )
    return found


def configuration(shape: Shape, words: PreTrainedTokenizerFast) -> NVILAConfig:
    """NVILA-8B's: SigLIP so400m, three scales of a single picture, Qwen2."""
    text = {
        "model_type": "qwen2", "vocab_size": shape.rows, "hidden_size": shape.width, "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.key_heads,
        "max_position_embeddings": shape.context, "tie_word_embeddings": False, "rope_theta": 1e6,
        # So that scores differ by about 1 at any width: under flat attention no cut would change much.
        "initializer_range": 1.2 * shape.width**-0.5,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": shape.tower_width, "intermediate_size": shape.tower_inner,
        "num_hidden_layers": shape.tower_layers, "num_attention_heads": shape.tower_heads, "image_size": shape.tile,
        "patch_size": 14,
    }  # fmt: skip
    return NVILAConfig(
        text, vision, image_aspect_ratio="dynamic_s2", s2_resize_output_to_scale_idx=-1, mm_vision_select_layer=-2
    )


def random_session(shape: Shape, device: str, dtype: torch.dtype) -> Session:
    """A session of random weights, made where they stay."""
    words = tokenizer(shape.rows, shape.context)
    config = configuration(shape, words)
    cutter = NVILAImageProcessor(
        size={"height": shape.tile, "width": shape.tile},
        image_aspect_ratio=config.image_aspect_ratio,
        s2_scales=config.s2_scales,
        s2_resize_output_to_scale_idx=config.s2_resize_output_to_scale_idx,
    )
    processor = NVILAProcessor(cutter, words, grid=config.token_grid)
    config.image_token_id, config.conv_mode = processor.image_token_id, processor.conv_mode
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = NVILAForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    with torch.no_grad():
        # Logits of 0 are never the largest of thousands of random ones, so no answer ends before its last token.
        model.language_model.get_output_embeddings().weight[processor.stop_token_ids()] = 0
    return Session(NVILAFamily(model, processor), "random weights")


def question(shape: Shape, count: int) -> list[Any]:
    """Pictures of noise, each its own, and a text."""
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, shape.tile, shape.tile, 3), dtype=np.uint8)
    return [*map(Image.fromarray, pixels), QUESTION]
