"""Compacting: the parts of a sweep as one Parquet of questions, one of tokens, one sharded Zarr of maps. Knows a store, no model.

The parts stay: they hold the answers, and later batches come beside what was compacted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import MissingExtra
from .opened import Sweep, map_name, maps_in
from .store import QUESTIONS, TOKENS, Store

__all__ = ["compact"]

CHUNK, SHARD = 64, 4096  # maps of a chunk, and of a shard, which is one file


def compact(sweep: Sweep) -> list[str]:
    """Write ``questions.parquet``, ``tokens.parquet`` and ``maps.zarr`` into a sweep's folder.

    The tables hold every part's rows, and name the parts they were made of. In the Zarr (version 3) there is a group for each method
    and shape of grid, ``attention/6x6``: ``maps`` (maps, rows, columns), and for each its ``key``, as 32 bytes, and ``picture``, from 1.

    Returns
    -------
    list of str
        What was written.

    Raises
    ------
    MissingExtra
        Without zarr.
    """
    store = sweep.store
    return [*(store.write_compacted(kind) for kind in (QUESTIONS, TOKENS)), _maps(store)]


def _maps(store: Store) -> str:
    try:
        import zarr
    except ImportError as error:
        raise MissingExtra('compacting maps needs zarr: pip install "vila-lab[sweep]"') from error
    place = store.path("maps.zarr")
    target: Any = place if store.is_local else zarr.storage.FsspecStore(store.files, path=place)
    root = zarr.open_group(target, mode="w", zarr_format=3)
    grids: Mapping[str, list[tuple[str, str, int, str]]] = defaultdict(list)
    for part, key, method, picture, (rows, columns) in maps_in(store):
        grids[f"{method}/{rows}x{columns}"].append((part, key, picture, map_name(key, method, picture)))
    for path, found in grids.items():
        _grid(root.create_group(path), store, found)
    return place


def _grid(group: Any, store: Store, found: list[tuple[str, str, int, str]]) -> None:
    """Write the maps of one method and shape, part by part."""
    first = store.arrays(found[0][0], [found[0][3]])[found[0][3]]
    chunk = min(CHUNK, len(found))
    shard = min(SHARD, -(-len(found) // chunk) * chunk)
    maps = group.create_array(
        "maps",
        shape=(len(found), *first.shape),
        dtype="float32",
        chunks=(chunk, *first.shape),
        shards=(shard, *first.shape),
    )
    block: list[Any] = []
    start = 0
    for part, names in _by_part(found):
        arrays = store.arrays(part, names)
        block += [arrays[name] for name in names]
        while len(block) >= shard:
            maps[start : start + shard] = np.stack(block[:shard])
            block, start = block[shard:], start + shard
    if block:
        maps[start:] = np.stack(block)
    group.create_array(
        "key", data=np.array([list(bytes.fromhex(key)) for _, key, _, _ in found], np.uint8)
    )  # (maps, 32)
    group.create_array("picture", data=np.array([picture for _, _, picture, _ in found]))


def _by_part(found: list[tuple[str, str, int, str]]) -> list[tuple[str, list[str]]]:
    names: dict[str, list[str]] = {}
    for part, _, _, name in found:
        names.setdefault(part, []).append(name)
    return list(names.items())
