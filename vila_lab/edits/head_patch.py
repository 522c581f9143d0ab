"""Head patching: how much of what tells two answers apart goes through which heads, behind the pictures. Knows no session.

Every number is one run of the first prompt in which what some heads hand on, in every row behind the pictures, comes from the
second prompt. What is measured is how much more probable the second answer is than the first: 0 where the heads carry nothing of it, 1
where it is as in the second prompt (Wang et al. 2023, "Interpretability in the Wild";
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
from ..engine.target import Entry, Pass, Row, Target
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import Edit, HeadOutputLook, HeadPatch, Where
from ..interrupts import keeps_gradients
from ..progress import progress
from ..upstream import fork
from .patch import check_same_shape
from .scan import BATCH, check_batch, differing, tell_apart
from .where import Shape, resolve

if TYPE_CHECKING:
    import xarray as xr

Head = tuple[int, int]
NAME = "carried"


@keeps_gradients
def patch_heads(
    replay: Replay,
    from_record: Record,
    *,
    sets: Sequence[Sequence[Head]] | None = None,
    token: int | str | None = None,
    batch: int = BATCH,
) -> xr.DataArray:
    """How much of the change from one answer to another every head carries, or sets of heads that are patched together.

    Parameters
    ----------
    replay
        The question whose run is patched.
    from_record
        Where the heads' outputs come from: an answer to a prompt of the same shape, of the same model.
    sets
        Sets of (layer, head) pairs; by default every head by itself.
    token
        The answer's token at which the two are compared, or a word of it (its first token); by default both answers as wholes.
    batch
        Runs that go through the model together.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head); with ``sets`` dim (set,). Attributes: the two texts, and log p(second) - log p(first) of the two clean runs.

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
    passes, texts = _compared(replay.record, from_record, token)
    shape = Shape.of(replay.family, replay.head_sets)
    every = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    wanted = [resolve(shape, heads=list(heads)) for heads in ([[head] for head in every] if sets is None else sets)]
    values = np.zeros(len(wanted))
    with replay.lock, torch.no_grad(), progress(len(wanted), "patches") as bar:
        first = _behind_pictures(replay)
        pairs = [(_Behind(replay, each, first), _Behind(other, each, first)) for each in passes]
        base, goal = tell_apart(*(sum(pair[side].score([], 1)[0] for pair in pairs) for side in (0, 1)))
        found = [theirs.outputs(shape.layers) for _, theirs in pairs]
        for start in range(0, len(wanted), batch):
            some = wanted[start : start + batch]
            for (mine, _), outputs in zip(pairs, found, strict=True):
                values[start : start + batch] += mine.score(_patches(some, outputs, mine.rows, shape), len(some))
            bar.update(len(some))
    carried = (values - base) / (goal - base)
    attrs = {"text": texts[0], "from_text": texts[1], "clean": base, "from": goal}
    if sets is not None:
        return xr.DataArray(carried, dims=("set",), name=NAME, attrs=attrs)
    table = carried.reshape(shape.layers, shape.heads)
    coords = {"layer": range(shape.layers), "head": range(shape.heads)}
    return xr.DataArray(table, coords, ("layer", "head"), name=NAME, attrs=attrs)


def _compared(one: Record, other: Record, token: int | str | None) -> tuple[list[Pass], tuple[str, str]]:
    """What is fed and scored, and the two texts: the second's tokens count, the first's count against it."""
    if token is not None:
        number, ids = differing(one, other, token)
        fed = tuple(each.id for each in one.tokens[:number])
        texts = one.tokens[number].text, other.tokens[number].text
        return [Pass(fed, (Entry(number, ids[0], -1.0, 0), Entry(number, ids[1], 1.0, 0)))], texts
    differing(one, other, None)  # which says so where they do not
    passes = []
    for record, weight in ((one, -1.0), (other, 1.0)):
        said = tuple(each.id for each in record.tokens)
        passes.append(Pass(said[:-1], tuple(Entry(row, each, weight, 0) for row, each in enumerate(said))))
    return passes, (one.text, other.text)


class _Behind:
    """A question's rows behind its pictures and what is said there, run again and again behind the same keys and values."""

    def __init__(self, replay: Replay, scored: Pass, first: int) -> None:
        self._replay, self._scored = replay, scored
        sequence = replay.followed(replay.embedded, scored.fed)
        self._cache = replay.decode(sequence[:first], replay.family.new_cache(), keep=[first - 1])[1]
        self._stretch = sequence[first:]
        self.rows = tuple(range(first, len(sequence)))
        self._keep = [replay.prompt_length - 1 + row - first for row in scored.rows]

    def score(self, edits: Sequence[Edit], batch: int) -> list[float]:
        """The entries' log-probabilities by their weights, summed, for each sequence of a batch."""
        logits = self._run(edits, batch).double()
        target = Target("", None, (Row(0, ""),), (self._scored,), 0)
        return [float(target.part(0, each)[0]) for each in logits]

    def outputs(self, layers: int) -> dict[int, Tensor]:
        """What the heads of each layer hand on in these rows, in one pass.  # (rows, H, D) each"""
        found: dict[int, Tensor] = {}

        def keep(layer: int, output: Tensor) -> None:
            found[layer] = output[0].detach().clone()

        self._run([HeadOutputLook(keep, tuple(range(layers)))], 1)
        return found

    def _run(self, edits: Sequence[Edit], batch: int) -> Tensor:
        """Logits of the rows that are scored.  # (B, rows, V)"""
        cache = fork(self._cache)
        cache.batch_repeat_interleave(batch)
        with Editing(self._replay.model, edits):
            return self._replay.family.decode_copies(self._stretch, batch, cache, keep=self._keep)[0]


def _patches(sets: Sequence[Where], outputs: dict[int, Tensor], rows: tuple[int, ...], shape: Shape) -> list[HeadPatch]:
    """Each sequence of the batch its set."""
    return [
        HeadPatch(layer, output, rows, tuple(_members(heads, layer, shape) for heads in sets))
        for layer, output in outputs.items()
        if any(layer in heads for heads in sets)
    ]


def _members(heads: Where, layer: int, shape: Shape) -> tuple[int, ...]:
    members = heads.get(layer, ())
    return tuple(range(shape.heads)) if members is None else members


def _behind_pictures(replay: Replay) -> int:
    """The first row behind the last picture."""
    pictures = np.flatnonzero(replay.token_map.picture[: replay.prompt_length] >= 0)
    if not pictures.size:
        raise OptionError("there is no picture in the prompt, so no rows stand behind one")
    return int(pictures[-1]) + 1
