"""Tiny random decoders of every supported kind of attention, sharpened so that their attention is far from uniform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from vila_lab.upstream import attention_name

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# name -> (model class, config class, what differs from SIZES)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 6}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {"attn_logit_softcapping": 5.0, "sliding_window": 6, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
        },
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "sliding_window": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
}


def build(family: str, attn: str | None = None, sharp: float = 12.0, **changes: Any) -> PreTrainedModel:
    model_name, config_name, extra = FAMILIES[family]
    torch.manual_seed(0)
    chosen = {} if attn is None else {"attn_implementation": attn}
    config = getattr(transformers, config_name)(**{**SIZES, **extra, **changes, **chosen})
    model: PreTrainedModel = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sinks" in name:
                parameter.normal_()
            elif "q_norm" in name:
                parameter.fill_(sharp / 4)
            elif "q_proj" in name or "k_proj" in name or "qkv_proj" in name:
                parameter.mul_(
                    sharp
                )  # initial weights of 0.02 would make every row flat, and a flat row hides mistakes
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make() -> Callable[..., PreTrainedModel]:
    """``make(family, attn=None, sharp=12, **config changes)``: a fresh tiny model."""
    return build


@pytest.fixture
def prompt() -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], (1, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def generate() -> Callable[..., Any]:
    """``generate(model, ids, tokens=6, **options)``: ids of a generation of exactly that many tokens."""

    def run(model: PreTrainedModel, ids: torch.Tensor, tokens: int = 6, **options: Any) -> torch.Tensor:
        mask = options.pop("attention_mask", torch.ones_like(ids))
        defaults: dict[str, Any] = {
            "do_sample": False,
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "pad_token_id": 0,
        }
        out: torch.Tensor = model.generate(ids, attention_mask=mask, **{**defaults, **options})
        return out

    return run


@pytest.fixture(scope="session")
def eager_rows() -> Callable[..., list[torch.Tensor]]:
    """``eager_rows(model, ids)``: per layer (B, T, H, T) weights of one eager forward, the independent reference."""

    @torch.no_grad()
    def run(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        before = attention_name(model.config)
        model.set_attn_implementation("eager")
        mask = torch.ones_like(ids) if mask is None else mask
        out = model(ids, attention_mask=mask, output_attentions=True, use_cache=False)
        model.set_attn_implementation(before)
        assert len(out.attentions) == model.config.num_hidden_layers
        return [layer.transpose(1, 2).float() for layer in out.attentions]

    return run
