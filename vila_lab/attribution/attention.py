"""Where the rows that chose the words looked: attention, mean over chosen layers and heads. Not a causal method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import OptionError
from ..options import check_whole, nearest
from .method import Method, Outcome
from .recording import Layer, Recording, recorded

NOT_CAUSAL = "attention says where the model read, not why it answered; 'leave_one_out' is the causal check"

METHOD = Method(
    name="attention",
    sentence="Where the words were read: attention weights, mean over chosen layers and heads.",
    unit="share of attention",
    signed=False,
    cost="1 forward",
    source="Bahdanau et al. 2015, 'Neural Machine Translation by Jointly Learning to Align and Translate'",
    contrast=False,
    mean=True,
)


def attribute(
    replay: Replay,
    target: Target,
    *,
    layers: Sequence[int] | None = None,
    heads: str | Sequence[tuple[int, int]] | None = None,
    sinks: bool = False,
) -> Outcome:
    """Mean attention of the rows that chose the target's tokens.

    Parameters
    ----------
    layers
        Layers to average, counted from 0 (negative from the end); None for all.
    heads
        (layer, head) pairs to average instead of whole layers, or the name of a set that `Session.rank_heads` found:
        "localization", "routing" or "causal".
    sinks
        Whether attention to sinks (see `vila_lab.hooks.sinks`) is kept; else it is set to 0.
    """
    with recorded(replay, target.passes[0], gradients=False) as recording:
        values = mean_over_heads(recording, replay, target, layers, heads, weights_of)
        if not sinks:
            values[:, recording.sinks] = 0
    return Outcome(values=values, note=_note(layers, heads, sinks))


def weights_of(layer: Layer, rows: Tensor) -> Tensor:
    """Plain attention weights.  # (H, R, T)"""
    return layer.weights(rows)


def mean_over_heads(
    recording: Recording,
    replay: Replay,
    target: Target,
    layers: Sequence[int] | None,
    heads: str | Sequence[tuple[int, int]] | None,
    shares: Callable[[Layer, Tensor], Tensor],
) -> NDArray[np.float64]:
    """Mean over the chosen heads of some (H, R, T) per layer.  # (rows, T)"""
    pairs = named_heads(replay.head_sets, heads)
    chosen = chosen_heads(len(recording.layers), recording.layers[0].query.shape[1], layers, pairs)
    rows = torch.tensor([replay.prompt_length - 1 + row for row in target.query_rows()])
    total = np.zeros((len(rows), len(recording.inputs)))
    for index, members in chosen.items():
        layer = recording.layers[index]
        weights = shares(layer, rows.to(layer.query.device))
        total += weights[members].double().sum(0).cpu().numpy()
    return total / sum(len(members) for members in chosen.values())


def named_heads(
    head_sets: Mapping[str, Sequence[tuple[int, int]]], heads: str | Sequence[tuple[int, int]] | None
) -> Sequence[tuple[int, int]] | None:
    """The (layer, head) pairs of a named set; anything else as it is.

    Raises
    ------
    OptionError
        If no set has that name.
    """
    if not isinstance(heads, str):
        return heads
    if heads not in head_sets:
        raise OptionError(
            f"unknown head set {heads!r}{nearest(heads, head_sets)}; known: {', '.join(sorted(head_sets)) or 'none'}; "
            "lab.rank_heads(dataset, kind='routing', 'localization' or 'causal') finds one for this model, or give (layer, head) pairs"
        )
    return head_sets[heads]


def chosen_heads(
    n_layers: int, n_heads: int, layers: Sequence[int] | None, heads: Sequence[tuple[int, int]] | None
) -> dict[int, list[int]]:
    """Heads of each chosen layer.

    Raises
    ------
    OptionError
        If a layer or a head does not exist.

    Examples
    --------
    >>> chosen_heads(3, 2, [-1], None), chosen_heads(3, 2, None, [(0, 1), (2, 0)])
    ({2: [0, 1]}, {0: [1], 2: [0]})
    """
    if layers is not None and heads is not None:
        raise OptionError("give layers= or heads=, not both: heads= names its layers")
    for layer in () if layers is None else layers:
        check_whole("a layer", layer)
    pairs = [(layer, head) for layer in (range(n_layers) if layers is None else layers) for head in range(n_heads)]
    if heads is not None:
        if any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in heads):
            raise OptionError(f"heads={heads!r} must be a list of (layer, head)")
        for number in (number for pair in heads for number in pair):
            check_whole("a layer or head", number)
        pairs = [(int(layer), int(head)) for layer, head in heads]
    if not pairs:
        raise OptionError("no head is chosen; leave layers= and heads= out for all of them")
    chosen: dict[int, list[int]] = {}
    for layer, head in pairs:
        if not (-n_layers <= layer < n_layers and -n_heads <= head < n_heads):
            raise OptionError(f"there is no head {head} in layer {layer}: the model has {n_layers} layers of {n_heads}")
        chosen.setdefault(layer % n_layers, []).append(head % n_heads)
    return chosen


def _note(layers: Sequence[int] | None, heads: str | Sequence[tuple[int, int]] | None, sinks: bool) -> str:
    which = "all layers and heads"
    if layers is not None:
        which = f"layers {', '.join(map(str, layers))}"
    if heads is not None:
        which = f"the {heads} heads" if isinstance(heads, str) else f"{len(heads)} chosen heads"
    return f"mean over {which}, {'with sinks' if sinks else 'sinks set to 0'}; {NOT_CAUSAL}"
