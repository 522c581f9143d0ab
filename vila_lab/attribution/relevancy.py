"""Relevancy: positive attention x gradient, followed through the layers to the input. Knows recorded layers, no pictures.

The source keeps a T x T relevancy matrix, R <- R + Ā R with Ā the mean over heads of (A x dA)⁺. Of a decoder only the row
of the scored token is wanted, and that row goes from the last layer to the first: r <- r + r Ā. Ā is met in chunks of rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from ..progress import progress
from .method import Method, Outcome
from .recording import Layer, Recording, gradients_of, recorded

METHOD = Method(
    name="relevancy",
    sentence="Attention that helped the word (positive weight x gradient), followed through all layers.",
    unit="relevancy",
    signed=False,
    cost="1 forward, 1 backward per token",
    source="Chefer et al. 2021, 'Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers'",
)


def attribute(replay: Replay, target: Target) -> Outcome:
    """One teacher-forced pass, one backward per target token; targets are never mixed."""
    values = np.zeros((len(target.rows), replay.prompt_length + target.length))
    with progress(len(target.passes) * len(target.rows), "backwards") as bar:
        for index, each in enumerate(target.passes):
            with recorded(replay, each) as recording:
                for out, part in enumerate(target.part(index, recording.logits)):
                    rows = sorted({entry.row + replay.prompt_length - 1 for entry in each.entries if entry.out == out})
                    flow = _followed(replay, recording, part, rows)
                    values[out, : len(flow)] += flow.double().numpy()
                    bar.update()
    return Outcome(values=values)


def _followed(replay: Replay, recording: Recording, part: Tensor, rows: list[int]) -> Tensor:
    """The relevancy of every position for the scored rows, without what they are for themselves.  # (T,)"""
    gradients = gradients_of(replay, part, [layer.output for layer in recording.layers])
    start = torch.zeros(len(recording.inputs))
    start[rows] = 1
    flow = start
    for layer, gradient in zip(reversed(recording.layers), reversed(gradients), strict=True):
        flow = flow + _passed(layer, gradient, flow, rows[-1] + 1)
    return flow - start


def _passed(layer: Layer, gradient: Tensor, flow: Tensor, stop: int) -> Tensor:
    """r Ā of one layer; rows from `stop` on cannot reach the target.  # (T,)"""
    passed = torch.zeros_like(flow)
    for chunk in layer.chunks(stop):
        here = flow[chunk.cpu()]
        if not here.any():
            continue
        helped = (layer.weights(chunk) * layer.weight_gradients(gradient, chunk)).clamp(min=0).mean(0)  # (R, T)
        passed += here @ helped.float().cpu()
    return passed
