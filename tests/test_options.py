"""Every option of a wrong type or out of range is one sentence that says what is allowed, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vila_lab
from vila_lab.errors import OptionError

WRONG_IN_ASK: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": 0}, "at least 1"),
    ({"max_new_tokens": -3}, "at least 1"),
    ({"max_new_tokens": 1.5}, "whole number"),
    ({"max_new_tokens": True}, "whole number"),
    ({"max_new_tokens": "5"}, "whole number"),
    ({"conv_mode": "no such"}, "vicuna_v1"),
    ({"conv_mode": None}, "auto, vicuna_v1"),
    ({"do_sample": "yes"}, "True or False"),
    ({"do_sample": 1}, "True or False"),
    ({"tile_all_images": "no"}, "True or False"),
    ({"apply_exif": 2}, "True or False"),
    ({"do_sample": True, "temperature": 0}, "above 0"),
    ({"do_sample": True, "temperature": -1.0}, "above 0"),
    ({"do_sample": True, "temperature": float("nan")}, "a number"),
    ({"do_sample": True, "temperature": float("inf")}, "a number"),
    ({"do_sample": True, "temperature": "hot"}, "a number"),
    ({"do_sample": True, "top_p": -1}, "above 0 and at most 1"),
    ({"do_sample": True, "top_p": 0}, "above 0 and at most 1"),
    ({"do_sample": True, "top_p": 1.01}, "above 0 and at most 1"),
    ({"do_sample": True, "top_p": True}, "a number"),
    ({"do_sample": True, "top_k": 0}, "at least 1"),
    ({"do_sample": True, "top_k": 2.5}, "whole number"),
    ({"do_sample": True, "seed": -1}, "at least 0"),
    ({"do_sample": True, "seed": 2**64}, "at most"),
    ({"do_sample": True, "seed": 2**70}, "at most"),
    ({"do_sample": True, "seed": 1.0}, "whole number"),
    ({"do_sample": True, "seed": True}, "whole number"),
    ({"temperature": 0.5}, "do_sample=True"),
]
WRONG_IN_LOAD: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "int8"}, "bfloat16"),
    ({"dtype": torch.int8}, "bfloat16"),
    ({"dtype": 8}, "bfloat16"),
    ({"dtype": ["float32"]}, "bfloat16"),
    ({"device": "meta"}, "cpu, cuda"),
    ({"device": "gpu"}, "cpu, cuda"),
    ({"device": 3}, "cpu, cuda"),
    ({"device": ""}, "cpu, cuda"),
    ({"device": "cpu", "device_map": "auto"}, "exclude"),
    ({"device_map": 1.5}, "'auto'"),
    ({"attn_implementation": "eagar"}, "sdpa"),
    ({"attn_implementation": 1}, "a text"),
    ({"quantization": "2bit"}, "4bit"),
    ({"quantization": 4}, "a text"),
    ({"revision": 1}, "a text"),
    ({"capture_budget": -1}, "at least 0"),
    ({"capture_budget": 1.5}, "whole number"),
    ({"capture_budget": "1 GB"}, "whole number"),
    ({"capture_budget": True}, "whole number"),
    ({"source": 5}, "folder"),
]
WRONG_IN_ATTRIBUTE: list[tuple[str, dict[str, Any], str]] = [
    ("attention", {"token": True}, "word"),
    ("attention", {"token": 1.5}, "word"),
    ("attention", {"token": 99}, "counted from 0"),
    ("attention", {"layers": ["first"]}, "whole number"),
    ("attention", {"layers": [1.5]}, "whole number"),
    ("attention", {"heads": [(0, True)]}, "whole number"),
    ("attention", {"heads": [3]}, "(layer, head)"),
    ("attention", {"score": ["logprob"]}, "a text"),
    ("leave_one_out", {"contrast": 5}, "a text"),
    ("leave_one_out", {"contrast": True}, "a text"),
    ("leave_one_out", {"token": "Microsoft", "at": 0.5}, "whole number"),
    ("leave_one_out", {"baseline": 7}, "baseline"),
    ("integrated_gradients", {"steps": 0}, "at least 1"),
    ("integrated_gradients", {"steps": 1.5}, "whole number"),
    ("integrated_gradients", {"steps": True}, "whole number"),
    ("integrated_gradients", {"steps": "many"}, "whole number"),
    ("shapley", {"samples": 1}, "at least 2"),
    ("shapley", {"samples": 2.5}, "whole number"),
    ("shapley", {"samples": True}, "whole number"),
    ("shapley", {"samples": 2, "seed": -1}, "at least 0"),
    ("occlusion", {"image": True}, "whole number"),
    ("occlusion", {"image": 9}, "counted from 0"),
    ("occlusion", {"image": 0, "cells": 4}, "(rows, columns)"),
    ("occlusion", {"image": 0, "cells": (2, 1.5)}, "whole number"),
    ("no such method", {}, "attention"),
    ("attention", {"no_such_option": 1}, "no_such_option"),
]


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


@pytest.fixture(scope="module")
def answer(lab):
    demo = vila_lab.demo_images()
    return lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"], max_new_tokens=3)


def says(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value!r}" for name, value in options.items())


def one_sentence(error: BaseException, wanted: str) -> None:
    assert isinstance(error, OptionError)
    assert isinstance(error, ValueError)
    assert wanted in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("options", "wanted"), WRONG_IN_ASK, ids=[says(each) for each, _ in WRONG_IN_ASK])
def test_a_wrong_option_of_ask(lab, options, wanted):
    with pytest.raises(OptionError) as caught:
        lab.ask("Hello", **options)
    one_sentence(caught.value, wanted)


@pytest.mark.parametrize(("options", "wanted"), WRONG_IN_LOAD, ids=[says(each) for each, _ in WRONG_IN_LOAD])
def test_a_wrong_option_of_load(options, wanted):
    before = vila_lab.loaded()
    with pytest.raises(OptionError) as caught:
        vila_lab.load(**options)
    one_sentence(caught.value, wanted)
    assert vila_lab.loaded() == before


def test_flash_attention_without_its_package_is_said():
    if torch.cuda.is_available():
        pytest.skip("this machine may have flash attention")
    with pytest.raises(OptionError, match="flash-attn"):
        vila_lab.load(attn_implementation="flash_attention_2")


@pytest.mark.parametrize(
    ("method", "options", "wanted"), WRONG_IN_ATTRIBUTE, ids=[f"{m}-{says(o)}" for m, o, _ in WRONG_IN_ATTRIBUTE]
)
def test_a_wrong_option_of_attribute(answer, method, options, wanted):
    with pytest.raises(OptionError) as caught:
        answer.attribute(method, **options)
    one_sentence(caught.value, wanted)


def test_numbers_of_numpy_are_numbers(lab, answer):
    assert lab.ask("Hello", max_new_tokens=np.int64(1), do_sample=np.bool_(False)).tokens
    assert lab.ask("Hello", max_new_tokens=1, do_sample=True, temperature=np.float32(0.5), seed=np.int64(3)).tokens
    assert answer.attribute("integrated_gradients", token=np.int64(0), steps=np.int32(2)).values.shape[0] == 1
    assert vila_lab.load(device=torch.device("cpu")) is vila_lab.load()


@pytest.mark.parametrize("picture", [True, 0.5, "first", None])
def test_an_index_is_a_whole_number(answer, picture):
    with pytest.raises(OptionError):
        answer.heatmap(token=0, image=picture)
