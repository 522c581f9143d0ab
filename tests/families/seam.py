"""Families of a few lines for tiny random models of transformers' own: enough to embed a prompt and to decode it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from vila_lab.families.decoder import Components, Decoder
from vila_lab.families.embedded import Embedded
from vila_lab.upstream import CACHE, made_cache

VOCABULARY, IMAGE = 128, 100
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


class Throwaway(Decoder):
    """A family that takes a model's own inputs for a prompt."""

    pixels = "pixel_values"
    image_token = IMAGE

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        raise NotImplementedError

    def _vectors(self, inputs: Mapping[str, Tensor], features: Tensor) -> Tensor:
        embeddings = self.model.get_input_embeddings()(inputs["input_ids"])
        places = (inputs["input_ids"] == IMAGE)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(places, features.to(embeddings.dtype))[0]

    def _through(self, layers: Any, embedded: Embedded, copies: int, cache: Any, rows: Tensor, **more: Any) -> Any:
        """The decoder below the model's own forward."""
        positions = embedded.positions[..., None, :]
        output = layers(
            inputs_embeds=embedded.vectors[None].expand(copies, -1, -1),
            position_ids=positions.expand(*positions.shape[:-2], copies, -1),
            **{CACHE: cache},
            use_cache=cache is not None,
            **more,
        )
        return self.model.lm_head(output.last_hidden_state[:, rows]), made_cache(output)


class Qwen25(Throwaway):
    """Positions with three axes."""

    components = Components(layers="model.language_model.layers", norm="model.language_model.norm")

    @torch.no_grad()
    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        features = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        vectors = self._vectors(inputs, torch.cat(list(features.pooler_output)))
        positions = self.model.model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )[0]  # fmt: skip
        return Embedded(vectors, positions[:, 0], None, self._deep(inputs, features))

    def _deep(self, inputs: Mapping[str, Tensor], features: Any) -> tuple[Tensor, ...]:
        return ()

    def _run(self, embedded: Embedded, copies: int, cache: Any, rows: Tensor) -> tuple[Tensor, Any]:
        if embedded.positions.ndim == 1:  # text alone
            embedded = Embedded(embedded.vectors, embedded.positions.expand(3, -1), None, embedded.deep)
        deep = {}
        if embedded.deep:
            everywhere = torch.ones(copies, len(embedded), dtype=torch.bool)
            stacked = [each[None].expand(copies, -1, -1).flatten(0, 1) for each in embedded.deep]
            deep = {"visual_pos_masks": everywhere, "deepstack_visual_embeds": stacked}
        layers = self.model.model.language_model
        return self._through(layers, embedded, copies, cache, rows, attention_mask=None, **deep)


class Qwen3(Qwen25):
    """And features that are added behind the first layers."""

    def _deep(self, inputs: Mapping[str, Tensor], features: Any) -> tuple[Tensor, ...]:
        visual = inputs["input_ids"][0] == IMAGE
        found = []
        for each in features.deepstack_features:
            rows = torch.cat(list(each)) if isinstance(each, list | tuple) else each
            whole = rows.new_zeros(len(visual), rows.shape[-1])
            whole[visual] = rows
            found.append(whole)
        return tuple(found)


class Gemma3(Throwaway):
    """Pictures whose tokens see each other both ways, in layers with and without a window."""

    components = Components(layers="model.language_model.layers", norm="model.language_model.norm")
    first = 0  # position

    @torch.no_grad()
    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        features = self.model.model.get_image_features(inputs["pixel_values"])
        vectors = self._vectors(inputs, features.pooler_output.flatten(0, -2))
        return Embedded(vectors, torch.arange(len(vectors)) + self.first, self._blocks(inputs))

    def _blocks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        visual = inputs["input_ids"][0] == IMAGE
        begins = visual & ~torch.nn.functional.pad(visual, (1, 0))[:-1]
        return torch.where(visual, begins.long().cumsum(0) - 1, -1)

    def _run(self, embedded: Embedded, copies: int, cache: Any, rows: Tensor) -> tuple[Tensor, Any]:
        before = 0 if cache is None else cache.get_seq_length()
        config = self.model.config.get_text_config()
        blocks = torch.full((len(embedded),), -1) if embedded.blocks is None else embedded.blocks
        blocks = torch.nn.functional.pad(blocks, (before, 0), value=-1)  # no block reaches back into the cache
        options = {
            "config": config,
            "inputs_embeds": embedded.vectors[None].expand(copies, -1, -1),
            "attention_mask": torch.ones(copies, before + len(embedded), dtype=torch.int64),
            CACHE: cache,
            "position_ids": embedded.positions[None].expand(copies, -1),
            "block_sequence_ids": blocks[None].expand(copies, -1),
        }
        masks = {"full_attention": create_causal_mask(**options)}
        if getattr(config, "sliding_window", None):
            masks["sliding_attention"] = create_sliding_window_causal_mask(**options)
        mask = masks if len(masks) > 1 else masks["full_attention"]
        layers = self.model.model.language_model
        return self._through(layers, embedded, copies, cache, rows, attention_mask=mask)


