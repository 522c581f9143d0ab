"""What is kept of one layer's attention, and the weights that follow from it. Knows tensors, no towers and no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vila_lab.errors import CaptureError
from vila_lab.hooks.rows import attention_rows


@dataclass
class LayerTape:
    """Everything kept of one layer. Either `query` and `key` (weights are computed when asked for) or `live` weights.

    Attributes
    ----------
    query : Tensor or None, (B, H, R, D)
    key : Tensor or None, (B, Hkv, K, D)
    live : Tensor or None, (B, H, R, L)
        float16 weights of the columns ``first[r] .. first[r] + L - 1`` of row r.
    first : Tensor or None, (R,)
    mask : Tensor or None, (B|1, H|1, R|1, K)
        With one row: columns that exist (padding), on top of the causal limit. With R rows: the whole truth.
    causal : bool
        Whether row positions limit the columns.
    mass : Tensor or None, (B, H, M, n)
    """

    query: Tensor | None = None
    key: Tensor | None = None
    live: Tensor | None = None
    first: Tensor | None = None
    mask: Tensor | None = None
    sinks: Tensor | None = None
    mass: Tensor | None = None
    causal: bool = True
    scaling: float = 1.0
    softcap: float | None = None

    def weights(self, item: int, rows: Tensor, heads: Tensor | None, positions: Tensor, columns: int) -> Tensor:
        """Weights (H, R, K) of the given rows (indices, on the CPU) of one batch item."""
        if self.live is not None:
            return self._live_weights(item, rows, heads, columns)
        assert self.query is not None
        assert self.key is not None
        device = self.query.device
        query, key = self.query[item][:, rows.to(device)], self.key[item]  # (H, r, D), (Hkv, K, D)
        sinks, mask = self.sinks, self.mask
        if mask is not None:
            mask = mask[item if mask.shape[0] > 1 else 0]
            mask = mask if mask.shape[1] == 1 else mask[:, rows.to(device)]
        if heads is not None:
            heads = heads.to(device)
            # Only the asked heads are computed: each gets its own copy of the key head it reads.
            key = key[heads // (query.shape[0] // key.shape[0])]
            query = query[heads]
            sinks = None if sinks is None else sinks[heads]
            mask = mask if mask is None or mask.shape[0] == 1 else mask[heads]
        return attention_rows(
            query,
            key,
            scaling=self.scaling,
            mask=mask,
            positions=positions[rows] if self.causal else None,
            softcap=self.softcap,
            sinks=sinks,
        )

    def _live_weights(self, item: int, rows: Tensor, heads: Tensor | None, columns: int) -> Tensor:
        assert self.live is not None
        assert self.first is not None
        device = self.live.device
        live = self.live[item][:, rows.to(device)].float()  # (H, r, L)
        live = live if heads is None else live[heads.to(device)]
        width = live.shape[-1]
        index = self.first[rows].to(device)[:, None] + torch.arange(width, device=device)  # (r, L)
        # Rows shorter than L are zero beyond their end; the extra columns take what would fall off the right edge.
        wide = live.new_zeros(*live.shape[:2], columns + width)
        return wide.scatter(-1, index.expand_as(live), live)[..., :columns]

    def of_item(self, item: int, rows: Sequence[int], columns: Sequence[int]) -> LayerTape:
        """What is kept of one sequence of a padded batch, which no mask but the causal limit cuts.

        Raises
        ------
        CaptureError
            If weights were kept instead of queries and keys.
        """
        if self.query is None or self.key is None:
            raise CaptureError(
                "this layer's cache drops keys, so its weights cannot be told apart by question; ask one by one"
            )
        mine = slice(item, item + 1)
        query, key = self.query[mine], self.key[mine]
        return replace(
            self,
            query=query[:, :, torch.tensor(rows, device=query.device)],
            key=key[:, :, torch.tensor(columns, device=key.device)],
            mask=None,
            causal=True,
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every tensor held."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                yield item.name, value

    def check(self, rows: int, columns: int) -> None:
        """Compare the shapes with the rows and columns of the tape; what was read from a file may lie.

        Raises
        ------
        CaptureError
        """
        if self.query is not None and self.key is not None:
            query, key = self.query.shape, self.key.shape
            fits = (
                len(query) == len(key) == 4
                and (query[0], query[3]) == (key[0], key[3])
                and (query[2], key[2]) == (rows, columns)
            )
            fits = fits and key[1] > 0 and query[1] % key[1] == 0
        else:
            live, first = self.live, self.first
            fits = live is not None and first is not None and live.ndim == 4 and live.shape[2] == len(first) == rows
        if not fits or (self.mask is not None and (self.mask.ndim != 4 or self.mask.shape[3] != columns)):
            raise CaptureError("the tensors of the tape do not fit each other; capture again.")

    def keep_rows(self, rows: Tensor, done: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Drop all other rows. `done` goes from layer to layer and holds what is cut already: shared masks stay shared."""
        for name in ("query", "live", "mask"):
            value = getattr(self, name)
            if value is None or (name == "mask" and value.shape[2] == 1):
                continue
            if id(value) not in done:
                done[id(value)] = value, value[:, :, rows.to(value.device)]
            setattr(self, name, done[id(value)][1])
        self.first = None if self.first is None else self.first[rows]
