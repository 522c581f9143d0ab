"""Maps that know nothing, to hold a method against: flat, random, and the method on a model whose weights were shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribution import Attribution, Replay, attribute
from ..attribution.features import is_visual
from ..engine.engine import Engine
from ..errors import OptionError
from ..interrupts import UNFINISHED, uninterrupted


def flat_map(attribution: Attribution) -> Attribution:
    """The same score for every visual token."""
    values = np.zeros_like(attribution.values)
    visual = is_visual(attribution.token_map)
    values[:, visual] = 1 / len(visual)
    return _of(attribution, "flat map", values)


def random_map(attribution: Attribution, seed: int = 0) -> Attribution:
    """Uniform random scores, the same for every token of the target."""
    values = np.zeros_like(attribution.values)
    visual = is_visual(attribution.token_map)
    drawn = np.random.default_rng(seed).random(len(visual))
    values[:, visual] = drawn / drawn.sum()
    return _of(attribution, "random map", values)


def _of(attribution: Attribution, name: str, values: Any) -> Attribution:
    return replace(
        attribution, method=name, values=values, signed=False, mean=True, baseline="", note="", features=(),
        feature_values=None, feature_errors=None, checks={}, extras={},
    )  # fmt: skip


def random_weights_map(replay: Replay, method: str, token: Any = None, *, seed: int = 0, **options: Any) -> Attribution:
    """A method's map of the same prompt and answer, while the model's weights are shuffled.

    One that looks like the method's own owes nothing to what the model learned (Adebayo et al. 2018, "Sanity Checks for Saliency
    Maps").

    Parameters
    ----------
    method, token, options
        As in `Answer.attribute`.
    seed
        Of the order of the shuffled weights.

    Raises
    ------
    OptionError
        If weights are quantised, so that they cannot be shuffled.
    """
    with shuffled_replay(replay, seed) as blind:
        return replace(attribute(blind, method, token, **options), method=f"{method}, random weights")


@contextmanager
def shuffled_replay(replay: Replay, seed: int = 0) -> Iterator[Replay]:
    """The same prompt and answer, ready to be run again by the model with its weights shuffled, inside."""
    with replay.lock, shuffled(replay.model, seed):
        # A replay of its own, as the embeddings of the trained weights must not serve; an engine, as this one's lock is held.
        engine = Engine(replay.family, replay.engine.name, replay.head_sets)
        yield Replay(replay.record, engine)


@contextmanager
def shuffled(model: torch.nn.Module, seed: int = 0) -> Iterator[None]:
    """Every parameter's entries in a random order inside, and afterwards exactly as before. Costs one copy on the host.

    Shuffling keeps each parameter's scale, so the model still computes in range.
    """
    parameters = list(model.parameters())
    if any(not parameter.is_floating_point() for parameter in parameters):
        raise OptionError("the weights are quantised and cannot be shuffled: load the model without quantization")
    generator = torch.Generator().manual_seed(seed)
    kept = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        try:
            model.__dict__[UNFINISHED] = "its weights are shuffled"
            for parameter, was in zip(parameters, kept, strict=True):
                order = torch.randperm(was.numel(), generator=generator)
                parameter.detach().copy_(was.flatten()[order].view_as(was))
            yield
        finally:
            _put_back(model, kept)
    finally:  # again: a Ctrl-C may have come while the first ran
        _put_back(model, kept)


def _put_back(model: torch.nn.Module, kept: Sequence[Tensor]) -> None:
    with uninterrupted():
        for parameter, was in zip(model.parameters(), kept, strict=True):
            parameter.detach().copy_(was)
        model.__dict__.pop(UNFINISHED, None)