class PaliGemma(Gemma3):
    """A prompt that is one block as a whole; positions count from 1."""

    first = 1

    def _blocks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.where(inputs["token_type_ids"][0] == 0, 0, -1)


class PaliGemma2(PaliGemma):
    """And layers with a window that the prompt's block reaches over, and logits that are capped by the text model alone."""


GEMMA2 = {
    "model_type": "gemma2", "query_pre_attn_scalar": 8, "sliding_window": 6, "attn_logit_softcapping": 5.0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "final_logit_softcapping": None,
}  # fmt: skip


def _qwen(kind: str) -> tuple[Any, dict[str, Tensor], int]:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "spatial_merge_size": 2,
    }
    ids = {"image_token_id": IMAGE, "video_token_id": 101, "vision_start_token_id": 102, "vision_end_token_id": 103}
    if kind == "2.5":
        vision |= {"depth": 2, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
        config = transformers.Qwen2_5_VLConfig(
            text_config={**TEXT, "rope_parameters": ROPE}, vision_config=vision, **ids
        )
        model, patch = transformers.Qwen2_5_VLForConditionalGeneration(config), 14
    else:
        rope = {"head_dim": 8, "rope_parameters": {**ROPE, "mrope_interleaved": True}}
        vision |= {"depth": 3, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        config = transformers.Qwen3VLConfig(text_config={**TEXT, **rope}, vision_config=vision, **ids)
        model, patch = transformers.Qwen3VLForConditionalGeneration(config), 16
    grids = torch.tensor([[1, 8, 8], [1, 4, 6]])  # two pictures of different sizes
    counts = (grids.prod(1) // 4).tolist()
    inputs = torch.tensor([[5, 6, 102, *[IMAGE] * counts[0], 103, 7, 102, *[IMAGE] * counts[1], 103, 8, 9, 10]])
    return (
        model,
        {
            "input_ids": inputs,
            "attention_mask": torch.ones_like(inputs),
            "pixel_values": torch.randn(int(grids.prod(1).sum()), 3 * 2 * patch * patch),
            "image_grid_thw": grids,
            "mm_token_type_ids": (inputs == IMAGE).long(),
        },
        10,
    )


def _gemma() -> tuple[Any, dict[str, Tensor], int]:
    layers = ["sliding_attention", "full_attention", "full_attention"]
    config = transformers.Gemma3Config(
        text_config={
            **TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64, "layer_types": layers,
        },
        vision_config=_siglip(), mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=102, eoi_token_index=103,
    )  # fmt: skip
    inputs = torch.tensor([[5, 6, 102, *[IMAGE] * 4, 103, 7, 102, *[IMAGE] * 4, 103, 8, 9, 10]])
    return (
        transformers.Gemma3ForConditionalGeneration(config),
        {
            "input_ids": inputs,
            "attention_mask": torch.ones_like(inputs),
            "pixel_values": torch.randn(2, 3, 56, 56),
            "token_type_ids": (inputs == IMAGE).long(),
        },
        9,  # between two pictures: a block cannot be cut
    )


def _paligemma(text: dict[str, Any]) -> tuple[Any, dict[str, Tensor], int]:
    config = transformers.PaliGemmaConfig(
        text_config={**TEXT, "head_dim": 8, **text},
        vision_config={**_siglip(), "model_type": "siglip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE, projection_dim=32, hidden_size=32,
    )  # fmt: skip
    inputs = torch.tensor([[*[IMAGE] * 16, 1, 8, 9, 10, 11]])
    types = torch.zeros_like(inputs)
    types[:, -1] = 1  # a suffix, so that there is somewhere to cut
    return (
        transformers.PaliGemmaForConditionalGeneration(config),
        {
            "input_ids": inputs,
            "attention_mask": torch.ones_like(inputs),
            "pixel_values": torch.randn(1, 3, 56, 56),
            "token_type_ids": types,
        },
        20,
    )


def _siglip() -> dict[str, Any]:
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
        "patch_size": 14,
    }  # fmt: skip


UPSTREAM: dict[str, tuple[type[Throwaway], Any]] = {
    "Qwen2.5-VL": (Qwen25, lambda: _qwen("2.5")),
    "Qwen3-VL": (Qwen3, lambda: _qwen("3")),
    "Gemma 3": (Gemma3, _gemma),
    "PaliGemma": (PaliGemma, lambda: _paligemma({"model_type": "gemma"})),
    "PaliGemma 2": (PaliGemma2, lambda: _paligemma(GEMMA2)),
}


def made(name: str) -> tuple[Throwaway, dict[str, Tensor], int]:
    """A family on a tiny random model, inputs of a prompt, and where its sequence may be cut in two."""
    kind, make = UPSTREAM[name]
    if issubclass(kind, Gemma3) and "block_sequence_ids" not in inspect.signature(create_causal_mask).parameters:
        pytest.skip("this version of transformers makes masks of blocks otherwise")
    torch.manual_seed(0)
    model, inputs, cut = make()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "q_proj" in parameter_name or "k_proj" in parameter_name:
                parameter.mul_(12)  # attention of random weights is flat, and then no mask and no position matters
    return kind(model.eval(), None), inputs, cut
