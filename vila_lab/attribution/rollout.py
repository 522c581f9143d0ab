"""Attention followed through the layers, residual included. Not a causal method.

The T x T product of all layers is never formed: only the wanted rows go through it, from the last layer to the first.
"""

from __future__ import annotations

import torch

from ..engine.replay import Replay
from ..engine.target import Target
from .attention import NOT_CAUSAL
from .method import Method, Outcome
from .recording import recorded

METHOD = Method(
    name="rollout",
    sentence="Attention multiplied through the layers, half of each layer being the residual.",
    unit="share of attention",
    signed=False,
    cost="1 forward",
    source="Abnar & Zuidema 2020, 'Quantifying Attention Flow in Transformers'",
    contrast=False,
    mean=True,
)


def attribute(replay: Replay, target: Target, *, sinks: bool = False) -> Outcome:
    """Rows of the product of 0.5 A + 0.5 I over all layers, A being the mean over heads.

    Parameters
    ----------
    sinks
        Whether what flows to sinks (see `vila_lab.hooks.sinks`) is kept; else it is set to 0.
    """
    with recorded(replay, target.passes[0], gradients=False) as recording:
        rows = [replay.prompt_length - 1 + row for row in target.query_rows()]
        flow = torch.zeros(len(rows), len(recording.inputs), dtype=torch.float64)  # (rows, T)
        flow[range(len(rows)), rows] = 1
        for layer in reversed(recording.layers):
            passed = torch.zeros_like(flow)
            for chunk in layer.chunks(max(rows) + 1):
                passed += flow[:, chunk.cpu()] @ layer.weights(chunk).mean(0).double().cpu()
            flow = 0.5 * flow + 0.5 * passed
        if not sinks:
            flow[:, recording.sinks] = 0
    note = f"{'with sinks' if sinks else 'sinks set to 0'}; {NOT_CAUSAL}"
    return Outcome(values=flow.numpy(), note=note)
