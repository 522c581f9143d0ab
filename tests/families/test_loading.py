"""Whose checkpoint it is, and what its family may be told."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import fields
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vila_lab
from tests.families.checkpoints import HAS_TORCHVISION, NAMES, ROOT, folder, parts, prompt, session
from vila_lab.errors import CaptureError, CheckpointError, CheckpointNotFound, MissingExtra, OptionError
from vila_lab.families import FAMILIES, OPTIONS, adapters, loading, processing
from vila_lab.families.loading import family_of, load_family
from vila_lab.nvila.folder import MODEL_TYPES


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_checkpoint_finds_its_family(kind):
    assert family_of({"model_type": kind}, "x").__name__ == "NVILAFamily"


@pytest.mark.parametrize("config", [{"model_type": "kosmos-2"}, {"model_type": None}, {}, {"model_type": ["nvila"]}])
def test_a_checkpoint_of_no_known_family_is_refused_by_one_sentence(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"which no family here reads; known families: nvila, .*qwen2_5_vl, .*mistral3\."
    ) as caught:
        vila_lab.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert repr(config.get("model_type")) in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_command_line_lists_the_options_that_the_family_takes(name):
    module, attribute = FAMILIES[name]
    family = getattr(__import__(module, fromlist=[attribute]), attribute)
    assert family.options is OPTIONS[name]
    assert family.options_of({}) == family.options()
    for option in fields(family.options):
        assert getattr(family.options_of({option.name: option.default}), option.name) == option.default


def test_an_option_of_no_family_is_named_with_those_there_are(lab):
    with pytest.raises(OptionError, match=r"there is no option 'tiles' .* conv_mode, tile_all_images"):
        lab.ask("Hello", tiles=4)


def test_an_option_is_resolved_once_and_goes_with_the_answer(lab, demo):
    answer = lab.ask([demo / "g.png", "What is it?"], max_new_tokens=1, tile_all_images=True)
    assert answer.replay.options.conv_mode == lab.family.processor.conv_mode
    assert answer.replay.options.tile_all_images
    assert answer.replay.prepared.options == answer.replay.options


# -- other families ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a tiny checkpoint that may be spoiled."""

    def copied(name):
        shutil.copytree(folder(name), tmp_path / name)
        return tmp_path / name

    return copied


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", NAMES)
def test_every_checkpoint_finds_its_own_family(name):
    config = json.loads((folder(name) / "config.json").read_text())
    found = [
        each
        for each, (module, attribute) in FAMILIES.items()
        if getattr(import_module(module), attribute).matches(config)
    ]
    assert found == [name]


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is there")
@pytest.mark.parametrize(
    ("name", "line"), [("smolvlm", "torchvision num2words"), ("pixtral", "torchvision"), ("mistral3", "torchvision")]
)
def test_what_a_processor_needs_is_named_with_the_line_that_installs_it(name, line):
    with pytest.raises(MissingExtra, match=f"pip install {line}$"):
        load_family(folder(name))


def test_a_torchvision_that_does_not_work_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(processing, "has_torchvision", lambda: True)
    monkeypatch.setattr(processing, "import_module", broken)
    with pytest.raises(MissingExtra, match=r"does not work beside this torch .* pip uninstall torchvision"):
        load_family(folder("qwen2_vl"))


def test_a_checkpoint_that_lacks_tensors_is_refused(copy_of):
    root = copy_of("qwen2_5_vl")
    tensors = load_file(root / "model.safetensors")
    lost = next(name for name in tensors if "mlp" in name)
    save_file(
        {name: value for name, value in tensors.items() if name != lost}, root / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"lacks 1 of the tensors that its config asks for"):
        load_family(root)


def test_a_checkpoint_without_a_chat_template_is_refused_unless_its_family_has_one(copy_of):
    for name in ("qwen2_5_vl", "paligemma"):
        root = copy_of(name)
        (root / "chat_template.jinja").unlink()
    assert (
        load_family(root).prepare(prompt(1)).inputs["input_ids"].tolist()
        == session("paligemma").family.prepare(prompt(1)).inputs["input_ids"].tolist()
    )
    with pytest.raises(CheckpointError, match=r"has no chat template; copy chat_template\.jinja there"):
        load_family(root.parent / "qwen2_5_vl")


@pytest.mark.parametrize("place", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
def test_a_chat_template_is_found_wherever_it_is_kept(place, copy_of):
    root = copy_of("qwen2_vl")
    template = (root / "chat_template.jinja").read_text()
    (root / "chat_template.jinja").unlink()
    if not (root / place).exists():
        (root / place).write_text("{}")
    edit(root / place, chat_template=template)
    own = session("qwen2_vl").family.prepare(prompt(1)).inputs["input_ids"]
    assert load_family(root).prepare(prompt(1)).inputs["input_ids"].tolist() == own.tolist()


@pytest.mark.skipif(HAS_TORCHVISION, reason="transformers builds it by itself")
@pytest.mark.parametrize("named", ["AutoModel", "NoSuchProcessor", 3])
def test_a_processor_that_is_none_is_not_built(named, copy_of):
    root = copy_of("qwen2_vl")
    for file in ("preprocessor_config.json", "tokenizer_config.json"):
        edit(root / file, processor_class=named)
    assert type(load_family(root).processor).__name__ == "Qwen2VLProcessor"


def test_an_attention_implementation_that_the_decoder_refuses():
    """transformers refuses it, or leaves the soft-cap out, which is refused here."""
    with pytest.raises((OptionError, CaptureError), match=r"(take 'eager'|load it with attn_implementation='eager')"):
        vila_lab.load(folder("paligemma2"), device="cpu", attn_implementation="sdpa").ask(parts(1), max_new_tokens=1)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "internvl"])
