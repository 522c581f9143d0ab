"""Makes a tiny random checkpoint of a family: the layout of a real one, at a hundredth of a percent of its size.

    python -m tests.families.make_checkpoint qwen3_vl_moe

Tokenizer, chat template and image processor are those of a sibling among the tiny checkpoints; the weights are drawn, with
queries and keys enlarged: attention of random weights is flat, and then no mask and no position matters.
"""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.families.checkpoints import folder, variant
from vila_lab.families import FAMILIES

MADE: dict[str, dict[str, Any]] = {
    "qwen3_vl_moe": {
        "sibling": "qwen3_vl",
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "text_config": {
            "model_type": "qwen3_vl_moe_text", "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
            "decoder_sparse_step": 1,
        },
        "vision_config": {"model_type": "qwen3_vl_moe"},
    },
    "glm4v_moe": {
        "sibling": "glm4v",
        "architectures": ["Glm4vMoeForConditionalGeneration"],
        "text_config": {
            "model_type": "glm4v_moe_text", "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "use_qk_norm": False,
            "attention_bias": True, "dtype": "float32",
        },
        "vision_config": {"model_type": "glm4v_moe"},
    },
    # LLaVA-NeXT-Interleave: LLaVA's classes on SigLIP and Qwen 2; every row of the tower, and no crop.
    "llava_siglip": {
        "model_type": "llava",
        "sibling": "llava",
        "image_seq_length": 36,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "text_config": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False},
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor", "size": {"height": 84, "width": 84}, "do_center_crop": None,
            "crop_size": None, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        },
        "processor_config.json": {"num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"},
    },
    # The original LLaVA's own processor, which pads pictures to squares.
    "llava_padded": {
        "model_type": "llava",
        "sibling": "llava",
        "preprocessor_config.json": {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    },
    # InternVL 3.5: a decoder of Qwen 3's.
    "internvl_qwen3": {
        "model_type": "internvl",
        "sibling": "internvl",
        "text_config": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 8},
    },
}  # fmt: skip
SHARPER = 6.0  # factor on queries and keys


def make(name: str) -> None:
    """Write the folder of a checkpoint, in the place of one that is there."""
    changes = dict(MADE[name])
    sibling = folder(str(changes.pop("sibling")))
    root = folder(name) if name in FAMILIES else variant(name)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sibling, root, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in [key for key in changes if key.endswith(".json")]:
        content = json.loads((root / file).read_text()) | changes.pop(file)
        (root / file).write_text(json.dumps(content, indent=1) + "\n")
    config = json.loads((root / "config.json").read_text()) | {"model_type": name}
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (root / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(root)).float()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 / parameter.shape[-1] ** 0.5)
            if any(part in parameter_name for part in ("q_proj", "k_proj")):
                parameter.mul_(SHARPER)
            if "lm_head" in parameter_name:
                parameter.mul_(0.3)  # logits of a trained model's size, so that tolerances mean the same
    model.save_pretrained(root)
    (root / "config.json").write_text(
        json.dumps(config, indent=1) + "\n"
    )  # as a hub repository has it, not as it was read


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", choices=MADE)
    for each in parser.parse_args().names:
        make(each)
