"""Attention weighted by how much there is to carry: weight x norm of the value vector. Not a causal method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from .attention import NOT_CAUSAL, mean_over_heads
from .method import Method, Outcome
from .recording import Layer, recorded

METHOD = Method(
    name="attention_value",
    sentence="Attention weighted by the norm of the values it carries, so that sinks with empty values fade.",
    unit="share of attention x value norm",
    signed=False,
    cost="1 forward",
    source="Kobayashi et al. 2020, 'Attention is Not Only a Weight: Analyzing Transformers with Vector Norms'",
    contrast=False,
    mean=True,
)


def attribute(
    replay: Replay,
    target: Target,
    *,
    layers: Sequence[int] | None = None,
    heads: str | Sequence[tuple[int, int]] | None = None,
) -> Outcome:
    """Mean over chosen heads of weight x ‖value‖, each head's row brought to sum 1.

    The norm is taken before the output projection, which the source applies first.

    Parameters
    ----------
    layers, heads
        As in `attention.attribute`.
    """
    with recorded(replay, target.passes[0], gradients=False) as recording:
        values = mean_over_heads(recording, replay, target, layers, heads, weighted)
    return Outcome(values=values, note=NOT_CAUSAL)


def weighted(layer: Layer, rows: Tensor) -> Tensor:
    """Weight x value norm, rows of sum 1.  # (H, R, T)"""
    weights = layer.weights(rows)
    norms = torch.linalg.vector_norm(layer.value[0].float(), dim=-1)  # (Hkv, T)
    carried = weights * norms.repeat_interleave(len(weights) // len(norms), 0)[:, None]
    shares: Tensor = carried / carried.sum(-1, keepdim=True).clamp(min=torch.finfo(carried.dtype).tiny)
    return shares
