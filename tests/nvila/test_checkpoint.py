"""Every layout loads to the same model, what is saved loads again, and what cannot be used is said in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vila_lab.errors import CheckpointError, CheckpointNotFound, DeviceError, MissingExtra, OptionError
from vila_lab.families.loading import load_family
from vila_lab.nvila.checkpoint import load_checkpoint
from vila_lab.nvila.configuration_nvila import NVILAConfig

NAMES = ("nvila-dynamic_s2", "nvila-lite", "nvila-resize", "VILA1.5-3b-tiny")


def answers(model: Any, processor: Any, picture: Any) -> tuple[torch.Tensor, str]:
    batch, layout = processor.prepare([picture, "What <b> is this?"])
    with torch.no_grad():
        return model(**batch).logits, layout.text


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, layout) for name in NAMES for layout in ("preview", "model_subfolder")),
        ("nvila-dynamic_s2", "hf:nvila"),
        ("nvila-lite", "hf:nvila_lite"),
        ("nvila-lite", "hf:vila"),
    ],
)
def test_layouts_are_one_model(name: str, layout: str, as_layout: Any, load: Any, open_picture: Any) -> None:
    picture = open_picture("b_port.png")
    logits, text = answers(*load(name), picture)
    other, other_text = answers(*load_checkpoint(as_layout(name, layout), attn_implementation="eager"), picture)
    assert other_text == text
    assert torch.equal(other, logits)


@pytest.mark.parametrize("name", NAMES)
def test_saved_loads_again(name: str, load: Any, open_picture: Any, tmp_path: Path) -> None:
    model, processor = load(name)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, again_processor = load_checkpoint(tmp_path / "saved", attn_implementation="eager")
    logits, text = answers(model, processor, open_picture("a_land.png"))
    other, other_text = answers(again, again_processor, open_picture("a_land.png"))
    assert other_text == text
    assert torch.equal(other, logits)
    assert again_processor.conv_mode == processor.conv_mode
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_saved_is_the_original_layout(name: str, load: Any, goldens: Path, tmp_path: Path) -> None:
    """File by file: the same tensors under the same names, and every setting that other readers look at."""
    model, processor = load(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    source = goldens / "checkpoints" / name
    for part in ("llm", "vision_tower", "mm_projector"):
        before, after = (load_file(root / part / "model.safetensors") for root in (source, tmp_path))
        assert after.keys() == {key for key in before if ".head." not in key}
        assert all(torch.equal(after[key], before[key]) for key in after)
        old, new = (
            json.loads((root / part / "config.json").read_text(encoding="utf-8")) for root in (source, tmp_path)
        )
        ignored = {"transformers_version", "_name_or_path", "torch_dtype", "rope_scaling"}
        kept = {key: value for key, value in old.items() if key not in ignored and value is not None}
        assert {key: new.get(key) for key in kept if key not in DEFAULTED} == {
            k: v for k, v in kept.items() if k not in DEFAULTED
        }
    root = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    original = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for key in (
        "architectures",
        "model_type",
        "hidden_size",
        "mm_hidden_size",
        "image_aspect_ratio",
        "dynamic_s2",
        "image_encoder",
    ):
        assert root[key] == original[key], key
    assert (tmp_path / "vision_tower" / "preprocessor_config.json").is_file()
    tokenizer = json.loads((tmp_path / "llm" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer.get("chat_template") == processor.tokenizer.chat_template
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


DEFAULTED = {"pretraining_tp", "attention_bias", "mlp_bias", "head_dim", "_from_model_config"}


@pytest.mark.parametrize("name", ["nvila-lite", "VILA1.5-3b-tiny"])
def test_parts_load_with_transformers_alone(name: str, load: Any, open_picture: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionModel

    model, processor = load(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    tower = SiglipVisionModel.from_pretrained(tmp_path / "vision_tower")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    batch, layout = processor.prepare([open_picture("a_land.png"), "Q"])
    assert tokenizer(layout.text).input_ids == processor.tokenizer(layout.text).input_ids
    with torch.no_grad():
        states = tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(states, model.get_vision_features(batch["pixel_values"]), atol=2e-5, rtol=0)
        embeds = model.embed(batch["input_ids"], batch["pixel_values"], batch["block_sizes"])
        torch.testing.assert_close(llm(inputs_embeds=embeds).logits, model(**batch).logits, atol=5e-5, rtol=0)


def test_half_precision_is_kept_on_disk(goldens: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(goldens / "checkpoints" / "nvila-lite", dtype="float16")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "llm" / "model.safetensors").values()} == {torch.float16}
    assert load_checkpoint(tmp_path)[0].dtype == torch.float16


def test_tied_embeddings_survive(goldens: Path, copy_of: Any, edit_json: Any, tmp_path: Path) -> None:
    root = copy_of("nvila-resize")
    weights = load_file(root / "llm" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, root / "llm" / "model.safetensors", metadata={"format": "pt"})
    edit_json(root / "llm" / "config.json", tie_word_embeddings=True)
    model, _ = load_checkpoint(root)
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    model.save_pretrained(tmp_path / "saved")
    assert "lm_head.weight" not in load_file(tmp_path / "saved" / "llm" / "model.safetensors")


def test_sharded_weights(load: Any, open_picture: Any, tmp_path: Path) -> None:
    model, processor = load("nvila-resize")
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "llm" / "model.safetensors.index.json").is_file()
    again = load_checkpoint(tmp_path, attn_implementation="eager")
    assert torch.equal(
        answers(*again, open_picture("a_land.png"))[0], answers(model, processor, open_picture("a_land.png"))[0]
    )
    next((tmp_path / "llm").glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks llm/model-00002"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(goldens: Path, device_map: Any) -> None:
    model, _ = load_checkpoint(goldens / "checkpoints" / "nvila-lite", device_map=device_map)
    assert {value.device.type for value in model.parameters()} == {"cpu"}


def test_legacy_transposed(copy_of: Any, edit_json: Any, load: Any, open_picture: Any) -> None:
    root = copy_of("VILA1.5-3b-tiny")
    edit_json(root / "config.json", legacy_transposed=True)
    old, old_processor = load_checkpoint(root)
    new, processor = load("VILA1.5-3b-tiny")
    batch, layout = processor.prepare([open_picture("a_land.png"), "Q"])
    _, old_layout = old_processor.prepare([open_picture("a_land.png"), "Q"])
    with torch.no_grad():
        (turned,), (straight,) = (model.get_image_features(batch["pixel_values"]).pooler_output for model in (old, new))
    torch.testing.assert_close(turned.reshape(4, 4, -1).transpose(0, 1).reshape(16, -1), straight, atol=1e-5, rtol=0)
    boxes, old_boxes = layout.blocks[0].boxes.reshape(4, 4, 4), old_layout.blocks[0].boxes.reshape(4, 4, 4)
    np.testing.assert_array_equal(old_boxes.transpose(1, 0, 2), boxes)


def test_chat_template_that_the_root_names(copy_of: Any, edit_json: Any, load: Any) -> None:
    root = copy_of("nvila-lite")
    edit_json(root / "llm" / "tokenizer_config.json", chat_template=...)
    _, without = load_checkpoint(root)
    reference = load("nvila-lite")[1].layout(["Q"]).text
    assert without.layout(["Q"]).text == reference
    edit_json(root / "config.json", chat_template="qwen2")
    assert load_checkpoint(root)[1].layout(["Q"]).text == reference
    (root / "own.jinja").write_text("{% for m in messages %}\n    [{{ m['content'] }}]\n{% endfor %}", encoding="utf-8")
    edit_json(root / "config.json", chat_template="own")
    assert load_checkpoint(root)[1].layout(["Q"]).text == "[Q]"
    edit_json(root / "config.json", chat_template="gone")
    with pytest.raises(CheckpointError, match=r"'gone', and gone\.jinja is not in the folder"):
        load_checkpoint(root)


def test_older_name_of_dtype(goldens: Path) -> None:
    from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration

    root = goldens / "checkpoints" / "nvila-lite"
    assert NVILAForConditionalGeneration.from_pretrained(root, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert NVILAForConditionalGeneration.from_pretrained(root, dtype="float16").dtype == torch.float16


def test_projector_that_a_single_file_does_not_name(as_layout: Any, load: Any, open_picture: Any) -> None:
    """A Lite checkpoint with the 2 x 2 projector: its shapes tell, and the map of positions follows."""
    root = as_layout("nvila-resize", "hf:nvila_lite")
    model, processor = load_checkpoint(root)
    assert model.config.mm_projector_type == "mlp_downsample"
    batch, layout = processor.prepare([open_picture("a_land.png"), open_picture("b_port.png"), "Q"])
    assert [(block.rows, block.cols) for block in layout.blocks] == [(4, 4), (4, 4)]
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, load("nvila-resize")[0](**batch).logits, atol=5e-5, rtol=0)


def test_renamed_folder_of_vila_15_loads(copy_of: Any, load: Any) -> None:
    _, processor = load_checkpoint(copy_of("VILA1.5-3b-tiny", "renamed"))
    assert processor.resolve_conv_mode("auto") == "vicuna_v1"
    assert processor.layout(["Q"]).text == load("VILA1.5-3b-tiny")[1].layout(["Q"]).text


def _drop_tensor(root: Path, part: str, name: str) -> None:
    tensors = load_file(root / part / "model.safetensors")
    del tensors[name]
    save_file(tensors, root / part / "model.safetensors", metadata={"format": "pt"})


def _rename_tensor(root: Path, part: str, name: str, to: str) -> None:
    tensors = load_file(root / part / "model.safetensors")
    tensors[to] = tensors.pop(name)
    save_file(tensors, root / part / "model.safetensors", metadata={"format": "pt"})


def _pickle(root: Path, part: str) -> None:
    tensors = load_file(root / part / "model.safetensors")
    torch.save(tensors, root / part / "pytorch_model.bin")
    (root / part / "model.safetensors").unlink()


def _edit(root: Path, file: str, **changes: Any) -> None:
    path = root / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


SPOILED = {
    "missing tensor": (lambda r: _drop_tensor(r, "llm", "model.norm.weight"), "lacks the tensor language_model.model.norm.weight"),
    "missing head": (lambda r: _drop_tensor(r, "llm", "lm_head.weight"), "lacks the tensor language_model.lm_head.weight"),
    "wrong shape": (lambda r: _edit(r, "llm/config.json", vocab_size=500), r"has shape \(405, 64\) where .* \(500, 64\)"),
    "unknown projector": (lambda r: _edit(r, "mm_projector/config.json", mm_projector_type="resampler"), "'resampler' is not supported"),
    "other projector": (
        lambda r: _edit(r, "mm_projector/config.json", mm_projector_type="mlp_downsample"), "mm_projector.layers.1.weight has shape",
    ),
    "unknown tower": (
        lambda r: _edit(r, "vision_tower/config.json", architectures=["InternVisionModel"]), "'internvisionmodel' is not supported",
    ),
    "unknown decoder": (lambda r: _edit(r, "llm/config.json", model_type="novel_llm"), "'novel_llm' of a part"),
    "pickle": (lambda r: _pickle(r, "llm"), r"llm/ holds pickle weights"),
    "plain s2": (lambda r: _edit(r, "config.json", s2=True, dynamic_s2=False), "Plain s2 checkpoints are not supported"),
    "ps3": (lambda r: _edit(r, "config.json", ps3=True), "PS3 checkpoints"),
    "ps3 tensors": (lambda r: _rename_tensor(r, "mm_projector", "layers.1.bias", "high_res_pos_embed"), "PS3 checkpoints"),
    "awq config": (lambda r: _edit(r, "llm/config.json", quantization_config={"quant_method": "awq"}), "AWQ checkpoints"),
    "awq tensors": (
        lambda r: _rename_tensor(r, "llm", "model.norm.weight", "model.layers.0.mlp.up_proj.qweight"), "AWQ checkpoints",
    ),
    "damaged file": (lambda r: (r / "llm" / "model.safetensors").write_bytes(b"not weights"), r"llm/model.safetensors is damaged"),
    "no weights": (lambda r: (r / "vision_tower" / "model.safetensors").unlink(), "no weights in vision_tower/"),
    "no config": (lambda r: (r / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda r: (r / "llm" / "config.json").write_text("{"), r"llm/config.json is not valid JSON"),
    "other model": (lambda r: _edit(r, "config.json", model_type="bert"), "model type 'bert', which no family here reads; known families: nvila"),
    "no tokenizer": (lambda r: [f.unlink() for f in (r / "llm").glob("*token*")], "no tokenizer in llm/"),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED)
def test_what_cannot_be_used(spoil: str, copy_of: Any) -> None:
    root = copy_of("nvila-lite")
    action, words = SPOILED[spoil]
    action(root)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_family(root)
    assert "\n" not in str(caught.value)


def test_places_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointNotFound, match="no checkpoint folder"):
        load_family(tmp_path / "gone")
    with pytest.raises(CheckpointNotFound, match="no checkpoint folder"):
        load_family("./gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        load_family(tmp_path / "file")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointNotFound, match="the hub cannot be reached"):
        load_family("nobody/no-such-model")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "warp"}, DeviceError, "not a device name"),
        ({"device": "cpu", "device_map": "auto"}, OptionError, "exclude each other"),
        ({"dtype": "float12"}, OptionError, "choose one of auto, float32"),
        ({"quantization": "2bit"}, OptionError, "choose one of 4bit, 8bit"),
    ],
)
def test_options_that_cannot_be_used(
    goldens: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_family(goldens / "checkpoints" / "nvila-lite", **options)


def test_cuda_that_is_not_there(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="has no CUDA"):
        load_family(goldens / "checkpoints" / "nvila-lite", device="cuda")


def test_quantization_without_its_package(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install bitsandbytes"):
        load_family(goldens / "checkpoints" / "nvila-lite", quantization="4bit")


def test_auto_classes(as_layout: Any, load: Any, open_picture: Any) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    logits, text = answers(*load("nvila-lite"), open_picture("b_port.png"))
    for layout in ("original", "preview", "hf:nvila_lite", "hf:vila"):
        root = as_layout("nvila-lite", layout)
        assert type(AutoConfig.from_pretrained(root)) is NVILAConfig
        processor = AutoProcessor.from_pretrained(root)
        model = AutoModelForImageTextToText.from_pretrained(root, attn_implementation="eager")
        other, other_text = answers(model, processor, open_picture("b_port.png"))
        assert other_text == text
        assert torch.equal(other, logits)


def test_importing_the_family_is_cheap_and_registers(goldens: Path, as_layout: Any) -> None:
    """In a fresh interpreter: no torch on import, and the Auto classes know the family whichever comes first."""
    code = f"""
import sys, vila_lab.nvila
import vila_lab.nvila.layout
assert not {{"torch", "transformers"}} & set(sys.modules), "import is heavy"
from transformers import AutoProcessor, GenerationMixin, AutoModelForImageTextToText
processor = AutoProcessor.from_pretrained({str(as_layout("nvila-lite", "hf:nvila_lite"))!r})
assert type(processor).__module__ == "vila_lab.nvila.processing_nvila"
model = AutoModelForImageTextToText.from_pretrained({str(goldens / "checkpoints" / "nvila-lite")!r})
assert type(model).__module__ == "vila_lab.nvila.modeling_nvila"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
