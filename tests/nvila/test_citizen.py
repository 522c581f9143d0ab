"""Model and processor among transformers' own tools: Auto classes, Trainer, offloading, compilation, files of each alone."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from transformers import GenerationConfig, Trainer, TrainingArguments
from transformers.trainer_utils import load_sharded_checkpoint

from vila_lab.errors import CheckpointError, OptionError
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.nvila.processing_nvila import NVILAProcessor

CHECKPOINTS = ("nvila-dynamic_s2", "nvila-lite", "nvila-resize", "VILA1.5-3b-tiny")


@pytest.fixture(params=CHECKPOINTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def batch(name: str, load: Any, open_picture: Any) -> Any:
    return load(name)[1]([open_picture("a_land.png"), "What is it?"])


def logits(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


# -- files of each alone -------------------------------------------------------------------------------------------------


def test_a_processor_alone(name: str, load: Any, open_picture: Any, batch: Any, tmp_path: Path) -> None:
    _, processor = load(name)
    processor.save_pretrained(tmp_path)
    again = NVILAProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.chat_template == processor.chat_template
    other = again([open_picture("a_land.png"), "What is it?"])
    assert all(torch.equal(other[key], batch[key]) for key in batch)
    changed = NVILAProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert changed.image_processor.do_normalize is False


def test_what_was_changed_is_kept_beside_a_model(load: Any, goldens: Path, tmp_path: Path) -> None:
    """The processor's own file decides over the root configuration that its model writes."""
    processor = NVILAProcessor.from_pretrained(goldens / "checkpoints" / "nvila-lite")
    processor.image_processor.max_tiles = 3
    processor.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    processor.save_pretrained(tmp_path)
    load("nvila-lite")[0].save_pretrained(tmp_path)
    again = NVILAProcessor.from_pretrained(tmp_path)
    assert again.image_processor.max_tiles == 3
    assert again.prepare(["Hi"])[1].text == "Hi"


def test_an_image_processor_alone(name: str, load: Any, tmp_path: Path) -> None:
    cutter = load(name)[1].image_processor
    cutter.save_pretrained(tmp_path)
    assert NVILAImageProcessor.from_pretrained(tmp_path).to_dict() == cutter.to_dict()
    assert NVILAImageProcessor.from_pretrained(tmp_path, rescale_factor=1.0).rescale_factor == 1.0
    assert NVILAImageProcessor.from_dict(cutter.to_dict()).to_dict() == cutter.to_dict()


def test_a_model_alone(name: str, load: Any, batch: Any, tmp_path: Path) -> None:
    model, _ = load(name)
    model.save_pretrained(tmp_path)
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert torch.equal(again.generate(**batch, max_new_tokens=4), model.generate(**batch, max_new_tokens=4))
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


def test_generation_settings_are_kept(load: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(load("nvila-resize")[0])
    model.generation_config = GenerationConfig(max_new_tokens=7, eos_token_id=3)
    model.save_pretrained(tmp_path)
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path)
    assert (again.generation_config.max_new_tokens, again.generation_config.eos_token_id) == (7, 3)


def test_given_tensors_are_what_is_written(load: Any, tmp_path: Path) -> None:
    model, _ = load("nvila-resize")
    model.save_pretrained(
        tmp_path, state_dict={key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    )
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path)
    assert all(value.abs().sum() == 0 for value in again.state_dict().values())


