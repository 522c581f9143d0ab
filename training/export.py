"""Writes what was trained as a checkpoint in NVILA's three-folder layout. Knows the files, not the training.

``python -m training.export --vision run/vision/tower --language run/language/state.pt``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipVisionModel

from vila_lab.tiny import weights_folder

from .pool import SIDE
from .tokenizer import build_tokenizer
from .train_language import decoder_config


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to(torch.float16).contiguous().clone() for name, value in tensors.items()}


def export(tower: SiglipVisionModel, decoder: dict[str, Tensor], projector: dict[str, Tensor], out: Path) -> None:
    """Write the checkpoint, half precision.

    Parameters
    ----------
    decoder
        State of the Qwen2 decoder, ``model.`` prefixes included; the tied head is not stored.
    projector
        State of the projector, ``layers.`` prefixes included.
    """
    tokenizer = build_tokenizer()
    text, vision = decoder_config(len(tokenizer)), tower.config
    llm = text.to_dict() | {
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": 1_000_000.0,  # readers before transformers 5 look for it here
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_model_max_length": tokenizer.model_max_length,
        "tokenizer_padding_side": "right",
        "torch_dtype": "float16",
    }
    llm.pop("dtype", None)
    siglip = vision.to_dict() | {"architectures": ["SiglipVisionModel"], "torch_dtype": "float16"}
    for name in ("dtype", "_name_or_path"):  # the second would tell where it was trained
        siglip.pop(name, None)
    projecting = {
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "mm_projector_type": "mlp_downsample",
    }
    root = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "chat_template": None,
        "hidden_size": text.hidden_size,
        "mm_hidden_size": vision.hidden_size,
        "image_aspect_ratio": "resize",
        "dynamic_s2": False,
        "s2": False,
        "image_encoder": {"_target_": "llava.model.encoders.BasicImageEncoder"},
        "video_encoder": {"_target_": "llava.model.encoders.BasicVideoEncoder"},
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "num_video_frames": 8,
        "fps": 0.0,
        "model_dtype": "torch.float16",
        "transformers_version": "4.46.0",
        "llm_cfg": llm,
        "vision_tower_cfg": siglip,
        "mm_projector_cfg": projecting,
    }
    _write(out / "config.json", root)
    _write(out / "llm" / "config.json", llm)
    stop = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    _write(out / "llm" / "generation_config.json", {**stop, "do_sample": False})
    _write(out / "vision_tower" / "config.json", siglip)
    pixels = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255}
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": SIDE, "width": SIDE}}
    _write(
        out / "vision_tower" / "preprocessor_config.json",
        {"image_processor_type": "SiglipImageProcessor", **pixels, **mean},
    )
    _write(out / "mm_projector" / "config.json", projecting)
    tokenizer.save_pretrained(out / "llm", save_jinja_files=False)
    _name_older_tokenizer(out / "llm" / "tokenizer_config.json")
    meta = {"format": "pt"}
    kept = {name: value for name, value in decoder.items() if name != "lm_head.weight"}
    save_file(_half(kept), out / "llm" / "model.safetensors", metadata=meta)
    named = {
        name if name.startswith("vision_model.") else f"vision_model.{name}": value
        for name, value in tower.state_dict().items()
    }
    save_file(_half(named), out / "vision_tower" / "model.safetensors", metadata=meta)
    save_file(_half(projector), out / "mm_projector" / "model.safetensors", metadata=meta)


def _name_older_tokenizer(path: Path) -> None:
    """Readers before transformers 5 know the class by its older name."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write(path, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--language", type=Path, required=True, help="state.pt of stage 2")
    parser.add_argument("--out", type=Path, default=weights_folder())
    options = parser.parse_args()
    student = torch.load(options.language, weights_only=True)["student"]

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in student.items() if key.startswith(f"{name}.")}

    export(SiglipVisionModel.from_pretrained(options.vision), part("decoder"), part("projector"), options.out)


if __name__ == "__main__":
    main()
