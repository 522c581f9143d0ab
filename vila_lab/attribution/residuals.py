"""The residual stream of one teacher-forced pass, and words read off it. Knows no attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Pass
from ..errors import CaptureError


def residuals(replay: Replay, each: Pass, layers: list[int]) -> list[Tensor]:
    """The residual stream behind some decoder layers.  # each (T, H)"""
    kept: dict[int, Tensor] = {}
    handles = []

    def keeper(index: int) -> Any:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            kept[index] = (output[0] if isinstance(output, tuple) else output)[0].detach()

        return keep

    decoder = replay.family.decoder_layers
    try:
        for layer in set(layers):
            handles.append(decoder[layer].register_forward_hook(keeper(layer)))
        with torch.no_grad():
            sequence = replay.followed(replay.embedded, each.fed)
            replay.decode(sequence, keep=[len(sequence) - 1])
        replay.meter.forwards += 1
    finally:
        for handle in handles:
            handle.remove()
    return [kept[layer] for layer in layers]


def read_out(replay: Replay, hidden: Tensor) -> Tensor:
    """Residuals as the output head sees them.  # (n, H) -> (n, H)"""
    with torch.no_grad():
        normed: Tensor = replay.family.final_norm(hidden)
    return normed.float()


def output_columns(replay: Replay) -> Tensor:
    """The output head's weight: a row per word.  # (V, H)

    Raises
    ------
    CaptureError
        If it is quantised.
    """
    weight: Tensor = replay.model.get_output_embeddings().weight
    if not weight.is_floating_point() or weight.ndim != 2:
        raise CaptureError(
            "the output head is quantised, so words cannot be read off hidden states: load without quantization"
        )
    return weight.detach()