@pytest.mark.parametrize("options", [{"push_to_hub": True}, {"variant": "fp16"}, {"colour": "red"}], ids=str)
def test_what_cannot_be_written_is_refused_by_name(load: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    model, processor = load("nvila-resize")
    with pytest.raises(CheckpointError, match=next(iter(options))):
        model.save_pretrained(tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
    if "push_to_hub" in options:
        with pytest.raises(CheckpointError, match="hub"):
            processor.save_pretrained(tmp_path, **options)


def test_the_configuration_can_be_overruled(goldens: Path) -> None:
    model = NVILAForConditionalGeneration.from_pretrained(
        goldens / "checkpoints" / "nvila-resize", mm_vision_select_layer=-1
    )
    assert model.config.mm_vision_select_layer == -1


def test_what_is_shown(name: str, load: Any) -> None:
    model, processor = load(name)
    for part in (processor, processor.image_processor, model.config):
        assert json.loads(part.to_json_string())
        assert type(part).__name__ in repr(part)
    assert pickle.loads(pickle.dumps(processor)).to_dict() == processor.to_dict()


AUTO = """
import sys, warnings
warnings.simplefilter("ignore")
import vila_lab
import transformers
for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    print(name, type(getattr(transformers, name).from_pretrained(folder)).__name__)
"""


def test_auto_classes_in_a_new_process(load: Any, tmp_path: Path) -> None:
    """With nothing but ``import vila_lab`` before, whichever of them comes first."""
    model, processor = load("nvila-lite")
    whole, *alone = (tmp_path / part for part in ("whole", "model", "processor", "images"))
    for folder in (whole, alone[0]):
        model.save_pretrained(folder)
    for folder in (whole, alone[1]):
        processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(alone[2])
    asked = [
        ("AutoImageProcessor", alone[2], "NVILAImageProcessor"),
        ("AutoProcessor", alone[1], "NVILAProcessor"),
        ("AutoTokenizer", whole, None),
        ("AutoTokenizer", alone[1], None),
        ("AutoImageProcessor", whole, "NVILAImageProcessor"),
        ("AutoImageProcessor", alone[1], "NVILAImageProcessor"),
        ("AutoConfig", whole, "NVILAConfig"),
        ("AutoProcessor", whole, "NVILAProcessor"),
        ("AutoModelForImageTextToText", alone[0], "NVILAForConditionalGeneration"),
        ("AutoModelForMultimodalLM", whole, "NVILAForConditionalGeneration"),
    ]
    for first in (asked, asked[8:]):
        words = [str(word) for each in first[: 10 if first is asked else 1] for word in each[:2]]
        run = subprocess.run([sys.executable, "-c", AUTO, *words], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        for line, (auto, _, expected) in zip(run.stdout.splitlines(), first, strict=False):
            assert line.split()[0] == auto
            assert expected in (None, line.split()[1])


def test_a_tokenizer_alone_is_the_processors(name: str, load: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, processor = load(name)
    processor.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = processor.prepare(["What <b> is it?"])[1].text
    assert tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    assert tokenizer.convert_tokens_to_ids("<image>") == processor.image_token_id
    assert tokenizer.chat_template == processor.tokenizer.chat_template


# -- training ------------------------------------------------------------------------------------------------------------


def test_the_index_lists_every_tensor(name: str, load: Any, tmp_path: Path) -> None:
    """By it a checkpoint is read back into a model as `Trainer` does it, shard by shard under the shards' own names."""
    model, _ = load(name)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == model.state_dict().keys()
    for file in set(index.values()):
        assert len(load_file(tmp_path / file)) == sum(value == file for value in index.values())
    blank = NVILAForConditionalGeneration(model.config)
    report = load_sharded_checkpoint(blank, str(tmp_path), strict=True)
    assert not report.missing_keys
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in blank.state_dict().items())


def test_training_resumes_from_a_checkpoint(load: Any, goldens: Path, open_picture: Any, tmp_path: Path) -> None:
    """Two steps, interrupted and gone on with, end where four steps end; pictures, padding and labels in each."""
    _, processor = load("nvila-resize")
    picture = open_picture("a_land.png")
    samples = [{"text": f"<image>{text}", "images": [picture]} for text in ("one", "two three", "four", "five")]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = processor(
            text=[row["text"] for row in rows], images=[row["images"] for row in rows], padding_side="right"
        )
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    def trained(folder: Path, steps: int, resume: bool = False) -> Any:
        torch.manual_seed(0)
        model = NVILAForConditionalGeneration.from_pretrained(goldens / "checkpoints" / "nvila-resize")
        arguments = TrainingArguments(
            str(folder), max_steps=steps, save_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
            remove_unused_columns=False, disable_tqdm=True, logging_strategy="no", lr_scheduler_type="constant",
            dataloader_pin_memory=False, seed=1,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=samples, data_collator=collate, processing_class=processor)
        trainer.train(resume_from_checkpoint=resume or None)
        return model

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "parts", 2)
    resumed = trained(tmp_path / "parts", 4, resume=True)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, atol=1e-6, rtol=0, msg=key)
    assert type(NVILAProcessor.from_pretrained(tmp_path / "parts" / "checkpoint-4")) is NVILAProcessor


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_checkpointed_gradients_are_the_same(name: str, load: Any, batch: Any) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = copy.deepcopy(load(name)[0]).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(key.startswith("vision_tower") for key in gradients[0])
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, msg=key)


