"""Reading a prompt before the answer: stretch by stretch, behind what is kept of its beginning. Knows no token of the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..families.base import Prepared
from ..hooks.sinks import ResidualNorms
from ..upstream import shortened
from .cuts import WORTH_A_CUT, WORTH_A_CUT_ON_A_DEVICE, cuts
from .question import Question
from .reuse import Prefix, Reuse

NOT_KEPT = "nothing is kept of prompts: this model's cache is quantised or offloaded, or its sliding window had let go of their beginning"


def stretches_of(question: Question) -> tuple[int, ...]:
    """Where a prompt is cut while it is read; see `vila_lab.engine.cuts`."""
    embedded = question.embedded
    worth = WORTH_A_CUT if embedded.vectors.device.type == "cpu" else WORTH_A_CUT_ON_A_DEVICE
    return tuple(cut for cut in cuts(question.token_map, worth) if not embedded.has_block_over(cut))


def read_prompt(
    question: Question, places: tuple[int, ...], cache: Any, norms: ResidualNorms, reuse: Reuse | None
) -> tuple[Tensor, Any]:
    """Put a prompt through the decoder.

    Parameters
    ----------
    question
    places
        Where it is cut.
    cache
        An empty one.
    norms
        At work in the model; what was recorded of reused positions is put before what it records.
    reuse
        Where beginnings of prompts are kept; None to compute everything and keep nothing.

    Returns
    -------
    (Tensor (1, V), cache)
        Logits of the prompt's last row, and the cache behind the prompt.
    """
    cache, start = read_beginning(question, places, cache, norms, reuse)
    rest = question.embedded[start:]
    logits, cache = question.family.decode(rest, cache, keep=[len(rest) - 1])
    if reuse is not None and question.goes_on:
        # The next question of a conversation will repeat this prompt to its end, one about the same pictures only up to them.
        ends = (*places, start + len(rest))
        _keep(reuse, prefix_keys(question.prepared, ends), ends, cache, norms)
    return logits, cache


def read_beginning(
    question: Question, places: tuple[int, ...], cache: Any, norms: ResidualNorms, reuse: Reuse | None
) -> tuple[Any, int]:
    """Put a prompt through the decoder up to its last cut, where that is not kept.

    Parameters
    ----------
    question, places, cache, norms, reuse
        See `read_prompt`.

    Returns
    -------
    (cache, int)
        The cache behind that cut, and where it is.
    """
    keys = () if reuse is None else prefix_keys(question.prepared, places)
    start, kept = 0, _kept(reuse, keys)
    if kept is not None:
        start, cache = kept.cuts[-1], kept.cache
        question.reused = start
        norms.begin_with(kept.norms)
    is_new = False
    for stop in places:
        if stop > start:
            cache = question.family.decode(question.embedded[start:stop], cache, keep=[stop - start - 1])[1]
            start, is_new = stop, True
    if reuse is not None and is_new and not question.goes_on:
        _keep(reuse, keys, places, cache, norms)
    return cache, start


def _kept(reuse: Reuse | None, keys: Sequence[str]) -> Prefix | None:
    """The longest beginning of a prompt that is kept, ending where the prompt is cut."""
    found = None if reuse is None else reuse.longest(keys)
    if found is None:
        return None
    prefix, count = found
    length = prefix.cuts[count - 1]
    cache = shortened(prefix.cache, length)
    if cache is None:
        return None
    return Prefix(prefix.keys[:count], prefix.cuts[:count], cache, prefix.norms[:length])


def _keep(reuse: Reuse, keys: tuple[str, ...], places: tuple[int, ...], cache: Any, norms: ResidualNorms) -> None:
    branch = shortened(cache, places[-1])
    if branch is None:
        reuse.note = NOT_KEPT
        return
    reuse.put(Prefix(keys, places, branch, norms.tensor()))


def prefix_keys(prepared: Prepared, places: Sequence[int]) -> tuple[str, ...]:
    """For each cut of a prompt a hash of all that stands before it, and of the cuts themselves."""
    ids = prepared.inputs["input_ids"][0].cpu().numpy()
    pictures = prepared.token_map.picture
    so_far, start, keys = hashlib.sha256(repr(prepared.options).encode()), 0, []
    for stop in places:
        so_far.update(ids[start:stop].tobytes())
        for picture in sorted({int(number) for number in pictures[start:stop] if number >= 0}):
            so_far.update(prepared.contents[picture].encode())
        so_far.update(f"| {stop} |".encode())
        keys.append(f"prompt {so_far.hexdigest()}")
        start = stop
    return tuple(keys)
