"""Attention times the gradient of the score with respect to it, signed. Knows recorded layers, no pictures.

Exact without a T x T matrix: with dP = dO Vᵀ the sum over all rows of weight x gradient is v · dV, key by key.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch

from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import OptionError
from ..options import nearest
from ..progress import progress
from .choices import Readers
from .method import Method, Outcome
from .recording import Recording, gradients_of, recorded

METHOD = Method(
    name="grad_x_attention",
    sentence="Attention times the gradient with respect to it: what reading this position did to the score, to first order.",
    unit="log-probability, to first order",
    signed=True,
    cost="1 forward, 1 backward per token",
    source="Barkan et al. 2021, 'Grad-SAM: Explaining Transformers via Gradient Self-Attention Maps' (here signed)",
)

READERS: tuple[str, ...] = get_args(Readers)


def attribute(replay: Replay, target: Target, *, readers: str = "all") -> Outcome:
    """Sum over layers and heads of weight x gradient.

    Parameters
    ----------
    readers
        "all": whoever reads a position, on the way to the target; "answer": only the rows that chose the target's tokens.
    """
    if readers not in READERS:
        raise OptionError(f"unknown readers {readers!r}{nearest(readers, READERS)}; known: {', '.join(READERS)}")
    values = np.zeros((len(target.rows), replay.prompt_length + target.length))
    with progress(len(target.passes) * len(target.rows), "backwards") as bar:
        for index, each in enumerate(target.passes):
            rows = [replay.prompt_length - 1 + row for row in each.rows]
            with recorded(replay, each) as recording:
                for out, part in enumerate(target.part(index, recording.logits)):
                    by_key = readers == "all"
                    found = _by_key(replay, recording, part) if by_key else _by_rows(replay, recording, part, rows)
                    values[out, : len(found)] += found.numpy()
                    bar.update()
    return Outcome(values=values)


def _by_key(replay: Replay, recording: Recording, part: torch.Tensor) -> torch.Tensor:
    """v · dV, summed over layers and heads.  # (T,)"""
    values = [layer.value for layer in recording.layers]  # (1, Hkv, T, D)
    gradients = gradients_of(replay, part, values)
    total = torch.zeros(len(recording.inputs), dtype=torch.float64)
    for value, gradient in zip(values, gradients, strict=True):
        total += (value.detach().double() * gradient.double()).sum((0, 1, 3)).cpu()
    return total


def _by_rows(replay: Replay, recording: Recording, part: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Weight x dP of some rows, summed over layers and heads.  # (T,)"""
    gradients = gradients_of(replay, part, [layer.output for layer in recording.layers])
    total = torch.zeros(len(recording.inputs), dtype=torch.float64)
    for layer, gradient in zip(recording.layers, gradients, strict=True):
        chosen = torch.tensor(rows, device=layer.query.device)
        product = layer.weights(chosen) * layer.weight_gradients(gradient, chosen)  # (H, R, T)
        total += product.double().sum((0, 1)).cpu()
    return total
