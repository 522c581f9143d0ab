"""Attribution: the one result of every method, over the TokenMap. Knows arrays and labels, no model and no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..engine.target import Row
from ..errors import OptionError
from ..pointing import WhichPicture, WhichTokens, picture_index, token_numbers
from ..tokenmap import TokenMap
from ..wire import UNCHECKED, prompt_arrays, prompt_header, reading, restored_prompt, to_bytes
from ..writing import write_file

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure
    from torch import Tensor

FILE_KEY = "vila_lab_attribution"
WORDS = ("method", "unit", "signed", "target", "contrast", "baseline", "note", "mean", "covers_prompt", "checks")


@dataclass(frozen=True)
class Cost:
    """What a result cost.

    Attributes
    ----------
    forwards
        Sequences that were scored.
    backwards
        Backward passes.
    computed : float
        Positions that went through the decoder, in plain teacher-forced forwards: below `forwards` where prefixes
        were shared or positions removed.
    seconds
        Wall-clock time.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> cost = answer.attribute("leave_one_out").cost  # as it was asked, and without the picture
    >>> cost.forwards, cost.backwards, cost.computed <= cost.forwards, cost.seconds > 0
    (2, 0, True, True)
    """

    forwards: int
    backwards: int
    computed: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much every position contributed to a target.

    Attributes
    ----------
    method : str
        Name in `vila_lab.methods`.
    unit : str
        What a score is, in words.
    signed : bool
        Whether a score below zero speaks against the target.
    target : str
        The words scored.
    contrast : str or None
        The words whose score was subtracted.
    baseline : str
        What took the place of what was left out; "" where nothing was.
    note : str
        What a reader must know.
    cost : Cost
        Forwards, backwards and seconds.
    values : (rows, T) array
        `scores` without labels: a row per scored token, a column per position.
    token, text, stop : tuple
        Of each row: number of the answer's token, its characters, whether it ended the answer.
    token_map : TokenMap
        What the positions are.
    images : tuple of PIL images
        The pictures, in order.
    mean : bool
        Whether rows are averaged to a total (shares) and not added (log-probabilities).
    covers_prompt : bool
        Whether positions beside the pictures are scored.
    features : tuple of str
        What a perturbation left out, one by one; empty otherwise.
    feature_values, feature_errors : (rows, features) arrays or None
        Score of each, and its standard error where it was sampled.
    checks : dict
        Numbers that show whether the method kept its promise, by name.
    extras : dict of xarray.DataArray
        What a method tells beyond its scores.
    options : tuple of str
        The options that were given and are not as they would be anyway: "samples=32".

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> found = answer.attribute("leave_one_out")
    >>> found.method, found.unit, found.total().index.tolist()
    ('leave_one_out', 'log-probability', ['image_1'])
    >>> found.target, found.text, found.token, found.scores.dims
    ('Google.', ('Google', '.', ''), (0, 1, 2), ('token', 'position'))
    >>> found.sign, found.baseline, found.features, found.nbytes > 0
    ('signed', 'remove', ('image_1',), True)
    """

    method: str
    unit: str
    signed: bool
    target: str
    contrast: str | None
    baseline: str
    note: str
    cost: Cost
    values: NDArray[np.float64]
    token: tuple[int, ...]
    text: tuple[str, ...]
    stop: tuple[bool, ...]
    token_map: TokenMap
    images: tuple[Image.Image, ...]
    mean: bool = False
    covers_prompt: bool = True
    features: tuple[str, ...] = ()
    feature_values: NDArray[np.float64] | None = None
    feature_errors: NDArray[np.float64] | None = None
    checks: dict[str, float] = field(default_factory=dict)
    extras: dict[str, xr.DataArray] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def __repr__(self) -> str:
        target = f"{self.target!r} rather than {self.contrast!r}" if self.contrast else repr(self.target)
        words = [self.method, target, f"{len(self.values)} x {self.values.shape[1]}", self.sign]
        if self.baseline:
            words.append(f"baseline {self.baseline}")
        words.append(f"{self.cost.forwards} forwards, {self.cost.backwards} backwards")
        return f"Attribution({', '.join(words)})"

    @property
    def sign(self) -> str:
        """ "signed" where a score below zero speaks against the target, otherwise "unsigned"."""
        return "signed" if self.signed else "unsigned"

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, without the pictures."""
        arrays = [self.values, self.feature_values, self.feature_errors, *self.extras.values()]
        return sum(array.nbytes for array in arrays if array is not None)

    # -- tables ----------------------------------------------------------------------------------------------------

    @property
    def scores(self) -> xr.DataArray:
        """The score of every position for every token of the target; dims (token, position)."""
        import xarray as xr

        coords = {
            "token": list(self.token),
            "position": np.arange(self.values.shape[1]),
            "text": ("token", list(self.text)),
        }
        attributes = {"method": self.method, "unit": self.unit, "baseline": self.baseline, "note": self.note}
        return xr.DataArray(self.values, dims=("token", "position"), coords=coords, name=self.method, attrs=attributes)

    def per_image(self) -> pd.DataFrame:
        """The scores summed over each picture's visual tokens: a row per token, columns image_1 to image_n, and prompt
        (all other positions of the prompt) where the method covers it.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> found.per_image().columns.tolist()
        ['image_1']
        """
        groups = [f"image_{k + 1}" for k in range(self.token_map.n_pictures)]
        groups += ["prompt"] if self.covers_prompt else []
        table = self.token_map.indicator(groups).astype(np.float64)
        return self._frame(self.values @ table, groups)

    def per_feature(self) -> pd.DataFrame:
        """The score of each thing that was left out: a row per token, a column per picture, cell or phrase.

        Raises
        ------
        OptionError
            If the method leaves nothing out.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> found.per_feature().columns.tolist()
        ['image_1']
        """
        if self.feature_values is None:
            raise OptionError(f"{self.method} leaves nothing out one by one, so it has no features; see scores")
        return self._frame(self.feature_values, self.features)

    def standard_error(self) -> pd.DataFrame:
        """The standard error of `per_feature`; zeros where nothing was sampled.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> bool((found.standard_error() == 0).all(axis=None))
        True
        """
        table = self.per_feature()
        errors = self.feature_errors
        return self._frame(np.zeros(table.shape) if errors is None else errors, self.features)

    def total(self) -> pd.Series:
        """`per_image` for the whole target: added up where scores are log-probabilities, averaged where they are shares.
        The token that ended the answer is left out.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> bool(found.total()["image_1"] > 0)  # the answer loses log-probability without it
        True
        """
        table = self.per_image().iloc[self._said()]
        return table.mean(skipna=False) if self.mean else table.sum(skipna=False)

    def shares(self) -> pd.Series:
        """Each picture's part of all that speaks for the target: `total` without what is below zero, summing to 1 over
        the pictures; NaN where nothing speaks for it, as the method then says nothing about a picture.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> found.shares().tolist()
        [1.0]
        """
        columns = [f"image_{k + 1}" for k in range(self.token_map.n_pictures)]
        positive = self.total()[columns].clip(lower=0)
        whole = positive.sum(skipna=False)
        return positive / whole if whole > 0 else positive * np.nan

    def _frame(self, values: NDArray[np.float64], columns: Sequence[str]) -> pd.DataFrame:
        import pandas as pd

        index = pd.MultiIndex.from_arrays([list(self.token), list(self.text)], names=["token", "text"])
        return pd.DataFrame(values, index=index, columns=list(columns))

    def _said(self) -> list[int]:
        return [k for k, stop in enumerate(self.stop) if not stop] or list(range(len(self.stop)))

    # -- pictures --------------------------------------------------------------------------------------------------

    def heatmap(self, image: WhichPicture = 0, token: WhichTokens = None) -> NDArray[np.float64]:
        """The scores of one picture over its own geometry.

        Parameters
        ----------
        image
            Which picture, counted from 0, or by name: "image_1".
        token
            Number of one of the scored tokens (see `token`; negative counts the rows from the end), several, or a word of them;
            None for the total.

        Returns
        -------
        (rows, cols) array
            It sums to the picture's score in `per_image` (or `total`).

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> found.heatmap("image_1", "Google").shape
        (6, 6)
        """
        return self.token_map.heatmap(self._row(token), image)

    def plot(self, image: WhichPicture | None = None, token: WhichTokens = None) -> Figure:
        """The pictures (or one) under their heatmaps, all on one colour scale, with each picture's score.

        Parameters
        ----------
        image
            One picture, counted from 0, or by name; None for all of them.
        token
            As in `heatmap`: None for the total.

        Raises
        ------
        OptionError
            If there is no such picture or token.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> len(found.plot().axes)
        1
        """
        from ..view.scored import overlays

        count = len(self.images)
        if not count:
            raise OptionError("there is no picture to plot: the prompt has none")
        return overlays(self, range(count) if image is None else [picture_index(image, count)], token)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from ..view.scored import mimebundle

        return mimebundle(self)

    def _row(self, token: WhichTokens) -> NDArray[np.float64]:
        """The scores of some tokens together, or the total."""
        rows = self.values[self._said() if token is None else self._rows_of(token)]
        return np.asarray(rows.mean(0) if self.mean else rows.sum(0))

    def _rows_of(self, token: Any) -> list[int]:
        if isinstance(token, str) and token == self.target:
            return list(range(len(self.token)))
        if isinstance(token, Sequence) and not isinstance(token, str) and len(token):
            return sorted({self._row_of(each) for each in token})
        if isinstance(token, Integral):
            return [self._row_of(token)]
        rows = [Row(*each) for each in zip(self.token, self.text, self.stop, strict=True)]
        return token_numbers(token, rows)[0]

    def _row_of(self, token: Any) -> int:
        """The row of one token by its number in the answer; from the end, by that of the rows."""
        is_number = isinstance(token, Integral) and not isinstance(token, bool)
        if is_number and token in self.token:
            return self.token.index(int(token))
        if is_number and -len(self.token) <= token < 0:
            return int(token) % len(self.token)
        raise OptionError(f"token {token!r} was not scored; scored: {', '.join(map(str, self.token))}")

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write everything to one file: safetensors with a JSON header, no pickle; `Attribution.open` reads it back.

        Raises
        ------
        FileAccessError
            If the place cannot be written.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vila_lab.Attribution.open(found.save(f"{folder}/found.vila")).method
        'leave_one_out'
        """
        return write_file(path, lambda: to_bytes(FILE_KEY, *self._packed()))

    def _packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header and the tensors of a saved result."""
        import torch

        arrays = prompt_arrays(self.token_map, self.images)
        arrays["values"] = self.values
        for name in ("feature_values", "feature_errors"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        numeric = {name: array for name, array in self.extras.items() if array.dtype.kind in "fiub"}
        arrays |= {f"extra.{name}": array.to_numpy() for name, array in numeric.items()}
        header = (
            prompt_header(self.token_map)
            | {name: getattr(self, name) for name in WORDS}
            | {
                "cost": asdict(self.cost),
                "rows": [self.token, self.text, self.stop],
                "features": self.features,
                "options": self.options,
                "extras": {name: _described(array) for name, array in self.extras.items()},
            }
        )
        tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in arrays.items()}
        return header, tensors

    @classmethod
    def open(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote.

        Raises
        ------
        FileError
            If the file is no saved attribution, is damaged, or was made by a newer version.
        SavedFileNotFound, FileAccessError
            If there is no such file, or it cannot be read.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vila_lab.Attribution.open(found.save(f"{folder}/found.vila")).values.shape == found.values.shape
        True
        """
        with reading(path, FILE_KEY, "attribution") as (header, tensors):
            return cls._of_file(header, tensors)

    @classmethod
    def _of_file(cls, header: dict[str, Any], tensors: Mapping[str, Any]) -> Attribution:
        note = UNCHECKED if header["unchecked"] else ""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        token_map, images = restored_prompt(header, arrays)
        token, text, stop = header.pop("rows")
        extras = {name: _restored(entry, arrays.get(f"extra.{name}")) for name, entry in header.pop("extras").items()}
        return cls(
            **_fields(header) | {"note": "; ".join(filter(None, (header["note"], note)))},
            values=arrays["values"],
            token=tuple(token),
            text=tuple(text),
            stop=tuple(stop),
            token_map=token_map,
            images=images,
            feature_values=arrays.get("feature_values"),
            feature_errors=arrays.get("feature_errors"),
            extras=extras,
        )


def _fields(header: dict[str, Any]) -> dict[str, Any]:
    """The fields that are known; a newer version may have written others."""
    costs = {each.name: header["cost"][each.name] for each in fields(Cost)}
    listed = {name: tuple(header.get(name, ())) for name in ("features", "options")}
    return {name: header[name] for name in WORDS} | {"cost": Cost(**costs)} | listed


def _described(array: xr.DataArray) -> dict[str, Any]:
    """Dims and coordinates of an extra, and its values where they are words."""
    coords = {str(name): array.coords[name].to_numpy().tolist() for name in array.dims if name in array.coords}
    words = None if array.dtype.kind in "fiub" else array.to_numpy().tolist()
    return {"dims": [str(name) for name in array.dims], "coords": coords, "words": words}


def _restored(entry: dict[str, Any], values: NDArray[Any] | None) -> xr.DataArray:
    import xarray as xr

    data = np.array(entry["words"], dtype=object) if values is None else values
    return xr.DataArray(data, dims=entry["dims"], coords=entry["coords"])
