"""How probable each of some answers is, all behind one pass of the prompt. Knows tokens, no text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hooks.editing import Editing
from ..hooks.edits import Edit
from ..hooks.sinks import ResidualNorms
from ..upstream import fork
from .prefill import read_prompt
from .question import Question
from .reuse import Reuse


def log_probabilities(
    question: Question,
    choices: Sequence[Sequence[int]],
    stops: Sequence[int],
    edits: Sequence[Edit],
    places: tuple[int, ...],
    reuse: Reuse | None,
) -> list[tuple[float, int]]:
    """For each choice the natural logarithm of its probability as a whole answer, and the token that would end it.

    Parameters
    ----------
    choices
        The tokens of each.
    stops
        Tokens that end an answer; it ends with any of them.
    edits
        Under which it would be given.
    places, reuse
        See `vila_lab.engine.prefill.read_prompt`.
    """
    family, layers = question.family, question.family.decoder_layers
    ends = torch.tensor(list(stops))
    found = []
    with torch.no_grad(), Editing(question.model, edits), ResidualNorms(layers[len(layers) // 2]) as norms:
        first, cache = read_prompt(question, places, family.new_cache(), norms, reuse)  # (1, V)
        for ids in choices:
            stretch = family.embed_ids(ids, question.embedded.next_position)
            rest = family.decode(stretch, fork(cache))[0]  # (n, V)
            logprobs = torch.log_softmax(torch.cat([first, rest]).float(), -1).cpu()  # (n + 1, V)
            said = logprobs[torch.arange(len(ids)), torch.tensor(list(ids))].sum()
            ended = logprobs[-1, ends]
            found.append((float(said + ended.logsumexp(0)), int(ends[ended.argmax()])))
    return found