# -- memory, compilation, features ---------------------------------------------------------------------------------------


# Earlier versions of transformers compare with the device of the first parameter, which may be on disk.
@pytest.mark.filterwarnings("ignore:You are calling .generate.. with the `input_ids` being on a device:UserWarning")
@pytest.mark.parametrize(
    "device_map",
    [
        {"": "disk"},
        {"vision_tower": "disk", "mm_projector": "cpu", "language_model": "cpu"},
        {"vision_tower": "cpu", "mm_projector": "disk", "language_model": "disk"},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_parts_on_disk(
    load: Any, copy_of: Any, edit_json: Any, open_picture: Any, tmp_path: Path, device_map: dict[str, str], tied: bool
) -> None:
    if "" in device_map and Version(version("accelerate")) < Version("1.15"):
        pytest.skip("before 1.15 accelerate itself refuses to put a whole model on disk")
    root = copy_of("nvila-resize")
    if tied:
        edit_json(root / "llm" / "config.json", tie_word_embeddings=True)
    batch = load("nvila-resize")[1]([open_picture("a_land.png"), "Q"])
    here = NVILAForConditionalGeneration.from_pretrained(root)
    model = NVILAForConditionalGeneration.from_pretrained(
        root, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert "meta" in {value.device.type for value in model.parameters()}
    assert torch.equal(logits(model, batch), logits(here, batch))
    assert torch.equal(model.generate(**batch, max_new_tokens=3), here.generate(**batch, max_new_tokens=3))
    model.save_pretrained(tmp_path / "saved")
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again, batch), logits(here, batch))


def host_sizes(name: str, batch: Any) -> dict[str, Any]:
    """A multi-scale model is compiled for its grids: they are numbers, not data."""
    multiscale = name == "nvila-dynamic_s2"
    return {**batch, "block_sizes": batch["block_sizes"].tolist()} if multiscale else dict(batch)


def test_one_graph_with_pictures(name: str, load: Any, batch: Any) -> None:
    model, _ = load(name)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled, host_sizes(name, batch)), logits(model, batch), atol=5e-5, rtol=0)


def test_exported_with_pictures(name: str, load: Any, batch: Any) -> None:
    model, _ = load(name)
    inputs = {**host_sizes(name, batch), "use_cache": False}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, strict=False).module()
    torch.testing.assert_close(logits(exported, inputs), logits(model, batch), atol=5e-5, rtol=0)


def test_features_as_transformers_returns_them(name: str, load: Any, batch: Any) -> None:
    model, _ = load(name)
    pictures = {key: batch[key] for key in ("pixel_values", "block_sizes")}
    with torch.no_grad():
        output = model.get_image_features(**pictures)
        whole = model.get_image_features(**pictures, output_hidden_states=True, output_attentions=True)
        parts = model.get_image_features(**pictures, return_dict=False)
        passed = model(**batch)
    assert len(output.pooler_output) == len(batch["block_sizes"])
    assert sum(len(each) for each in output.pooler_output) == (batch["input_ids"] == model.config.image_token_id).sum()
    layers = model.config.vision_config.num_hidden_layers
    assert (len(whole.hidden_states), len(whole.attentions)) == (layers + 1, layers)
    torch.testing.assert_close(whole.last_hidden_state, output.last_hidden_state)
    for kind in (whole.pooler_output, parts[1], passed.image_outputs.pooler_output):
        for one, other in zip(kind, output.pooler_output, strict=True):
            torch.testing.assert_close(one, other)


def test_a_setting_that_is_none_of_the_image_processors(load: Any) -> None:
    with pytest.raises(OptionError, match="no option 'colour'"):
        load("nvila-lite")[1].image_processor.with_settings(colour="red")
