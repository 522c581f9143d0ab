"""What a capture leaves behind: queries and keys of a decoder, and exact attention weights on demand. Knows no model.

Layout of the rows: row p of a decoder predicts token p + 1. An answer of n tokens therefore has n rows: the last prompt
row (it chose the first token) and one per decoded token but the last, which was never fed back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks.layer_tape import LayerTape
from vila_lab.hooks.recorded import NOT_YET, Recorded, indices

FORMAT = 2
READABLE = (1, 2)  # the first could hold several towers


class Tape(Recorded[LayerTape]):
    """The recorded rows of one decoder; weights are exact and computed when asked for.

    A tape comes from `Capture` or an engine. It holds references to the keys of the cache (no copy), so its memory is that of
    the keys plus a few kilobytes per row and layer.

    Attributes
    ----------
    positions : Tensor, (R,)
        Position of each recorded row in the sequence (int64, CPU).
    length : int
        Number of columns K: positions whose keys exist.
    mass_rows : Tensor, (M, 2)
        First and one-past-last position of each row of `mass`.
    """

    def __init__(
        self,
        layers: Mapping[int, LayerTape],
        positions: Sequence[int],
        length: int,
        mass_rows: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__(layers)
        self.positions = torch.tensor(positions, dtype=torch.int64)
        self.length = length
        self.mass_rows = torch.tensor(mass_rows, dtype=torch.int64).reshape(-1, 2)

    @classmethod
    def pending(cls) -> Tape:
        """A tape without content, until `fill`."""
        tape = cls({}, (), 0)
        tape.fail(NOT_YET)
        return tape

    def fill(self, other: Tape) -> None:
        """Take over what another one holds; for who gave out a tape before the model ran."""
        self.__dict__.update(other.__dict__)

    def of_item(self, item: int, rows: Sequence[int], columns: Sequence[int], positions: Sequence[int]) -> Tape:
        """The tape of one sequence of a padded batch, as if it had been alone.

        Parameters
        ----------
        rows
            Which of the rows are its own.
        columns
            Which of the columns are its own, in order.
        positions
            Where its rows stand among these columns.
        """
        layers = {layer: self.layer(layer).of_item(item, list(rows), list(columns)) for layer in self.layers}
        return Tape(layers, positions, len(columns))

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        self._check()
        return len(self._layers)

    @property
    def n_heads(self) -> int:
        """Query heads of the first recorded layer."""
        return self._rows_of(self._first_layer()).shape[1]

    @property
    def n_items(self) -> int:
        """Size of the batch."""
        return self._rows_of(self._first_layer()).shape[0]

    @property
    def n_rows(self) -> int:
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held, the referenced keys included."""
        return sum(value.untyped_storage().nbytes() for value in _distinct(self._all_tensors()))

    @property
    def is_on_accelerator(self) -> bool:
        """Whether it lies in the memory of a GPU."""
        return any(value.device.type != "cpu" for name, value in self._all_named() if name != "first")

    @property
    def key_nbytes(self) -> int:
        """Bytes of the keys alone, which the cache holds too while it lives."""
        return sum(value.untyped_storage().nbytes() for name, value in self._all_named() if name == "key")

    def row_of(self, position: int) -> int:
        """Index of the row at a position; raises OptionError where that row was not recorded."""
        self._check()
        found = (self.positions == position).nonzero()
        if not len(found):
            raise OptionError(
                f"the row at position {position} was not recorded; ask Capture for rows=[{position}] or rows='all'."
            )
        return int(found[0, 0])

    # -- questions -------------------------------------------------------------------------------------------------

    def weights(
        self,
        layer: int,
        rows: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        *,
        item: int = 0,
    ) -> Tensor:
        """Attention weights, computed now.

        Parameters
        ----------
        layer : int
            Negative counts from the last layer.
        rows, heads : int or sequence of int, optional
            Indices of recorded rows (see `positions`) and of query heads; negative counts from the end. Default: all.
        item : int
            Which sequence of the batch.

        Returns
        -------
        Tensor, (R, H, K)
            float32 on the device of the keys. Columns that a row may not see are exactly 0.

        Raises
        ------
        CaptureError
            If the tape was released or its capture did not end well.
        OptionError
            If the layer, a row, a head or the item does not exist.
        """
        data = self.layer(layer)
        held = self._rows_of(data)
        row_index = indices(rows, self.n_rows, "row")
        head_index = None if heads is None else indices(heads, held.shape[1], "head")
        item = int(indices(item, held.shape[0], "item")[0])
        return data.weights(item, row_index, head_index, self.positions, self.length).transpose(0, 1)

    def mass(self, layer: int, *, item: int = 0) -> Tensor:
        """Attention mass on every column group, for every prompt row (or block of rows, see `mass_rows`).

        Returns
        -------
        Tensor, (M, H, n), float32

        Raises
        ------
        CaptureError
            If Capture was not given groups.
        """
        data = self.layer(layer)
        if data.mass is None:
            raise CaptureError("no mass was recorded; give Capture the column groups (groups=...).")
        return data.mass[int(indices(item, data.mass.shape[0], "item")[0])].transpose(0, 1)

    # -- life ------------------------------------------------------------------------------------------------------

    def to(self, device: str | torch.device) -> Tape:
        """Move everything to a device, in place; tensors shared by layers stay shared."""
        self._check()
        moved: dict[int, Tensor] = {}

        def elsewhere(data: LayerTape) -> LayerTape:
            other = copy.copy(data)
            for name, value in data.tensors():
                if name != "first":
                    moved.setdefault(id(value), value.to(device))
                    setattr(other, name, moved[id(value)])
            return other

        # One assignment at the end: an interrupt leaves all layers where they were.
        self._layers = {layer: elsewhere(data) for layer, data in self._layers.items()}
        return self

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A JSON-ready header and named tensors on the CPU, those that layers share once; `restore` is the way back."""
        self._check()
        tensors: dict[str, Tensor] = {}
        names: dict[int, str] = {}
        layers = {}
        for layer, data in self._layers.items():
            held = {}
            for name, value in data.tensors():
                if id(value) not in names:
                    names[id(value)] = f"text.{layer}.{name}"
                    tensors[names[id(value)]] = value.detach().to("cpu").contiguous().clone()
                held[name] = names[id(value)]
            layers[layer] = {"tensors": held, "causal": data.causal, "scaling": data.scaling, "softcap": data.softcap}
        header = {
            "format": FORMAT,
            "layers": layers,
            "length": self.length,
            "positions": self.positions.tolist(),
            "mass_rows": self.mass_rows.tolist(),
        }
        return header, tensors

    @classmethod
    def restore(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tape:
        """The tape that `export` described.

        Raises
        ------
        CaptureError
            If the header has another format.
        """
        if header.get("format") not in READABLE:
            raise CaptureError(
                f"the tape has format {header.get('format')}, this version reads {FORMAT}; save it again with this version."
            )
        entry = header["towers"][0] if header["format"] == 1 else header
        layers = {}
        for layer, data in entry["layers"].items():
            held = {name: tensors[key] for name, key in data["tensors"].items()}
            layers[int(layer)] = LayerTape(
                **held, causal=data["causal"], scaling=data["scaling"], softcap=data["softcap"]
            )
            layers[int(layer)].check(len(entry["positions"]), entry["length"])
        return cls(layers, entry["positions"], entry["length"], [(first, stop) for first, stop in entry["mass_rows"]])

    def _first_layer(self) -> LayerTape:
        self._check()
        return next(iter(self._layers.values()))

    @staticmethod
    def _rows_of(data: LayerTape) -> Tensor:
        held = data.live if data.query is None else data.query
        assert held is not None
        return held

    def _all_named(self) -> Iterator[tuple[str, Tensor]]:
        for data in self._layers.values():
            yield from data.tensors()

    def _all_tensors(self) -> Iterator[Tensor]:
        return (value for _, value in self._all_named())


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """One tensor per storage."""
    return list({value.untyped_storage().data_ptr(): value for value in tensors}.values())
