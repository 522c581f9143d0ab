"""Attention sinks: positions that are looked at whatever they hold. Knows norms and positions, no pictures.

The first position collects attention in every trained decoder (Xiao et al. 2023, "Efficient Streaming Language Models
with Attention Sinks"). Further sinks, visual tokens among them, show in the residual stream by a norm far above all
others (Sun et al. 2024, "Massive Activations in Large Language Models"; Kang et al. 2025, "See What You Are Told: Visual
Attention Sink in Large Multimodal Models").
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MASSIVE = 5.0  # times the median norm


class ResidualNorms(ExitStack[bool | None]):
    """Records the residual norm of every position after one layer; the block may be entered again for the next positions.

    Parameters
    ----------
    layer
        A decoder layer; the one in the middle of the stack is the usual choice.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer
        self._steps: list[Tensor] = []

    def __enter__(self) -> Self:
        try:
            self.callback(self._layer.register_forward_hook(self._record).remove)
            return self
        except BaseException:
            self.close()
            raise

    def _record(self, module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        self._steps.append(torch.linalg.vector_norm(hidden.float(), dim=-1))  # (B, rows)

    def begin_with(self, norms: Tensor) -> None:
        """What another run recorded of the first positions, which this one does not compute.  # (n,)"""
        self._steps = [norms[None]]

    def add(self, norms: Tensor) -> None:
        """What was recorded elsewhere of the positions that come next.  # (n,)"""
        self._steps.append(norms[None])

    def tensor(self, item: int = 0) -> Tensor:
        """The norms of one sequence in order of position, on the model's device.  # (T,)"""
        return torch.cat([step[item].detach() for step in self._steps]) if self._steps else torch.zeros(0)

    def values(self) -> NDArray[np.float32]:
        """The norms in order of position.  # (T,)"""
        return self.tensor().cpu().numpy().astype(np.float32)


def sink_positions(norms: NDArray[np.float32], massive: float = MASSIVE) -> NDArray[np.int64]:
    """The first position, and every position whose norm is more than ``massive`` times the median norm.

    >>> sink_positions(np.array([1.0, 1.1, 40.0, 0.9], np.float32))
    array([0, 2])
    """
    if not norms.size:
        return np.zeros(0, np.int64)
    found = norms > massive * np.median(norms)
    found[0] = True
    return np.flatnonzero(found)
