"""Scores of many variants of one prompt, each shared prefix computed once. Knows features and choices, no pictures.

Variants of a prompt differ in some of its positions. They are walked as a tree: where all variants agree, the stretch is
computed once; where they part, each branch goes on from the same keys and values. A feature that is out of view is not
computed at all, and every other position keeps its place: to the rows that remain this is the same as masking its columns.
With removal, exact Shapley over 4 pictures so computes 1 + 2 + 4 + 8 picture blocks; whole passes compute 32, or 64 where
they only mask. A layer with a window counts its columns, and would look further back over a gap: where a prompt is longer than
a window, what is out of view is computed and its columns are closed, in one whole pass for each variant.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from ..families.base import Embedded
from ..hooks.editing import Editing
from ..hooks.edits import EdgeBias
from ..hooks.spans import EVERYWHERE, Span
from ..progress import progress
from ..upstream import fork

# Shorter stretches are computed again in each branch: a pass of its own costs more than a few more positions in another.
# Measured on the embedded model, whose passes are mostly overhead (20 positions take 7 ms, 173 take 17 ms): exact Shapley over
# 4 pictures of 36 tokens, removed / replaced, costs 12.8 / 17.6 plain passes at 32, 11.4 / 13.2 at 64, 10.9 / 14.9 at 128 and
# 11.8 / 15.3 with nothing shared. For pictures of 256 tokens all of these are the same.
WORTH_A_PASS = 64


@dataclass(frozen=True, eq=False)
class Feature:
    """Something of the prompt that can be left out or replaced.

    Attributes
    ----------
    name : str
    positions : (n,) array
        Its positions in the prompt.
    options : tuple of Tensor (n, F) or None
        `Embedded.features` under each choice, the first as it was asked; None: not in view.
    """

    name: str
    positions: NDArray[np.int64]
    options: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Run:
    """Neighbouring positions of one feature (-1: of none)."""

    start: int
    stop: int
    feature: int


Choice = tuple[int, ...]


def evaluate(
    replay: Replay, features: Sequence[Feature], choices: Sequence[Choice], target: Target
) -> NDArray[np.float64]:
    """The target's scores under each choice of options.

    Parameters
    ----------
    choices
        For each variant the option of each feature; 0 is as it was asked.

    Returns
    -------
    (len(choices), rows) array
        Within rounding what one whole pass per choice gives. Where the replay is remembering, what several calls leave out is
        computed by the first.
    """
    distinct = list(dict.fromkeys(choices))
    known = {} if replay.remembered is None else replay.remembered
    names = {choice: _left_out(features, choice, target) for choice in distinct}
    found = {choice: known[name] for choice, name in names.items() if name in known}
    missing = [choice for choice in distinct if choice not in found]
    if missing:
        compute = _evaluate_masked if _has_gaps_in_a_window(replay, features, target) else _evaluate_shared
        found |= compute(replay, features, missing, target)
    known |= {name: found[choice] for choice, name in names.items() if name is not None}
    return np.stack([found[choice] for choice in choices])


def _left_out(features: Sequence[Feature], choice: Choice, target: Target) -> Hashable | None:
    """What tells a choice that leaves out, and replaces nothing, from every other of one prompt; None for one that replaces."""
    changed = [(feature, feature.options[option]) for feature, option in zip(features, choice, strict=True) if option]
    if any(shown is not None for _, shown in changed):
        return None
    return target, frozenset(position for feature, _ in changed for position in feature.positions.tolist())


def _evaluate_shared(
    replay: Replay, features: Sequence[Feature], choices: Sequence[Choice], target: Target
) -> dict[Choice, NDArray[np.float64]]:
    """The scores of different choices, each stretch that several of them share computed once."""
    runs = _runs(features, replay.prompt_length)
    found: dict[Choice, NDArray[np.float64]] = {}
    with torch.no_grad(), progress(len(choices), "variants") as bar:
        todo: list[tuple[int, int, Any, list[Choice]]] = [(0, 0, replay.family.new_cache(), list(choices))]
        while todo:
            first, agreed, cache, members = todo.pop()  # computed up to run `first`, alike up to run `agreed`
            last = _agreed(runs, agreed, members)
            pieces = _in_view(features, runs[first:last], members[0])
            if last == len(runs):
                found |= dict.fromkeys(members, _leaf(replay, features, pieces, members[0], target, cache))
                replay.meter.forwards += 1
                bar.update(len(members))
                continue
            is_long = sum(run.stop - run.start for run in pieces) >= WORTH_A_PASS
            if is_long and not replay.embedded.has_block_over(runs[last].start):
                cache = replay.decode(_stretch(replay, features, pieces, members[0]), cache, keep=[0])[1]
                first = last
            for group in _split(runs[last].feature, members):
                todo.append((first, last, fork(cache), group))
    return found


def evaluate_plainly(
    replay: Replay, features: Sequence[Feature], choices: Sequence[Choice], target: Target
) -> NDArray[np.float64]:
    """`evaluate` by one whole pass per choice, nothing shared: what it is checked and measured against."""
    if _has_gaps_in_a_window(replay, features, target):
        found = _evaluate_masked(replay, features, choices, target)
        return np.stack([found[choice] for choice in choices])
    runs = _runs(features, replay.prompt_length)
    rows = []
    with torch.no_grad():
        for choice in choices:
            pieces = _in_view(features, runs, choice)
            rows.append(_leaf(replay, features, pieces, choice, target, None))
            replay.meter.forwards += 1
    return np.stack(rows)


def _has_gaps_in_a_window(replay: Replay, features: Sequence[Feature], target: Target) -> bool:
    """Whether something may be out of view that a layer with a window would count past."""
    window = replay.family.window
    longest = replay.prompt_length + max(len(each.fed) for each in target.passes)
    return window is not None and window < longest and any(None in feature.options for feature in features)


def _evaluate_masked(
    replay: Replay, features: Sequence[Feature], choices: Sequence[Choice], target: Target
) -> dict[Choice, NDArray[np.float64]]:
    """The scores by one whole pass per choice, in which nobody sees the columns that are out of view."""
    runs = _runs(features, replay.prompt_length)
    layers = dict.fromkeys(range(len(replay.family.decoder_layers)))
    distinct = list(dict.fromkeys(choices))
    found: dict[Choice, NDArray[np.float64]] = {}
    with torch.no_grad(), progress(len(distinct), "variants") as bar:
        for choice in distinct:
            shown = _in_view(features, runs, choice)
            hidden = [place for run in runs if run not in shown for place in range(run.start, run.stop)]
            edits = [EdgeBias(Span.of(hidden), EVERYWHERE, layers)] if hidden else []
            with Editing(replay.model, edits):
                found[choice] = _leaf(replay, features, runs, choice, target, None)
            replay.meter.forwards += 1
            bar.update()
    return found


def _leaf(
    replay: Replay, features: Sequence[Feature], pieces: Sequence[Run], choice: Choice, target: Target, cache: Any
) -> NDArray[np.float64]:
    """The rest of the prompt and the answer behind it."""
    prompt = _stretch(replay, features, pieces, choice)
    logits = []
    for each in target.passes:
        keep = [len(prompt) - 1 + row for row in each.rows]
        behind = None if cache is None else fork(cache)
        logits.append(replay.decode(replay.followed(prompt, each.fed), behind, keep)[0])
    return target.values(logits).double().cpu().numpy()


def _runs(features: Sequence[Feature], length: int) -> list[Run]:
    """The prompt cut where the feature changes. Its last position belongs to none: it chooses the first token."""
    owner = np.full(length, -1)
    for index, feature in enumerate(features):
        owner[feature.positions] = index
    owner[length - 1] = -1
    borders = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), length]
    return [Run(a, b, int(owner[a])) for a, b in pairwise(borders)]


def _agreed(runs: Sequence[Run], first: int, members: Sequence[Choice]) -> int:
    """The first run from here on in which the members part, or the number of runs."""
    for index in range(first, len(runs)):
        feature = runs[index].feature
        if feature >= 0 and len({member[feature] for member in members}) > 1:
            return index
    return len(runs)


def _split(feature: int, members: Sequence[Choice]) -> list[list[Choice]]:
    groups: dict[int, list[Choice]] = {}
    for member in members:
        groups.setdefault(member[feature], []).append(member)
    return list(groups.values())


def _in_view(features: Sequence[Feature], runs: Sequence[Run], choice: Choice) -> list[Run]:
    """The runs that a choice does not leave out."""
    return [run for run in runs if run.feature < 0 or features[run.feature].options[choice[run.feature]] is not None]


def _stretch(replay: Replay, features: Sequence[Feature], pieces: Sequence[Run], choice: Choice) -> Embedded:
    """What the decoder is given of some runs under a choice; every position keeps its place."""
    parts = []
    for run in pieces:
        part = replay.embedded[run.start : run.stop]
        option = None if run.feature < 0 else features[run.feature].options[choice[run.feature]]
        if option is not None:
            first = int(np.searchsorted(features[run.feature].positions, run.start))
            part = part.with_features(option[first : first + run.stop - run.start])
        parts.append(part)
    return Embedded.cat(parts)
