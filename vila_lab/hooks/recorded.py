"""What a capture left behind, by layer, or the reason why there is nothing. Knows nothing of what a layer left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vila_lab.errors import CaptureError, OptionError

NOT_YET = "the capture has not ended yet; ask after the with block"

T = TypeVar("T")


class Recorded(Generic[T]):
    """What every layer left behind."""

    def __init__(self, layers: Mapping[int, T]) -> None:
        self._layers = dict(layers)
        self._lost = ""

    def fail(self, why: str) -> None:
        """Let go of everything; later questions are answered with this reason."""
        self._layers, self._lost = {}, why

    def release(self) -> None:
        """Let go of all tensors; weights can no longer be asked for."""
        self.fail("the tape was released; capture again")

    @property
    def layers(self) -> list[int]:
        """Recorded layers, in order."""
        self._check()
        return list(self._layers)

    def layer(self, layer: int) -> T:
        """What one layer left behind; negative counts from the last."""
        names = self.layers
        wanted = names[layer] if -len(names) <= layer < 0 else layer
        if wanted not in self._layers:
            raise OptionError(f"layer {layer} was not recorded; layers are {_short(names)}.")
        return self._layers[wanted]

    def _check(self) -> None:
        if self._lost:
            raise CaptureError(f"{self._lost}.")


def indices(wanted: int | Sequence[int] | None, count: int, what: str) -> Tensor:
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