def test_a_device_map_and_half_precision(name):
    family = load_family(folder(name), device_map={"": "cpu"}, dtype="bfloat16")
    prepared = family.prepare(prompt(2))
    assert prepared.inputs["pixel_values"].dtype == torch.bfloat16
    with torch.no_grad():
        embedded = family.embed(prepared)
        own = family.model(**prepared.inputs).logits[0, -1].float()
        found = family.decode(embedded, keep=[len(embedded) - 1])[0][0]
    torch.testing.assert_close(found, own, atol=0.1, rtol=0)


# -- adapters ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter for the tiny Qwen2.5-VL, and the last logits of a prompt as peft's own model gives them."""
    peft = pytest.importorskip("peft")
    family = load_family(folder("qwen2_5_vl"), dtype="float32")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        model = peft.get_peft_model(family.model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        logits = model(**family.prepare(prompt(2)).inputs).logits[0, -1]
    place = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(place)
    return place, logits


def test_an_adapter_is_put_in(adapter):
    place, expected = adapter
    lab = vila_lab.load(folder("qwen2_5_vl"), device="cpu", adapter=place)
    plain = session("qwen2_5_vl")
    assert lab is not plain
    with torch.no_grad():
        embedded = lab.family.embed(lab.family.prepare(prompt(2)))
        found = lab.family.decode(embedded, keep=[len(embedded) - 1])[0][0]
        own = plain.family.decode(embedded, keep=[len(embedded) - 1])[0][0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (own - expected).abs().max() > 0.1
    answer = lab.ask(parts(2), max_new_tokens=2)
    assert np.isfinite(answer.attribute("relevancy", token=0).values).all()
    with lab.knockout("image_1 -> answer"):
        assert lab.ask(parts(2), max_new_tokens=2).edits


def test_an_adapter_of_another_model_is_refused(adapter):
    with pytest.raises(
        CheckpointError, match=r"does not fit this checkpoint: \d+ of its tensors have no place or are missing"
    ):
        load_family(folder("gemma3"), adapter=adapter[0])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (3, OptionError, "adapter is a folder or a hub id"),
        ("/nowhere/at/all", CheckpointNotFound, "no checkpoint folder"),
        (ROOT, CheckpointError, "has no adapter_config.json, so it is no adapter"),
    ],
    ids=str,
)
def test_what_is_no_adapter_is_refused_before_the_checkpoint_is_loaded(given, kind, words):
    with pytest.raises(kind, match=words):
        load_family(folder("qwen2_5_vl"), adapter=given)


def test_adapters_need_peft(monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install peft"):
        load_family(folder("qwen2_5_vl"), adapter="owner/name")


# -- checkpoints that are stored quantised -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "bits", "kind", "largest"), [("int-quantized", 8, "int", 127.0), ("pack-quantized", 4, "int", 7.0)]
)
def test_a_checkpoint_stored_in_compressed_tensors(form, bits, kind, largest, copy_of, monkeypatch):
    """Its weights are unpacked in the first forward of the whole model, and parts of it are called here."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    model = load_family(folder("qwen2_5_vl"), dtype="float32").model
    weights = quantization.QuantizationArgs(num_bits=bits, type=kind, symmetric=True, strategy="channel")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    config = quantization.QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head", "re:.*visual.*"], format=form
    )
    quantization.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data = (module.weight.abs().amax(1, keepdim=True) / largest).to(
                module.weight_scale.dtype
            )
            module.quantization_status = quantization.QuantizationStatus.FROZEN
    compressor = compressors.ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    root = copy_of("qwen2_5_vl")
    (root / "model.safetensors").unlink()
    model.save_pretrained(root)
    compressor.update_config(root)
    answer = vila_lab.load(root, device="cpu").ask(parts(2), max_new_tokens=2)
    own = session("qwen2_5_vl").ask(parts(2), max_new_tokens=2)
    assert answer.tokens[0].logprob != own.tokens[0].logprob
    assert answer.tokens[0].logprob == pytest.approx(own.tokens[0].logprob, abs=0.5)
    assert np.isfinite(answer.attribute("leave_one_out", token=0).values).all()
    monkeypatch.setattr(loading, "_check_quantization", lambda name: None)  # bitsandbytes is not here
    with pytest.raises(OptionError, match="is stored as compressed-tensors already"):
        load_family(root, quantization="8bit")


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_packages_of_a_stored_quantisation_are_named(method, copy_of):
    root = copy_of("qwen2_5_vl")
    edit(
        root / "config.json",
        quantization_config={"quant_method": method, "bits": 4, "group_size": 128, "zero_point": True},
    )
    with pytest.raises(
        MissingExtra,
        match=rf"is stored as {method}, which transformers reads with packages that are not here: .*pip install",
    ):
        load_family(root)
