"""Parcels: whatever an experiment takes or gives comes out as it went in, and nothing else is made of what strangers send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image

import vila_lab
from vila_lab.errors import FileError, OptionError
from vila_lab.parcels import pack, unpack

FOLDER = vila_lab.demo_images()
OPTIONS: dict[str, dict[str, Any]] = {
    "attribute": {"method": "logit_lens", "token": 0},
    "evidence": {"token": 0},
    "metric_card": {"method": "attention", "token": 0, "boxes": {1: (40, 40, 216, 216)}},
    "random_weights_map": {"method": "attention", "token": 0},
    "flow": {"token": 0, "stride": 3},
    "leakage": {},
    "causal_leakage": {},
    "redirect": {"image": 0, "strength": 16},
}


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        if one.dtype.kind == "O":
            return one.tolist() == other.tolist()
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, pd.DataFrame):
        return one.equals(other) and list(one.dtypes) == list(other.dtypes) and same(one.columns, other.columns)
    if isinstance(one, pd.Series | pd.Index):
        return one.equals(other) and one.dtype == other.dtype
    if isinstance(one, xr.DataArray):
        return one.identical(other)
    if isinstance(one, Image.Image):
        return one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    return one == other or (one != one and other != other)


VALUES = [

        None, True, 3, 2**70, 0.1, float("nan"), -float("inf"), "a\u2028b", [1, (2, [3])], {1: (2,), "b": {3: 4}}, {"$": "tuple"},
        slice(1, None, 2), np.eye(3, dtype=np.float32), np.array(["a", "b"]), np.zeros((0, 4)), torch.arange(3),
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, np.nan]}, index=pd.Index([3, 4], name="layer")),
        pd.Series([1.5, 2.5], index=["a", "b"], name="s"), pd.DataFrame(columns=["a"]),
        pd.DataFrame([[1.0]], index=pd.MultiIndex.from_arrays([[0], ["x"]], names=["token", "text"]), columns=["v"]),
        xr.DataArray(np.ones((2, 3)), {"layer": [0, 1], "text": ("position", ["a", "b", "c"])}, ("layer", "position"), "n", {"u": "nats"}),
        Image.new("RGB", (3, 2), "red"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_a_value_comes_out_as_it_went_in(number):
    assert same(unpack(pack(VALUES[number])), VALUES[number])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_result_of_every_experiment_travels_to_the_bit(name):
    lab = vila_lab.load()
    record = lab.ask([FOLDER / "g.png", FOLDER / "m.png", "What is in image 2?"]).record
    result = lab.experiment(record, name, **OPTIONS[name])
    known = {"record": record, "map": record.token_map} | {str(k): image for k, image in enumerate(record.images)}
    data = pack(result, known)
    copy = unpack(data, known)
    assert repr(copy) == repr(result)
    if name != "redirect":
        assert same(copy, result)
    else:
        assert copy.before is record
        assert copy.after.text == result.after.text
    assert b"PNG" not in data or name == "redirect"  # what the reader has is not sent again


def test_what_has_no_bytes_is_refused_by_its_name():
    with pytest.raises(OptionError, match="a function cannot be sent"):
        pack({"baseline": lambda: 0})


def test_strangers_send_values_and_nothing_else():
    lab = vila_lab.load()
    record = lab.ask([FOLDER / "g.png", "What is in image 1?"]).record
    for value in (record, lab.experiment(record, "attribute", method="attention")):
        with pytest.raises(FileError, match="has no place here"):
            unpack(pack(value), plain=True)
    for data in (b"", b"x" * 100, pack(1)[:-1], pack(1).replace(b"value", b"velue")):
        with pytest.raises(FileError):
            unpack(data)
