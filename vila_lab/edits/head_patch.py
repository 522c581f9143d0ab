"""Head patching: how much of what tells two answers apart goes through which heads, behind the pictures. Knows no session.

Every number is one run of the first prompt in which what some heads hand on, in every row behind the pictures, comes from the
second prompt. What is measured is the logit difference between the two answers' tokens, as in `vila_lab.edits.scan`: 0 where
the heads carry nothing of it, 1 where they bring the second answer about (Wang et al. 2023, "Interpretability in the Wild";
Zhang and Nanda 2024, "Towards Best Practices of Activation Patching in Language Models"). Rows of the pictures stay as they
are: a head that only moves what a picture shows about inside it does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..engine.record import Record
from ..engine.replay import Replay
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import Edit, HeadOutputLook, HeadPatch, Where
from ..interrupts import keeps_gradients
from ..progress import progress
from ..upstream import fork
from .patch import check_same_shape
from .scan import BATCH, check_batch, difference_of, differing, tell_apart
from .where import Shape, resolve

if TYPE_CHECKING:
    import xarray as xr

Head = tuple[int, int]


@keeps_gradients
def patch_heads(
    replay: Replay,
    from_record: Record,
    *,
    sets: Sequence[Sequence[Head]] | None = None,
    token: int | str | None = None,
    batch: int = BATCH,
) -> xr.DataArray:
    """Recovered logit difference of every head, or of sets of heads patched together.

    Parameters
    ----------
    replay
        The question whose run is patched.
    from_record
        Where the heads' outputs come from: an answer to a prompt of the same shape, of the same model.
    sets
        Sets of (layer, head) pairs; by default every head by itself.
    token
        The answer's token that is scored, or a word of it (its first token); by default the first at which the two answers differ.
    batch
        Runs that go through the model together.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head); with ``sets`` dim (set,). Attributes: the two tokens and the logit differences of the two clean runs.

    Raises
    ------
    OptionError
        If the prompts' shapes differ, or the answers say the same.
    NoEffect
        If there is no such head.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> one, other = (lab.ask([folder / "g.png", folder / name, "What is in image 2?"]) for name in ("m.png", "a.png"))
    >>> lab.patch_heads(one, other).sizes
    Frozen({'layer': 6, 'head': 4})
    >>> every = [(layer, head) for layer in range(6) for head in range(4)]
    >>> float(lab.patch_heads(one, other, sets=[every])[0]) > 0.9
    True
    """
    import xarray as xr

    other = Replay(from_record, replay.engine)
    check_same_shape(other.token_map, replay.token_map)
    check_batch(batch)
    number, ids = differing(replay.record, from_record, token)
    fed = [each.id for each in replay.said[:number]]
    shape = Shape.of(replay.family, replay.head_sets)
    every = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    wanted = [resolve(shape, heads=list(heads)) for heads in ([[head] for head in every] if sets is None else sets)]
    values = np.zeros(len(wanted))
    with replay.lock, torch.no_grad(), progress(len(wanted), "patches") as bar:
        rows = _rows_behind_pictures(replay, len(fed))
        found = _outputs(other, fed, rows, shape.layers)
        mine, others = (_Behind(each, fed, rows[0]) for each in (replay, other))
        base, goal = tell_apart(*(each.differences(ids, [], 1)[0] for each in (mine, others)))
        for first in range(0, len(wanted), batch):
            some = wanted[first : first + batch]
            patches = [
                HeadPatch(layer, output, rows, tuple(_members(heads, layer, shape) for heads in some))
                for layer, output in found.items()
                if any(layer in heads for heads in some)
            ]
            values[first : first + batch] = mine.differences(ids, patches, len(some))
            bar.update(len(some))
    recovered = (values - base) / (goal - base)
    attrs = {
        "token": replay.said[number].text,
        "from_token": from_record.tokens[number].text,
        "clean": base,
        "from": goal,
    }
    if sets is not None:
        return xr.DataArray(recovered, dims=("set",), name="recovered logit difference", attrs=attrs)
    table = recovered.reshape(shape.layers, shape.heads)
    coords = {"layer": range(shape.layers), "head": range(shape.heads)}
    return xr.DataArray(table, coords, ("layer", "head"), name="recovered logit difference", attrs=attrs)


class _Behind:
    """A question's rows behind its pictures, run again and again behind the same keys and values."""

    def __init__(self, replay: Replay, fed: Sequence[int], first: int) -> None:
        self._replay = replay
        sequence = replay.followed(replay.embedded, fed)
        self._cache = replay.decode(sequence[:first], replay.family.new_cache(), keep=[first - 1])[1]
        self._rows = sequence[first:]

    def differences(self, ids: tuple[int, int], edits: Sequence[Edit], batch: int) -> list[float]:
        """The second token's logit minus the first's, for each sequence of a batch."""
        cache = fork(self._cache)
        cache.batch_repeat_interleave(batch)
        with Editing(self._replay.model, edits):
            logits = self._replay.family.decode_copies(self._rows, batch, cache, keep=[len(self._rows) - 1])[0]
        return difference_of(logits, ids)


def _members(heads: Where, layer: int, shape: Shape) -> tuple[int, ...]:
    members = heads.get(layer, ())
    return tuple(range(shape.heads)) if members is None else members


def _rows_behind_pictures(replay: Replay, fed: int) -> tuple[int, ...]:
    """Rows of words behind the last picture, down to the one that chooses the token."""
    pictures = np.flatnonzero(replay.token_map.picture[: replay.prompt_length] >= 0)
    if not pictures.size:
        raise OptionError("there is no picture in the prompt, so no rows stand behind one")
    return tuple(range(int(pictures[-1]) + 1, replay.prompt_length + fed))


def _outputs(replay: Replay, fed: Sequence[int], rows: Sequence[int], layers: int) -> dict[int, Tensor]:
    """What the heads of each layer hand on in some rows, in one pass.  # (rows, H, D) each"""
    found: dict[int, Tensor] = {}

    def keep(layer: int, output: Tensor) -> None:
        found[layer] = output[0, list(rows)].detach().clone()

    sequence = replay.followed(replay.embedded, fed)
    with Editing(replay.model, [HeadOutputLook(keep, tuple(range(layers)))]):
        replay.decode(sequence, keep=[len(sequence) - 1])
    return found
