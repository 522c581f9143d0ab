"""Patch scan: where what tells two answers apart lies, layer by layer and position by position. Knows no session.

Every cell is one run of the first prompt in which one layer's vectors at one place come from the second prompt. What is
measured is the logit difference between the two answers' tokens: 0 where the patch does nothing, 1 where it brings
the second answer about (Wang et al. 2023, "Interpretability in the Wild"; Zhang and Nanda 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.record import Record
from ..engine.replay import Replay
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import StatePatch
from ..interrupts import keeps_gradients
from ..pointing import first_token
from ..progress import progress
from ..tokenmap import Kind, TokenMap
from .patch import check_same_shape, check_state, prompt_positions, states
from .where import Shape, resolve

if TYPE_CHECKING:
    import xarray as xr

BATCH = 8


@keeps_gradients
def patch_scan(
    replay: Replay,
    from_record: Record,
    *,
    token: int | str | None = None,
    positions: str | Sequence[Any] | None = None,
    layers: int | Sequence[int] | None = None,
    state: str = "residual",
    batch: int = BATCH,
) -> xr.DataArray:
    """Recovered logit difference of every layer and place.

    Parameters
    ----------
    replay
        The question whose run is patched.
    from_record
        Where the vectors come from: an answer to a prompt of the same shape, of the same model.
    token
        The answer's token that is scored, or a word of it (its first token); by default the first at which the two answers differ.
    positions
        The places, one or several, each a group of the prompt ("image_2", a quoted phrase) or a position; by default every picture, and
        every other position by itself.
    layers
        One layer, several, or None for all.
    state
        "residual", "attention" or "mlp".
    batch
        Runs that go through the model together.

    Returns
    -------
    xarray.DataArray
        Dims (layer, position); position holds names or the tokens' texts, ``number`` the first position of each.
        Attributes: the two tokens and the logit differences of the two clean runs.

    Raises
    ------
    OptionError
        If the prompts' shapes differ, or the answers say the same.
    """
    import xarray as xr

    other = Replay(from_record, replay.engine)
    check_same_shape(other.token_map, replay.token_map)
    chosen_state = check_state(state)
    check_batch(batch)
    number, ids = differing(replay.record, from_record, token)
    places = _places(positions, replay.token_map)
    n_layers = len(replay.family.decoder_layers)
    chosen = list(resolve(Shape(n_layers, 1, {}), layers))
    fed = [each.id for each in replay.said[:number]]
    with replay.lock, torch.no_grad(), progress(len(chosen) * len(places), "patches") as bar:
        found = states(other, chosen_state, chosen)
        base, goal = tell_apart(*(_differences(each, fed, ids, [])[0] for each in (replay, other)))
        values = np.zeros((len(chosen), len(places)))
        for row, layer in enumerate(chosen):
            for first in range(0, len(places), batch):
                some = [mine for _, mine in places[first : first + batch]]
                patch = _patch(layer, chosen_state, found[layer], some)
                values[row, first : first + batch] = _differences(replay, fed, ids, [patch], len(some))
                bar.update(len(some))
    return xr.DataArray(
        (values - base) / (goal - base),
        dims=("layer", "position"),
        coords={
            "layer": chosen,
            "position": [name for name, _ in places],
            "number": ("position", [int(mine[0]) for _, mine in places]),
        },
        name="recovered logit difference",
        attrs={
            "token": replay.said[number].text,
            "from_token": from_record.tokens[number].text,
            "clean": base,
            "from": goal,
            "state": state,
        },
    )


def _patch(layer: int, state: Any, source: Tensor, places: Sequence[NDArray[np.int64]]) -> StatePatch:
    """One place per sequence of a batch."""
    positions = tuple(int(p) for mine in places for p in mine)
    items = tuple(item for item, mine in enumerate(places) for _ in mine)
    return StatePatch(state, layer, source[list(positions)], positions, items)


def check_batch(batch: int) -> None:
    if batch < 1:
        raise OptionError(f"batch must be at least 1, not {batch}")


def tell_apart(base: float, goal: float) -> tuple[float, float]:
    """What two clean runs say of the two answers.

    Raises
    ------
    OptionError
        If they are the same.
    """
    if abs(goal - base) < 1e-6:
        raise OptionError(
            "both prompts prefer the two tokens alike, so there is no difference to recover; give another token="
        )
    return base, goal


def _differences(
    replay: Replay, fed: Sequence[int], ids: tuple[int, int], edits: Sequence[StatePatch], batch: int = 1
) -> list[float]:
    """The second token's logit minus the first's, for each sequence of a batch of the same prompt."""
    sequence = replay.followed(replay.embedded, fed)
    with Editing(replay.model, edits):
        logits = replay.family.decode_copies(sequence, batch, keep=[len(sequence) - 1])[0][:, 0].double()  # (B, V)
    found: list[float] = (logits[:, ids[1]] - logits[:, ids[0]]).tolist()
    return found


def differing(record: Record, from_record: Record, token: int | str | None) -> tuple[int, tuple[int, int]]:
    """The token that is scored, and its id in both answers."""
    mine, other = ([t.id for t in each.tokens] for each in (record, from_record))
    shared = min(len(mine), len(other))
    first = next((k for k in range(shared) if mine[k] != other[k]), None)
    number = first if token is None else first_token(token, record.tokens)
    if number is None:
        raise OptionError(f"both answers say {record.text!r}, so nothing tells them apart")
    if number >= shared or mine[number] == other[number]:
        where = "nowhere" if first is None else f"first at token {first}"
        raise OptionError(f"the answers do not differ at token {number}; they differ {where}")
    return number, (mine[number], other[number])


def _places(positions: str | Sequence[Any] | None, token_map: TokenMap) -> list[tuple[str, NDArray[np.int64]]]:
    """Name and positions of every place."""
    positions = [positions] if isinstance(positions, str) else positions
    if positions is not None:
        return [
            (each if isinstance(each, str) else _text_of(int(each), token_map),
             prompt_positions(each if isinstance(each, str) else [int(each)], token_map))
            for each in positions
        ]  # fmt: skip
    found: list[tuple[str, NDArray[np.int64]]] = []
    for position in range(token_map.prompt_length):
        name = f"image_{token_map.picture[position] + 1}"
        if token_map.kind[position] != Kind.IMAGE:  # a picture's separators belong to it too, but stand by themselves
            found.append((_text_of(position, token_map), np.array([position])))
        elif not any(known == name for known, _ in found):
            found.append((name, token_map.positions(name)))
    return found


def _text_of(position: int, token_map: TokenMap) -> str:
    start, stop = token_map.span[position].tolist()
    return token_map.text[start:stop] if start >= 0 else f"[{position}]"
