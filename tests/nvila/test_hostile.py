"""Checkpoints that are damaged or mean harm: one sentence in time, and nothing outside of their folder is read."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

import vila_lab
from vila_lab.errors import CheckpointError, NotANumber, VilaLabError
from vila_lab.families.loading import load_family
from vila_lab.nvila import limits

SOURCE = Path(__file__).parent.parent / "goldens" / "checkpoints"
QUICK = 20  # seconds


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(SOURCE / "nvila-lite", tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def llm(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "llm" / "config.json", **changes)


def tower(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "vision_tower" / "config.json", **changes)


def root(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def pixels(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "vision_tower" / "preprocessor_config.json", **changes)


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "llm" / "tokenizer_config.json", chat_template=text)


def fifo(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def written(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], Any], part: str = "llm") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / part / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return apply


def index(table: Any) -> Callable[[Path], Any]:
    return written("llm/model.safetensors.index.json", json.dumps({"weight_map": table}).encode())


def elsewhere(named: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.move(folder / "llm", folder.parent / "llm")
        edit(folder / "config.json", llm_cfg=named)

    return change


def first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a part above the folder": (elsewhere("../llm"), "outside"),
    "a part at an absolute place": (elsewhere("/etc"), "outside"),
    "a part at a Windows place": (elsewhere("C:\\llm"), "outside"),
    "a shard above the folder": (index({"a": "../../x.safetensors"}), "outside"),
    "a shard at an absolute place": (index({"a": "/etc/passwd"}), "outside"),
    "an index of numbers": (index({"a": 3}), "weight_map"),
    "an index that is a list": (index([1]), "weight_map"),
    "a shard that is missing": (index({"a": "no.safetensors"}), "lacks llm/no.safetensors"),
    "10^12 channels": (llm(hidden_size=10**12), "hidden_size"),
    "negative channels": (llm(hidden_size=-64), "hidden_size"),
    "channels in words": (llm(hidden_size="many"), "hidden_size"),
    "half a channel": (llm(hidden_size=64.5), "hidden_size"),
    "10^9 layers": (llm(num_hidden_layers=10**9), "num_hidden_layers"),
    "10^12 tokens": (llm(vocab_size=10**12), "vocab_size"),
    "no heads": (llm(num_attention_heads=0), "num_attention_heads"),
    "heads that do not divide": (llm(num_attention_heads=7, num_key_value_heads=7), "does not divide"),
    "key heads that do not divide": (llm(num_key_value_heads=3), "does not divide"),
    "a picture of 10^9 pixels a side": (tower(image_size=10**9), "image_size"),
    "a patch of nothing": (tower(patch_size=0), "patch_size"),
    "a patch that is larger": (tower(patch_size=4000), "patch"),
    "10^9 tiles": (root(max_tiles=10**9), "max_tiles"),
    "no tiles": (root(max_tiles=0), "max_tiles"),
    "more tiles at least than at most": (root(min_tiles=13), "min_tiles"),
    "tiles in words": (root(max_tiles="many"), "max_tiles"),
    "10^9 pixels a scale": (root(s2_scales="448,1000000000"), "s2_scales"),
    "scales in words": (root(s2_scales="a,b"), "s2_scales"),
    "a layer that is not there": (root(mm_vision_select_layer=10**6), "mm_vision_select_layer"),
    "a deviation of 0": (pixels(image_std=[0, 0, 0]), "image_std"),
    "a mean of NaN": (pixels(image_mean=[float("nan")] * 3), "image_mean"),
    "a mean in words": (pixels(image_mean="grey"), "image_mean"),
    "a template that loops": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x"),
        "does not come to an end",
    ),
    "a template that calls itself": (template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "chat template"),
    "a template that is none": (template("{% for"), "chat template"),
    "a pipe as configuration": (fifo("llm/config.json"), "no plain file"),
    "a pipe as root configuration": (fifo("config.json"), "config.json"),
    "a pipe as weights": (fifo("llm/model.safetensors"), "no plain file"),
    "a pipe as a shard": (fifo("vision_tower/model-00001.safetensors"), "no plain file"),
    "a pipe as tokenizer": (fifo("llm/tokenizer.json"), "no plain file"),
    "a pipe as template": (fifo("llm/chat_template.jinja"), "no plain file"),
    "a deep root configuration": (written("config.json", DEEP), "nested too deep|cannot"),
    "a deep configuration": (written("llm/config.json", DEEP), "nested too deep"),
    "a deep tokenizer configuration": (written("llm/tokenizer_config.json", DEEP), "tokenizer"),
    "a deep tokenizer": (written("llm/tokenizer.json", DEEP), "tokenizer"),
    "a tokenizer of nothing": (written("llm/tokenizer.json", b""), "tokenizer"),
    "a tokenizer of noise": (written("llm/tokenizer.json", bytes(range(256))), "tokenizer"),
    "a number of a million digits": (written("llm/config.json", b'{"a":' + b"9" * 10**6 + b"}"), "valid JSON"),
    "a list as configuration": (written("llm/config.json", b"[]"), "JSON object"),
    "no tokenizer": (gone("llm/tokenizer.json"), "no tokenizer in llm/"),
    "weights that are cut": (
        lambda f: os.truncate(f / "llm" / "model.safetensors", 5000),
        r"llm/model.safetensors is damaged",
    ),
    "weights of nothing": (written("llm/model.safetensors", b""), "damaged"),
    "weights that are a pickle": (
        lambda f: (f / "llm" / "model.safetensors").rename(f / "llm" / "pytorch_model.bin"),
        "pickle",
    ),
    "a tensor is missing": (weights(lambda t: t.pop(first(t))), "lacks the tensor"),
    "a tensor of another shape": (weights(lambda t: t.update({first(t): torch.zeros(3)})), "has shape"),
    "NaN in a weight": (weights(lambda t: t[first(t)].view(-1)[5:6].fill_(torch.nan)), "holds NaN"),
    "infinity in the tower": (
        weights(lambda t: t[first(t)].view(-1)[:1].fill_(torch.inf), "vision_tower"),
        "holds NaN",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_or_hostile_checkpoint_is_one_sentence_in_time(case, folder, monkeypatch):
    monkeypatch.setattr(limits, "TEMPLATE_SECONDS", 0.5)
    change, words = HOSTILE[case]
    change(folder)
    start = time.monotonic()
    with pytest.raises(VilaLabError, match=words) as caught:
        load_family(folder)
    assert time.monotonic() - start < QUICK
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_panic_of_the_tokenizers_library_is_one_sentence(folder, monkeypatch):
    class PanicException(BaseException):
        """As pyo3 makes them."""

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", panic)
    with pytest.raises(CheckpointError, match="index out of bounds"):
        load_family(folder)


def test_an_interrupt_while_the_tokenizer_is_read_stays_one(folder, monkeypatch):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_family(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    config = json.loads((folder / "llm" / "tokenizer.json").read_text())
    vocabulary = config["model"]["vocab"]
    few = dict(sorted(vocabulary.items(), key=lambda item: item[1])[:20])
    config["model"] |= {"vocab": few, "merges": []}
    (folder / "llm" / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_family(folder)


def test_files_that_are_links_are_read(folder, tmp_path):
    """As in a hub's cache, where every file of a snapshot is a link to a blob."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        shutil.move(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert load_family(folder).model.config.hidden_size


