"""Tiny checkpoints and what the reference computed on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

GOLDENS = Path(__file__).parents[1] / "goldens"
DIFFERENCES = "What are the differences?"
DESCRIBE = "Please describe the image."


@dataclass(frozen=True)
class Case:
    """One prompt on one checkpoint; a part that names a picture file is a picture."""

    checkpoint: str
    parts: tuple[str, ...]
    conv_mode: str = "auto"


CASES = {
    "ds2_0": Case("nvila-dynamic_s2", (DIFFERENCES,)),
    "ds2_1": Case("nvila-dynamic_s2", ("a_land.png", DIFFERENCES)),
    "ds2_3": Case("nvila-dynamic_s2", ("a_land.png", "b_port.png", "e_rgba.png", DIFFERENCES)),
    "ds2_inter": Case(
        "nvila-dynamic_s2", ("First image:\n", "a_land.png", "\nSecond image:\n", "b_port.png", "\n" + DIFFERENCES)
    ),
    "lite_1": Case("nvila-lite", ("b_port.png", "What <image> are the differences?")),
    "lite_3": Case("nvila-lite", ("a_land.png", "b_port.png", "h_exif6.jpg", DIFFERENCES)),
    "resize_1": Case("nvila-resize", ("g_gray.png", DESCRIBE)),
    "resize_2": Case("nvila-resize", ("a_land.png", "f_palette.png", DESCRIBE)),
    "v15_1": Case("VILA1.5-3b-tiny", ("a_land.png", DESCRIBE), "vicuna_v1"),
    "v15_2": Case("VILA1.5-3b-tiny", ("a_land.png", "b_port.png", DIFFERENCES), "auto"),
    "v15_hermes": Case("VILA1.5-3b-tiny", ("a_land.png", DIFFERENCES), "hermes-2"),
}
CHECKPOINTS = ("nvila-dynamic_s2", "nvila-lite", "nvila-resize", "VILA1.5-3b-tiny")


def picture(name: str) -> Image.Image:
    with Image.open(GOLDENS / "images" / name) as image:
        image.load()
        return image


def parts_of(case: Case) -> list[Any]:
    return [picture(part) if part.endswith((".png", ".jpg")) else part for part in case.parts]


@cache
def loaded(name: str) -> tuple[Any, Any]:
    """Model and processor of a tiny checkpoint, with eager attention; shared, so tests leave them as they are."""
    from vila_lab.nvila.checkpoint import load_checkpoint

    return load_checkpoint(GOLDENS / "checkpoints" / name, attn_implementation="eager")


@pytest.fixture(scope="session")
def load() -> Any:
    return loaded


@pytest.fixture(scope="session")
def goldens() -> Path:
    return GOLDENS


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> tuple[Case, dict[str, np.ndarray], dict[str, Any]]:
    """A case, the reference's arrays, and its notes."""
    with np.load(GOLDENS / "outputs" / f"{request.param}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return CASES[request.param], arrays, json.loads(str(arrays.pop("meta")))


@pytest.fixture
def golden_parts(golden: tuple[Case, Any, Any]) -> list[Any]:
    return parts_of(golden[0])


@pytest.fixture(scope="session")
def open_picture() -> Any:
    return picture


@pytest.fixture
def copy_of(tmp_path: Path) -> Any:
    """Copy a tiny checkpoint to a folder that a test may spoil."""

    def copy(name: str, to: str | None = None) -> Path:
        target = tmp_path / (to or "checkpoint")
        shutil.copytree(GOLDENS / "checkpoints" / name, target)
        return target

    return copy


@pytest.fixture
def edit_json() -> Any:
    def edit(path: Path, **changes: Any) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        content |= {key: value for key, value in changes.items() if value is not ...}
        for key in [key for key, value in changes.items() if value is ...]:
            content.pop(key, None)
        path.write_text(json.dumps(content), encoding="utf-8")

    return edit


@pytest.fixture
def as_layout(copy_of: Any, edit_json: Any, tmp_path: Path) -> Any:
    """Turn a tiny checkpoint into one of the published layouts."""

    def build(name: str, layout: str) -> Path:
        root: Path = copy_of(name, layout)
        if layout == "model_subfolder":
            inner = tmp_path / "outer"
            inner.mkdir()
            root.rename(inner / "model")
            return inner
        if layout == "preview":
            auto_map = {"AutoConfig": "modeling_vila.VILAConfig", "AutoProcessor": "auto_processor.VILAProcessor"}
            edit_json(root / "config.json", model_type="vila", architectures=["VILAForCausalLM"], auto_map=auto_map)
        if layout.startswith("hf:"):
            _to_single_file(root, layout.removeprefix("hf:"))
        return root

    return build


def _to_single_file(root: Path, model_type: str) -> None:
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    content = {
        "model_type": model_type,
        "architectures": ["NVILAForConditionalGeneration"],
        "text_config": json.loads((root / "llm" / "config.json").read_text(encoding="utf-8")),
        "vision_config": json.loads((root / "vision_tower" / "config.json").read_text(encoding="utf-8")),
    }
    if model_type == "vila":
        content["mm_projector_type"] = config["mm_projector_cfg"]["mm_projector_type"]
    tensors = {}
    for part, prefix in (("llm", "llm"), ("vision_tower", "vision_tower"), ("mm_projector", "mm_projector")):
        tensors |= {f"{prefix}.{key}": value for key, value in load_file(root / part / "model.safetensors").items()}
    for file in (root / "llm").glob("*token*"):
        shutil.copy(file, root / file.name)
    auto_map = {"AutoProcessor": "auto_processor.NVILAProcessor"}
    processor = {"processor_class": "NVILAProcessor", "auto_map": auto_map}
    (root / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    for part in ("llm", "vision_tower", "mm_projector"):
        shutil.rmtree(root / part)
    save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})
    (root / "config.json").write_text(json.dumps(content), encoding="utf-8")
