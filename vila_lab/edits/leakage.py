"""Leakage: how much the visual tokens of one picture read from another, by attention and by its causal twin.

In a causal decoder a picture's tokens see every picture before them, so what looks like "reading picture 3" may be reading
what picture 3 took from picture 1. Attention masses come from one pass without any rows x columns matrix; the causal twin
closes the edges from picture i to picture j and asks how much less likely the answer becomes.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..attribution.registry import target_of
from ..engine.replay import Replay
from ..errors import OptionError
from ..hooks import Capture
from ..hooks.editing import Editing
from ..hooks.edits import EdgeBias
from ..interrupts import keeps_gradients
from ..progress import progress
from .groups import edge_spans

if TYPE_CHECKING:
    import xarray as xr


@keeps_gradients
def leakage(replay: Replay) -> xr.DataArray:
    """Attention mass between pictures, mean over heads and over the reader's visual tokens.

    Returns
    -------
    xarray.DataArray
        Dims (layer, reader, source), shares of attention: what is missing to 1 went to text. A picture cannot read from
        later ones, so those entries are 0, but in a family whose pictures see each other both ways.
    """
    import xarray as xr

    names = _pictures(replay)
    groups = torch.full((replay.prompt_length,), -1)
    positions = [replay.token_map.positions(name) for name in names]
    for index, mine in enumerate(positions):
        groups[torch.from_numpy(mine)] = index
    with replay.lock, torch.no_grad(), Capture(replay.model, groups=groups) as tape:
        replay.decode(replay.embedded, keep=[replay.prompt_length - 1])
    values = np.zeros((tape.n_layers, len(names), len(names)))
    for layer in range(tape.n_layers):
        mass = tape.mass(layer).mean(1).double().cpu().numpy()  # (T, n)
        values[layer] = [mass[mine].mean(0) for mine in positions]
    return xr.DataArray(
        values,
        dims=("layer", "reader", "source"),
        coords={"layer": tape.layers, "reader": names, "source": names},
        name="attention mass",
    )


@keeps_gradients
def causal_leakage(replay: Replay, token: Any = None) -> xr.DataArray:
    """What the answer loses in log-probability when one picture may not read from another, in all layers.

    Parameters
    ----------
    token
        As in `Answer.attribute`.

    Returns
    -------
    xarray.DataArray
        Dims (reader, source): clean minus cut, so a large value means that the answer needs this path; NaN where there is
        none (a picture and itself, or a later one that it cannot see).
    """
    import xarray as xr

    names = _pictures(replay)
    target = target_of(replay, token)
    layers = dict.fromkeys(range(len(replay.family.decoder_layers)))
    values = np.full((len(names), len(names)), np.nan)
    token_map = replay.token_map
    rows = [token_map.positions(name) for name in names]
    pairs = [
        (reader, source)
        for reader, source in permutations(range(len(names)), 2)
        if source < reader or token_map.share_block(rows[reader], rows[source])
    ]
    with replay.lock, torch.no_grad(), progress(len(pairs), "cuts") as bar:
        clean = float(replay.values(target).sum())
        for reader, source in pairs:
            edge = f"{names[source]} -> {names[reader]}"
            with Editing(replay.model, [EdgeBias(*edge_spans(edge, replay.token_map), layers)]):
                values[reader, source] = clean - float(replay.values(target).sum())
            bar.update()
    return xr.DataArray(
        values, dims=("reader", "source"), coords={"reader": names, "source": names}, name="log-probability lost"
    )


def _pictures(replay: Replay) -> list[str]:
    count = replay.token_map.n_pictures
    if count < 2:
        raise OptionError(f"leakage is between pictures, and this prompt has {count}: ask about two or more")
    return [f"image_{k + 1}" for k in range(count)]
