"""Token activation map: hidden states of patches x the word's output column, less what earlier words also light up.

In the manner of TAM: the map of every earlier word, weighted by how much that word's own hidden state already speaks for
the target, is the interference; as much of it is taken away as fits the target's map best. One column of the output head
per word, never the whole vocabulary. Reads hidden states; not a causal method.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from ..tokenmap import Kind
from .features import check_pictures, is_visual
from .method import Method, Outcome
from .residuals import output_columns, read_out, residuals

METHOD = Method(
    name="activation_map",
    sentence="How much a patch's last hidden state speaks for the word, less what it says for earlier words as well.",
    unit="activation",
    signed=False,
    cost="1 forward",
    source="Li et al. 2025, 'Token Activation Map to Visually Explain Multimodal LLMs'",
    contrast=False,
    mean=True,
    covers_prompt=False,
)


def attribute(replay: Replay, target: Target, *, interference: bool = True) -> Outcome:
    """Activation of every visual token for each of the target's tokens.

    Parameters
    ----------
    interference
        Whether what earlier words light up is taken away.
    """
    check_pictures(replay)
    each = target.passes[0]
    (hidden,) = residuals(replay, each, [len(replay.family.decoder_layers) - 1])
    states = read_out(replay, hidden)  # (T, H)
    columns = output_columns(replay)
    visual = is_visual(replay.token_map)
    ids = [*replay.prepared.inputs["input_ids"][0].tolist(), *each.fed]
    words = np.flatnonzero(replay.token_map.kind[: replay.prompt_length] == Kind.TEXT).tolist()
    values = np.zeros((len(target.rows), replay.prompt_length))
    for out, (row, token) in enumerate(zip(target.query_rows(), target.ids(), strict=True)):
        column = columns[token].to(states)
        found = (states[visual] @ column).clamp(min=0)  # (n,)
        earlier = [p for p in [*words, *range(replay.prompt_length, replay.prompt_length + row)] if ids[p] != token]
        if interference and earlier:
            theirs = columns[[ids[p] for p in earlier]].to(states)  # (words, H)
            found = without_interference(
                found, (states[visual] @ theirs.T).clamp(min=0), (states[earlier] @ column).clamp(min=0)
            )
        values[out, visual] = found.double().cpu().numpy()
    return Outcome(values=values, note="less what earlier words light up" if interference else "")


def without_interference(found: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """A map less the weighted map of other words, as much of it as explains the map best (least squares).

    Parameters
    ----------
    found : Tensor (n,)
    others : Tensor (n, words)
    weights : Tensor (words,)

    Examples
    --------
    >>> import torch
    >>> found, others = torch.tensor([2.0, 5.0]), torch.tensor([[1.0], [0.0]])
    >>> without_interference(found, others, torch.tensor([3.0]))
    tensor([0., 5.])
    """
    if not weights.any():
        return found
    common = others @ (weights / weights.sum())
    size = common @ common
    scale = (found @ common) / size if size > 0 else 0.0
    return (found - scale * common).clamp(min=0)
