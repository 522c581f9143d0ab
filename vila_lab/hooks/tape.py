"""What a capture leaves behind: queries and keys of one tower, and exact attention weights on demand. Knows no model.

Layout of the rows: row p of a decoder predicts token p + 1. An answer of n tokens therefore has n rows: the last prompt
row (it chose the first token) and one per decoded token but the last, which was never fed back.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks.layer_tape import LayerTape
from vila_lab.writing import write_file

_FORMAT = 1
_METADATA = "vila_lab_tape"


class Tape:
    """The recorded rows of one tower; weights are exact and computed when asked for.

    A tape comes from `Capture` or from `Tape.load`. It holds references to the keys of the cache (no copy), so its memory is
    that of the keys plus a few kilobytes per row and layer.

    Attributes
    ----------
    tower : str
        "text" or "vision".
    positions : Tensor, (R,)
        Position of each recorded row in the sequence (int64, CPU).
    length : int
        Number of columns K: positions whose keys exist.
    mass_rows : Tensor, (M, 2)
        First and one-past-last position of each row of `mass`.
    """

    def __init__(self, tower: str, siblings: dict[str, Tape] | None = None) -> None:
        self.tower = tower
        self.positions = torch.empty(0, dtype=torch.int64)
        self.mass_rows = torch.empty(0, 2, dtype=torch.int64)
        self.length = 0
        self._layers: dict[int, LayerTape] = {}
        self._steps: list[int] = []
        self._extra: frozenset[int] | None = frozenset()
        self._state = "the capture has not ended yet; ask after the with block"
        self._siblings = {} if siblings is None else siblings
        self._siblings[tower] = self

    def fill(
        self,
        layers: dict[int, LayerTape],
        positions: Sequence[int],
        length: int,
        *,
        steps: Sequence[int] = (),
        extra: frozenset[int] | None = None,
        mass_rows: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Take over what was recorded; called by the capture when it ends.

        steps holds the number of rows of each forward; extra are the positions that were asked for beside the answer's
        (None: all).
        """
        self._layers, self.length = layers, length
        self.positions = torch.tensor(positions, dtype=torch.int64)
        self.mass_rows = torch.tensor(mass_rows, dtype=torch.int64).reshape(-1, 2)
        self._steps, self._extra = list(steps), extra
        self._state = ""

    def fail(self, why: str) -> None:
        """Let go of everything; later questions are answered with this reason."""
        self._layers, self._state = {}, why

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        self._check()
        return len(self._layers)

    @property
    def layers(self) -> list[int]:
        """Recorded layers, in order."""
        self._check()
        return list(self._layers)

    @property
    def n_heads(self) -> int:
        """Query heads of the first recorded layer."""
        return self._rows_of(self._first_layer()).shape[1]

    @property
    def n_items(self) -> int:
        """Size of the batch: sequences of a decoder, tiles of a vision tower."""
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

    def tower_tape(self, tower: str) -> Tape:
        """The tape of another tower of the same capture."""
        if tower not in self._siblings:
            raise OptionError(f"tower {tower!r} was not captured; captured: {sorted(self._siblings)}.")
        return self._siblings[tower]

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
            Which sequence of the batch, or which tile of a vision tower.

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
        data = self._layer(layer)
        held = self._rows_of(data)
        row_index = _index(rows, self.n_rows, "row")
        head_index = None if heads is None else _index(heads, held.shape[1], "head")
        item = int(_index(item, held.shape[0], "item")[0])
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
        data = self._layer(layer)
        if data.mass is None:
            raise CaptureError("no mass was recorded; give Capture the column groups (groups=...).")
        return data.mass[int(_index(item, data.mass.shape[0], "item")[0])].transpose(0, 1)

    # -- life ------------------------------------------------------------------------------------------------------

    def finish(self, tokens: int, prompt_length: int | None = None, *, stopped: bool = False) -> Tape:
        """Check that the rows are exactly those of an answer of that many tokens, and drop the ends of prompt chunks.

        Parameters
        ----------
        tokens : int
            Number of generated tokens.
        prompt_length : int, optional
            Positions of the prompt (with what was in the cache before); makes the check exact for chunked prompts.
        stopped : bool
            Whether the answer ended in a stop token. Then one row too many is dropped: where reading a stop costs time
            (device "mps") transformers notices it one step late, feeds the stop token back and undoes the result.

        Raises
        ------
        CaptureError
            If rows are missing or there are too many, which means that the tape is not of this answer.
        """
        self._check()
        if not self._steps:
            raise OptionError(f"the {self.tower} tower generates no tokens; call finish on the decoder's tape.")
        if tokens < 1:
            raise OptionError(
                f"tokens must be at least 1, not {tokens}: without a generated token there is no answer row."
            )
        if stopped and prompt_length is not None and self.length == prompt_length + tokens and self._steps[-1] == 1:
            self._drop_last()
        boundary = len(self._steps) - (tokens - 1)
        prompt, decoded = self._steps[: max(boundary, 0)], self._steps[max(boundary, 0) :]
        length = self.length - (tokens - 1)
        # A prompt comes whole or in chunks of one size with a smaller rest. A rest of one row looks like a decoded token.
        regular = len(set(prompt[:-1])) <= 1 and (len(prompt) < 2 or prompt[-1] <= prompt[0])
        unclear = prompt_length is None and len(prompt) > 1 and prompt[-1] == 1
        if (
            not prompt
            or not regular
            or unclear
            or any(size != 1 for size in decoded)
            or prompt_length not in (None, length)
        ):
            wanted = "" if prompt_length is None else f" after a prompt of {prompt_length}"
            raise CaptureError(
                f"{tokens} tokens{wanted} need the last prompt row and {tokens - 1} decoding rows, but the forwards had {_short(self._steps)} rows; "
                "the capture must enclose exactly one generate, without beams or assistant (for a prompt in chunks give prompt_length too)."
            )
        if self._extra is not None:
            answer = set(range(length - 1, self.length))
            keep = [
                row
                for row, position in enumerate(self.positions.tolist())
                if position in answer or position in self._extra
            ]
            if len(keep) < self.n_rows:
                done: dict[int, tuple[Tensor, Tensor]] = {}
                for data in self._layers.values():
                    data.keep_rows(torch.tensor(keep), done)
                self.positions = self.positions[keep]
        return self

    def _drop_last(self) -> None:
        """Forget the last forward, of one row, and the column that it added."""
        done: dict[int, tuple[Tensor, Tensor]] = {}
        rows = torch.arange(self.n_rows - 1)
        for data in self._layers.values():
            data.keep_rows(rows, done)
            data.keep_columns(self.length - 1, done)
        self.positions, self.length = self.positions[:-1], self.length - 1
        self._steps = self._steps[:-1]

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

    def release(self) -> None:
        """Let go of all tensors; positions stay, weights can no longer be asked for."""
        self.fail("the tape was released; capture again")

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """This tape and those of the other captured towers as a JSON-ready header and named tensors on the CPU.

        For files that hold more than a tape; `restore` is the way back, `save` writes a file of its own.
        """
        tensors: dict[str, Tensor] = {}
        towers = []
        for tape in self._siblings.values():
            tape._check()
            towers.append(tape._describe(tensors))
        return {"format": _FORMAT, "first": self.tower, "towers": towers}, tensors

    @classmethod
    def restore(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> Tape:
        """The tape that `export` described; raises CaptureError where the header has another format."""
        if header.get("format") != _FORMAT:
            raise CaptureError(
                f"the tape has format {header.get('format')}, this version reads {_FORMAT}; save it again with this version."
            )
        siblings: dict[str, Tape] = {}
        for entry in header["towers"]:
            cls(entry["tower"], siblings)._restore(entry, tensors)
        return siblings[header["first"]]

    def save(self, path: str | Path) -> Path:
        """Write `export` to one safetensors file (no pickle); the header becomes JSON in the file's metadata."""
        from safetensors.torch import save

        header, tensors = self.export()
        return write_file(path, save(tensors, metadata={_METADATA: json.dumps(header)}))

    @classmethod
    def load(cls, path: str | Path) -> Tape:
        """Read what `save` wrote; raises CaptureError where the file is something else."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise CaptureError(f"{path} is not there; give the path of a saved tape.")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CaptureError(f"{path} is not a saved tape; write one with Tape.save.") from error
        return cls.restore(header, tensors)

    def _describe(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """JSON of this tape; its tensors are added to `tensors`, those shared by several layers once."""
        names: dict[int, str] = {}
        layers = {}
        for layer, data in self._layers.items():
            held = {}
            for name, value in data.tensors():
                if id(value) not in names:
                    names[id(value)] = f"{self.tower}.{layer}.{name}"
                    tensors[names[id(value)]] = value.detach().to("cpu").contiguous().clone()
                held[name] = names[id(value)]
            layers[layer] = {"tensors": held, "causal": data.causal, "scaling": data.scaling, "softcap": data.softcap}
        return {
            "tower": self.tower,
            "layers": layers,
            "length": self.length,
            "positions": self.positions.tolist(),
            "mass_rows": self.mass_rows.tolist(),
            "steps": self._steps,
            "extra": None if self._extra is None else sorted(self._extra),
        }

    def _restore(self, entry: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        layers = {}
        for layer, data in entry["layers"].items():
            held = {name: tensors[key] for name, key in data["tensors"].items()}
            layers[int(layer)] = LayerTape(
                **held, causal=data["causal"], scaling=data["scaling"], softcap=data["softcap"]
            )
            layers[int(layer)].check(len(entry["positions"]), entry["length"])
        extra = None if entry["extra"] is None else frozenset(entry["extra"])
        self.fill(
            layers,
            entry["positions"],
            entry["length"],
            steps=entry["steps"],
            extra=extra,
            mass_rows=[(first, stop) for first, stop in entry["mass_rows"]],
        )

    def _check(self) -> None:
        if self._state:
            raise CaptureError(f"{self._state}.")

    def _layer(self, layer: int) -> LayerTape:
        self._check()
        names = list(self._layers)
        wanted = names[layer] if -len(names) <= layer < 0 else layer
        if wanted not in self._layers:
            raise OptionError(f"layer {layer} was not recorded; layers are {_short(names)}.")
        return self._layers[wanted]

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


def _index(wanted: int | Sequence[int] | None, count: int, what: str) -> Tensor:
    """Indices as a checked, non-negative tensor."""
    if wanted is None:
        return torch.arange(count)
    values = [int(value) for value in wanted] if isinstance(wanted, Iterable) else [int(wanted)]
    for value in values:
        if not -count <= value < count:
            raise OptionError(f"{what} {value} does not exist; there are {count}.")
    return torch.tensor([value % count for value in values], dtype=torch.int64)


def _short(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:4])
    return f"[{shown}]" if len(values) <= 4 else f"[{shown}, ... {len(values)} in all]"