def test_a_template_leaves_the_callers_tracing_alone():
    assert limits.within_time(lambda: "text", "x") == "text"
    with pytest.raises(ZeroDivisionError):
        limits.within_time(lambda: 1 / 0, "x")


# -- NaN while the model runs --------------------------------------------------------------------------------------------


@pytest.fixture
def lab():
    """A session of its own, whose head says no numbers."""
    lab = vila_lab.load()
    demo = vila_lab.demo_images()
    parts = [demo / "g.png", demo / "m.png", "What is in image 2?"]
    answer = lab.ask(parts, max_new_tokens=2)
    handle = lab.model.get_output_embeddings().register_forward_hook(lambda m, i, out: out * float("nan"))
    yield lab, parts, answer
    handle.remove()


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 0}], ids=["greedy", "sampled"])
def test_an_answer_of_nan_is_an_error(lab, options):
    session, parts, _ = lab
    with pytest.raises(NotANumber, match=r"NaN.*at token 0") as caught:
        session.ask(parts, max_new_tokens=4, **options)
    assert isinstance(caught.value, ArithmeticError)


@pytest.mark.parametrize("method", ["leave_one_out", "shapley", "integrated_gradients", "input_x_gradient"])
def test_shares_of_nan_are_nan_and_a_note_says_so(lab, method):
    found = lab[2].attribute(method, **({"steps": 2} if method == "integrated_gradients" else {}))
    assert np.isnan(found.shares().to_numpy()).all()
    assert "NaN" in found.note


def test_attention_of_nan_has_no_shares():
    session = vila_lab.load()
    demo = vila_lab.demo_images()
    layer = session.family.decoder_layers[2].self_attn.q_proj
    handle = layer.register_forward_hook(lambda m, i, out: out * float("nan"))
    try:
        with pytest.raises(NotANumber):
            session.ask([demo / "g.png", demo / "m.png", "What is in image 2?"], max_new_tokens=2)
    finally:
        handle.remove()


def test_the_mass_of_a_row_of_nan_is_nan():
    from vila_lab.hooks.rows import group_mass

    query, key = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)
    query[0, 0, 1] = torch.nan
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 2, :] = False
    mass = group_mass(query, key, torch.tensor([0, 0, 1, 1]), scaling=1.0, mask=mask)
    assert torch.isnan(mass[0, 0, 1]).all()
    assert (mass[0, :, 2] == 0).all()  # sees nothing
    assert torch.isfinite(mass[0, 1]).all()
