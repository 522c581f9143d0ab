"""Activation patching: vectors of one answer's pass put into another's, at the same positions. Knows no metric.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT"; Zhang and Nanda 2024, "Towards Best Practices of
Activation Patching in Language Models".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.question import Question
from ..engine.replay import Replay
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import Edit, State, StateLook, StatePatch
from ..hooks.spans import EVERYWHERE
from ..options import nearest
from ..tokenmap import TokenMap
from .groups import reader_span, source_span

STATES: tuple[str, ...] = get_args(State)


@dataclass(frozen=True, eq=False)
class Patch:
    """Vectors from another answer's prompt in place of this one's.

    Attributes
    ----------
    source : Replay
        The other answer's question.
    positions : str, or tuple of str or int
        Groups of the prompt, or positions.
    layers : tuple of int
    state : str
        "residual", "attention" or "mlp".
    """

    source: Replay
    positions: str | tuple[Any, ...]
    layers: tuple[int, ...]
    state: State

    @property
    def label(self) -> str:
        return in_words(self.state, self.positions, self.layers, self.source.record.text)

    @property
    def is_edit(self) -> bool:
        return True

    def resolve(self, question: Question) -> list[Edit]:
        check_same_shape(self.source.token_map, question.token_map)
        positions = prompt_positions(self.positions, question.token_map)
        found = states(self.source, self.state, self.layers)
        places = tuple(int(p) for p in positions)
        return [StatePatch(self.state, layer, found[layer][positions], places) for layer in self.layers]

    def changes_nothing(self, question: Question) -> bool:
        """A patch from an answer to the very same prompt."""
        return self.source.prepared.identity == question.prepared.identity


def in_words(state: str, positions: Any, layers: Sequence[int], text: str) -> str:
    """A patch from an answer of some text, in words."""
    listed = [positions] if isinstance(positions, str | int) else positions
    where, behind = ", ".join(map(str, listed)), ", ".join(map(str, layers))
    return f"patch of the {state} at {where} behind layer{'s' * (len(layers) > 1)} {behind} from {text!r}"


def states(replay: Replay, state: State, layers: Sequence[int]) -> dict[int, Tensor]:
    """A state of each layer over the whole prompt, in one pass.  # (P, hidden) each"""
    found: dict[int, Tensor] = {}

    def keep(layer: int, positions: NDArray[np.int64], vectors: Tensor) -> None:
        found[layer] = vectors[0].detach().clone()

    with torch.no_grad(), Editing(replay.model, [StateLook(keep, state, tuple(layers), EVERYWHERE)]):
        replay.decode(replay.embedded, keep=[replay.prompt_length - 1])
    return found


def check_same_shape(source: TokenMap, target: TokenMap) -> None:
    """Raises OptionError unless two prompts have the same kinds of positions in the same order."""
    a, b = source.prompt_length, target.prompt_length
    if a != b:
        raise OptionError(
            f"patching needs two prompts of one shape, but the other answer's has {a} positions and this one {b}"
        )
    one, other = (np.stack([m.kind[:a], m.picture[:a]]) for m in (source, target))
    different = np.flatnonzero((one != other).any(0))
    if different.size:
        raise OptionError(
            f"patching needs two prompts of one shape, but they differ in kind at position {different[0]}"
        )


def prompt_positions(positions: str | Sequence[Any], token_map: TokenMap) -> NDArray[np.int64]:
    """Positions of one or several groups of the prompt, or as given."""
    names: list[Any] = [positions] if isinstance(positions, str) else list(positions)
    if names and all(isinstance(name, str) for name in names):
        spans = [source_span(name, token_map) for name in names]
    else:
        spans = [reader_span(names, token_map)]
    found = np.flatnonzero(np.any([span.inside(0, token_map.prompt_length) for span in spans], axis=0))
    if not found.size or any(span.last is not None and span.last >= token_map.prompt_length for span in spans):
        raise OptionError(
            f"{positions!r} is not in the prompt's {token_map.prompt_length} positions; patching works on the prompt"
        )
    return found


def check_state(state: str) -> State:
    """Raises OptionError unless the state is known."""
    if state not in STATES:
        raise OptionError(f"unknown state {state!r}{nearest(state, STATES)}; known: {', '.join(STATES)}")
    return state  # type: ignore[return-value]
