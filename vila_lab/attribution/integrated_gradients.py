"""Integrated gradients from a baseline to the pictures, all pictures at once, through captum. Knows no attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import OptionError
from .captum_seam import score_function
from .features import baseline_name
from .gradient_inputs import inputs_of
from .method import Method, Outcome
from .progress import progress
from .replay import Replay, frozen
from .target import Target

LOOSE = 0.05  # a completeness error beyond this share of the score's difference is pointed out

METHOD = Method(
    name="integrated_gradients",
    sentence="Gradients gathered on the way from a baseline to the pictures; they add up to the score's difference.",
    unit="log-probability",
    signed=True,
    cost="steps forwards and backwards per token",
    source="Sundararajan et al. 2017, 'Axiomatic Attribution for Deep Networks' (captum)",
    covers_prompt=False,
)


def attribute(
    replay: Replay, target: Target, *, baseline: Any = "mean", on: str = "embeddings", steps: int = 32
) -> Outcome:
    """Integrated gradients of the target's score with respect to the pictures.

    Parameters
    ----------
    baseline
        Where the path begins: "mean", "grey", "blur" or a picture.
    on
        "embeddings" or "pixels".
    steps
        Points on the path (Gauss-Legendre). `Attribution.checks` tells the completeness error.
    """
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise OptionError(f"steps must be at least 1, not {steps}")
    inputs = inputs_of(replay, on, baseline)
    found = []
    with frozen(replay.model), progress(len(target.rows) * steps + 2, "steps") as bar:
        function = score_function(replay, target, inputs.embeddings, bar)
        with torch.no_grad():
            ends = function(torch.cat([inputs.value, inputs.baseline])).double().cpu().numpy()  # (2, rows)
        with torch.enable_grad():
            value = inputs.value.detach().clone().requires_grad_()
            start = inputs.baseline.detach().clone().requires_grad_()
            method = IntegratedGradients(function)
            for out in range(len(target.rows)):
                scores = method.attribute(value, start, target=out, n_steps=steps, internal_batch_size=1)
                replay.meter.backwards += steps
                found.append(inputs.by_position(scores.detach()))
    values = np.stack(found)
    difference = ends[0] - ends[1]
    error = values.sum(1) - difference
    worst = int(np.abs(error).argmax())
    note = f"on the {on}, {steps} steps"
    if abs(error[worst]) > max(LOOSE * abs(difference[worst]), 1e-3):
        note += f"; the shares miss the score's difference by {abs(error[worst]):.2g} of {abs(difference[worst]):.2g}: take more steps"
    return Outcome(
        values=values,
        baseline=baseline_name(baseline),
        note=note,
        checks={"difference": float(difference.sum()), "completeness": float(np.abs(error).max())},
    )
