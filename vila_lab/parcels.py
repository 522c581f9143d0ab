"""Parcel: what an experiment takes or gives, as bytes and back to the bit. Knows results by their names, no model and no network.

A parcel is a safetensors file (`vila_lab.wire`): its header is a tree of plain JSON values, in which a table ``{"$": kind, ...}`` stands
for what JSON does not have, and its tensors are the arrays. No pickle; only the classes of `CARRIED` are made again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .attribution import Attribution
from .attribution.result import Cost
from .attribution.vision import VisionAttention
from .edits.flow import Flow
from .edits.redirect import Redirection
from .engine.band import Band
from .engine.record import Record
from .errors import OptionError
from .evidence import Evidence, MetricCard
from .evidence.metrics import Curves
from .tokenmap import TokenMap
from .wire import parsing, picture_of, png_of, str_of, to_bytes

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

KEY = "vila_lab_parcel"
MARK = "$"
CARRIED: Mapping[str, type] = {
    cls.__name__: cls
    for cls in (Attribution, Band, Cost, Curves, Evidence, Flow, MetricCard, Redirection, TokenMap, VisionAttention)
}
"""Results of experiments, and what they are made of."""


def pack(value: Any, known: Mapping[str, Any] | None = None) -> bytes:
    """A value as bytes.

    Parameters
    ----------
    value
        Plain values, lists, tuples and dicts of them; arrays, tensors, pictures, tables of pandas and xarray; records, and the
        classes of `CARRIED`.
    known
        What the reader has already, by a name: it is not sent again.

    Raises
    ------
    OptionError
        If there is something else in it: a function, say.

    Examples
    --------
    >>> unpack(pack({"boxes": {1: (40, 40, 216, 216)}, "heat": np.eye(2)}))["boxes"]
    {1: (40, 40, 216, 216)}
    """
    packer = _Packer(known or {})
    tree = packer.tree(value)
    return to_bytes(KEY, {"value": tree}, packer.tensors)


def unpack(data: bytes, known: Mapping[str, Any] | None = None, *, plain: bool = False) -> Any:
    """The value of a parcel.

    Parameters
    ----------
    known
        As given to `pack`, by the same names.
    plain
        Take no records and no classes, only values: for what comes from strangers.

    Raises
    ------
    FileError
        If the bytes are no parcel, or a damaged one.
    """
    with parsing(data, KEY, "parcel", "what was sent") as (header, tensors):
        return _Unpacker(tensors, known or {}, plain).value(header["value"])


def known_of(record: Record) -> dict[str, Any]:
    """What whoever has an answer need not be sent again, by the names that stand for it in a parcel."""
    images = {f"image.{k}": image for k, image in enumerate(record.images)}
    return {"record": record, "token_map": record.token_map, **images}


class _Packer:
    """From a value to its tree, its arrays gathered on the way."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known = {id(value): name for name, value in known.items()}

    def tree(self, value: Any) -> Any:
        if id(value) in self._known:
            return {MARK: "known", "name": self._known[id(value)]}
        if value is None or isinstance(value, bool | int | str):
            return str(value) if type(value) is not str and isinstance(value, str) else value
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, Mapping) and all(isinstance(key, str) and key != MARK for key in value):
            return {key: self.tree(each) for key, each in value.items()}
        if type(value) is list:
            return [self.tree(each) for each in value]
        for kinds, kind, pack_one in self._ways():
            if isinstance(value, kinds):
                return {MARK: kind, **pack_one(value)}
        if dataclasses.is_dataclass(value) and type(value).__name__ in CARRIED:
            return {MARK: "result", "class": type(value).__name__, "fields": self._fields(value)}
        raise OptionError(f"a {type(value).__name__} cannot be sent: {str(value)[:60]!r}")

    def _ways(self) -> list[tuple[Any, str, Callable[[Any], dict[str, Any]]]]:
        import pandas as pd
        import xarray as xr

        return [
            (float, "float", lambda value: {"text": repr(float(value))}),
            (np.generic, "scalar", lambda value: {"of": self.tree(value.item())}),
            (tuple, "tuple", lambda value: {"of": [self.tree(each) for each in value]}),
            (Mapping, "dict", lambda value: {"of": [[self.tree(k), self.tree(each)] for k, each in value.items()]}),
            (slice, "slice", lambda value: {"of": [self.tree(each) for each in (value.start, value.stop, value.step)]}),
            (np.ndarray, "array", self._array),
            (Tensor, "tensor", lambda value: {"name": self._keep(value)}),
            (Image.Image, "picture", lambda value: self._array(np.frombuffer(png_of(value), np.uint8))),
            (Record, "record", lambda value: self._array(np.frombuffer(value.to_bytes(), np.uint8))),
            (pd.MultiIndex, "indices", self._indices),
            (pd.Index, "index", lambda value: {"name": self.tree(value.name), "of": self._column(value)}),
            (pd.Series, "series", self._series),
            (pd.DataFrame, "frame", self._frame),
            (xr.DataArray, "data", self._data),
        ]

    def _keep(self, tensor: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.detach().cpu().contiguous().clone()
        return name

    def _array(self, array: NDArray[Any]) -> dict[str, Any]:
        if array.dtype.kind in "biuf":
            return {"name": self._keep(torch.from_numpy(np.array(array)))}
        listed = [self.tree(each) for each in array.ravel().tolist()]
        return {"of": listed, "shape": list(array.shape), "dtype": array.dtype.kind}

    def _column(self, values: Any) -> Any:
        kind = getattr(values.dtype, "kind", "O")
        if kind in "biuf":
            return self.tree(values.to_numpy())
        return {MARK: "column", "of": self.tree(values.tolist()), "dtype": str(values.dtype)}

    def _indices(self, index: pd.MultiIndex) -> dict[str, Any]:
        levels = [self.tree(index.get_level_values(k)) for k in range(index.nlevels)]
        return {"of": levels}

    def _series(self, series: pd.Series[Any]) -> dict[str, Any]:
        return {"index": self.tree(series.index), "name": self.tree(series.name), "of": self._column(series)}

    def _frame(self, frame: pd.DataFrame) -> dict[str, Any]:
        columns = [self._column(frame.iloc[:, k]) for k in range(frame.shape[1])]
        return {"index": self.tree(frame.index), "columns": self.tree(frame.columns), "of": columns}

    def _data(self, data: xr.DataArray) -> dict[str, Any]:
        coords = {name: [list(each.dims), self.tree(each.to_numpy())] for name, each in data.coords.items()}
        return {
            "values": self.tree(data.to_numpy()),
            "dims": list(data.dims),
            "coords": coords,
            "name": self.tree(data.name),
            "attrs": self.tree(dict(data.attrs)),
        }

    def _fields(self, value: Any) -> dict[str, Any]:
        return {each.name: self.tree(getattr(value, each.name)) for each in dataclasses.fields(value)}


class _Unpacker:
    """From a tree to its value."""

    def __init__(self, tensors: Mapping[str, Tensor], known: Mapping[str, Any], plain: bool) -> None:
        self._tensors = tensors
        self._known = known
        self._plain = plain

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.value(each) for each in tree]
        if not isinstance(tree, dict):
            return tree
        kind = tree.get(MARK)
        if kind is None:
            return {key: self.value(each) for key, each in tree.items()}
        if self._plain and kind in ("result", "record"):
            raise ValueError(f"a {kind} has no place here")
        ways = {
            "known": lambda: self._known[tree["name"]],
            "float": lambda: float(tree["text"]),
            "scalar": lambda: self.value(tree["of"]),
            "tuple": lambda: tuple(self.value(tree["of"])),
            "dict": lambda: {self.value(key): self.value(each) for key, each in tree["of"]},
            "slice": lambda: slice(*self.value(tree["of"])),
            "array": lambda: self._array(tree),
            "tensor": lambda: self._tensors[tree["name"]],
            "picture": lambda: picture_of(self._array(tree)),
            "record": lambda: Record.from_bytes(self._array(tree).tobytes()),
            "index": lambda: self._index(tree),
            "indices": lambda: self._indices(tree),
            "column": lambda: self._column(tree),
            "series": lambda: self._series(tree),
            "frame": lambda: self._frame(tree),
            "data": lambda: self._data(tree),
            "result": lambda: self._result(tree),
        }
        made: Callable[[], Any] = ways[str_of(kind)]
        return made()

    def _array(self, tree: dict[str, Any]) -> NDArray[Any]:
        if "name" in tree:
            return np.asarray(self._tensors[tree["name"]].numpy())
        dtype = np.dtype(str) if tree["dtype"] == "U" else np.dtype(object)
        return np.array(self.value(tree["of"]), dtype).reshape(tree["shape"])

    def _column(self, tree: dict[str, Any]) -> pd.Series[Any]:
        import pandas as pd

        return pd.Series(self.value(tree["of"]), dtype=str_of(tree["dtype"]))

    def _index(self, tree: dict[str, Any]) -> pd.Index[Any]:
        import pandas as pd

        return pd.Index(self.value(tree["of"]), name=self.value(tree["name"]))

    def _indices(self, tree: dict[str, Any]) -> pd.MultiIndex:
        import pandas as pd

        levels = self.value(tree["of"])
        return pd.MultiIndex.from_arrays([list(level) for level in levels], names=[level.name for level in levels])

    def _series(self, tree: dict[str, Any]) -> pd.Series[Any]:
        import pandas as pd

        column = self.value(tree["of"])
        return pd.Series(
            getattr(column, "array", column), index=self.value(tree["index"]), name=self.value(tree["name"])
        )

    def _frame(self, tree: dict[str, Any]) -> pd.DataFrame:
        import pandas as pd

        index, columns = self.value(tree["index"]), self.value(tree["columns"])
        listed = [self.value(column) for column in tree["of"]]
        frame = pd.DataFrame({k: getattr(column, "array", column) for k, column in enumerate(listed)}, index=index)
        frame.columns = columns
        return frame

    def _data(self, tree: dict[str, Any]) -> xr.DataArray:
        import xarray as xr

        coords = {name: (dims, self.value(values)) for name, (dims, values) in tree["coords"].items()}
        attributes = self.value(tree["attrs"])
        return xr.DataArray(
            self.value(tree["values"]), coords, tree["dims"], name=self.value(tree["name"]), attrs=attributes
        )

    def _result(self, tree: dict[str, Any]) -> Any:
        return CARRIED[tree["class"]](**{name: self.value(each) for name, each in tree["fields"].items()})
