"""Records a vision tower, call by call, and gives its attention weights on demand. Knows no pictures and no decoder.

A tower is called as its family sees fit: with tiles of one size along the batch axis, with the patches of all pictures
packed into one sequence (a mask or lengths tell them apart), or once for every picture and window. An item is one sequence
of patches that see each other, in the order in which they came; items may have different lengths.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from vila_lab.errors import CaptureError
from vila_lab.hooks.call import AttentionCall, acting_on
from vila_lab.hooks.recorded import NOT_YET, Recorded, indices
from vila_lab.hooks.rows import attention_rows, expand_mask
from vila_lab.hooks.sites import Site


@dataclass(frozen=True, eq=False)
class TowerCall:
    """One attention call of one layer.

    Attributes
    ----------
    query : Tensor (B, H, T, D)
    key : Tensor (B, Hkv, T, D)
    mask : Tensor (B|1, H|1, T|1, T), optional
        The whole truth of what each row sees.
    lengths : Tensor (n + 1,), optional
        Where the sequences packed into one begin, and where the last ends, as flash attention is told.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    lengths: Tensor | None
    scaling: float

    def items(self) -> list[TowerItem]:
        """The call's sequences."""
        if self.lengths is None:
            return [TowerItem(self, number, slice(None)) for number in range(len(self.query))]
        ends = self.lengths.tolist()
        return [TowerItem(self, 0, slice(first, stop)) for first, stop in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class TowerItem:
    """One sequence of a call."""

    call: TowerCall
    number: int
    rows: slice

    def __len__(self) -> int:
        return len(range(self.call.query.shape[2])[self.rows])

    def weights(self, rows: Tensor, heads: Tensor) -> Tensor:
        """Weights of some of its rows over all of its columns.  # (R, H, K)"""
        call = self.call
        query, key = (
            call.query[self.number][:, self.rows],
            call.key[self.number][:, self.rows],
        )  # (H, K, D), (Hkv, K, D)
        index, heads = rows.to(query.device), heads.to(query.device)
        mask = None if call.mask is None else call.mask[self.number if len(call.mask) > 1 else 0][..., self.rows]
        if mask is not None:
            mask = mask if mask.shape[1] == 1 else mask[:, self.rows][:, index]
            mask = mask if mask.shape[0] == 1 else mask[heads]
        key = key[heads // (query.shape[0] // key.shape[0])]
        return attention_rows(query[heads][:, index], key, scaling=call.scaling, mask=mask).transpose(0, 1)


class TowerTape(Recorded[list[TowerItem]]):
    """What a vision tower's layers were asked; weights are exact and computed when asked for.

    It comes from `Capture`, as `Capture.vision`.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.fail(NOT_YET)

    def fill(self, layers: dict[int, list[TowerItem]]) -> None:
        """Take over what was recorded."""
        self._layers, self._lost = layers, ""

    def lengths(self, layer: int) -> list[int]:
        """How many patches each item of a layer has; layers with windows have more items than others."""
        return [len(item) for item in self.layer(layer)]

    def weights(
        self,
        layer: int,
        rows: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        *,
        item: int = 0,
    ) -> Tensor:
        """Attention weights, computed now.

        Parameters
        ----------
        layer : int
            Negative counts from the last layer.
        rows, heads : int or sequence of int, optional
            Patches of the item and heads; negative counts from the end. Default: all.
        item : int
            Which sequence of patches, see `lengths`: a tile, a picture, a window, or several pictures that came with a mask.

        Returns
        -------
        Tensor, (R, H, K)
            float32; columns that a row may not see are exactly 0.

        Raises
        ------
        CaptureError
            If the tape was released or its capture did not end well.
        OptionError
            If the layer, a row, a head or the item does not exist.
        """
        items = self.layer(layer)
        one = items[int(indices(item, len(items), "item")[0])]
        return one.weights(indices(rows, len(one), "row"), indices(heads, one.call.query.shape[1], "head"))


class TowerRecorder:
    """Records an encoder tower (no cache, no causal order): queries and keys of all rows, as they are.

    They are small beside a decoder's cache.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self.calls: dict[int, list[TowerCall]] = {site.layer: [] for site in sites}
        self.thread = threading.get_ident()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """This thread's calls of the tower are recorded inside."""
        with acting_on(self.sites, recorder=self):
            yield

    def record(self, call: AttentionCall, output: Tensor) -> None:
        """Keep one layer's call."""
        query, key = call.query.detach(), call.key.detach()
        mask = None if call.mask is None else expand_mask(call.mask).detach()
        lengths = call.kwargs.get("cu_seq_lens_q")
        self.calls[call.layer].append(TowerCall(query, key, mask, lengths, call.scaling))

    def layers(self) -> dict[int, list[TowerItem]]:
        """Every layer's items; layers that never ran are left out: some models do not run the last one.

        Raises
        ------
        CaptureError
            If no layer ran, or if one saw fewer patches than another.
        """
        ran = {layer: calls for layer, calls in self.calls.items() if calls}
        if not ran:
            raise CaptureError("nothing was recorded of the vision tower: give the model at least one picture.")
        patches = {layer: sum(call.query[:, 0, :, 0].numel() for call in calls) for layer, calls in ran.items()}
        most = max(patches.values())
        for layer, count in patches.items():
            if count != most:
                raise CaptureError(f"layer {layer} of the vision tower recorded {count} of {most} patches.")
        return {layer: [item for call in calls for item in call.items()] for layer, calls in ran.items()}
