"""Tiny checkpoints of other families, with what the family's own code computes on them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import vila_lab
from vila_lab.families import FAMILIES
from vila_lab.prompt import Prompt
from vila_lab.session import Session

ROOT = Path(__file__).parents[1] / "goldens"
NAMES = tuple(name for name in FAMILIES if name != "nvila")
GOLDEN = tuple(name for name in NAMES if (ROOT / "families" / "outputs" / f"{name}_1.npz").is_file())
REORDERED = (
    "llava",
    "llava_next",
    "llava_onevision",
)  # their templates write all pictures first, and goldens follow them
BOTH_WAYS = ("gemma3", "paligemma", "paligemma2")
ONE_TURN = ("paligemma", "paligemma2")
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
NEED_TORCHVISION = ("smolvlm", "pixtral", "mistral3")
COUNTS = (1, 2, 4)
# What costs most runs once, where all of them load; that pixels of PIL are as good is tried by the others.
ALL_LOAD = pytest.mark.skipif(
    not HAS_TORCHVISION, reason="runs beside torchvision, where all sixteen load: see `make test`"
)


def folder(name: str) -> Path:
    return ROOT / "families" / "checkpoints" / name


def variant(name: str) -> Path:
    """A checkpoint of a family whose parts are of another kind than in the family's own."""
    return ROOT / "families" / "variants" / name


def image(name: str) -> Path:
    return ROOT / "images" / f"{name}.png"


@cache
def golden(name: str, count: int) -> dict[str, np.ndarray]:
    """What transformers' own code computed, with torchvision's pixels."""
    with np.load(ROOT / "families" / "outputs" / f"{name}_{count}.npz") as content:
        return {key: content[key] for key in content.files}


def session(name: str) -> Session:
    """A resident session; a test of a family whose processor cannot be built here is skipped."""
    if name in NEED_TORCHVISION and not HAS_TORCHVISION:
        pytest.skip("transformers' own processor needs torchvision: see `make test`")
    return vila_lab.load(folder(name), device="cpu", dtype="float32")


def parts(count: int) -> list[str | Path]:
    """The prompts of the goldens."""
    return {
        0: ["What are the differences?"],
        1: [image("a_land"), "What is it?"],
        2: ["First image: ", image("b_port"), " Second image: ", image("d_wide"), " What are the differences?"],
        4: [*map(image, ("a_land", "c_sq", "b_port", "d_wide")), "What are the differences?"],
    }[count]


def prompt(count: int) -> Prompt:
    return Prompt.of(parts(count))


def as_golden(name: str) -> dict[str, str]:
    """Options under which a prompt is the goldens'."""
    return {"picture_order": "template"} if name in REORDERED else {}


def inputs_with(prepared, fed: list[int]) -> dict[str, torch.Tensor]:
    """What the model's own forward is given of a prompt and some tokens of an answer behind it."""
    more = torch.tensor([fed], dtype=torch.int64)
    fills = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
    if prepared.token_map.block.size and (prepared.token_map.block >= 0).all():
        fills["token_type_ids"] = 1  # PaliGemma: 0 sees everything, 1 what stands before it
    found = dict(prepared.inputs) | {"input_ids": torch.cat([prepared.inputs["input_ids"], more], 1)}
    for name, fill in fills.items():
        if name in found:
            found[name] = torch.cat([found[name], torch.full_like(more, fill)], 1)
    return found
