"""Input times gradient, on the embeddings of the whole prompt or on the pictures' pixels. Knows no attention."""

from __future__ import annotations

import numpy as np
import torch

from ..engine.replay import Replay, frozen
from ..engine.target import Target
from ..progress import progress
from .captum_seam import captum_methods, score_function
from .gradient_inputs import inputs_of
from .method import Method, Outcome
from .recording import gradients_of, recorded

METHOD = Method(
    name="input_x_gradient",
    sentence="Gradient of the score with respect to the input, times the input.",
    unit="log-probability, to first order",
    signed=True,
    cost="1 forward, 1 backward per token",
    source="Shrikumar et al. 2016, 'Not Just a Black Box: Learning Important Features Through Propagating Activation Differences'",
)


def attribute(replay: Replay, target: Target, *, on: str = "embeddings") -> Outcome:
    """Input x gradient, summed over a position's channels.

    Parameters
    ----------
    on
        "embeddings" (all positions of the prompt) or "pixels" (the pictures only; through captum).
    """
    if on != "embeddings":
        return _on_pixels(replay, target, on)
    values = np.zeros((len(target.rows), replay.prompt_length + target.length))
    with progress(len(target.passes) * len(target.rows), "backwards") as bar:
        for index, each in enumerate(target.passes):
            with recorded(replay, each, attention=False) as recording:
                for out, part in enumerate(target.part(index, recording.logits)):
                    (gradient,) = gradients_of(replay, part, [recording.inputs])
                    product = (recording.inputs.detach().double() * gradient.double()).sum(-1)
                    values[out, : len(product)] += product.cpu().numpy()
                    bar.update()
    return Outcome(values=values, note="on the embeddings")


def _on_pixels(replay: Replay, target: Target, on: str) -> Outcome:
    inputs = inputs_of(replay, on, "grey")
    rows = []
    with frozen(replay.model), torch.enable_grad(), progress(len(target.rows), "passes") as bar:
        value = inputs.value.detach().clone().requires_grad_()
        method = captum_methods().InputXGradient(score_function(replay, target, inputs.prompt, bar))
        for out in range(len(target.rows)):
            rows.append(inputs.by_position(method.attribute(value, target=out).detach()))
            replay.meter.backwards += 1
    return Outcome(values=np.stack(rows), note="on the pixels; the prompt's text is not scored")
