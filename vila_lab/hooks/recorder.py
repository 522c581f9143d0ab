"""Picks query rows of a decoder while it works. Knows nothing of results or files.

Nothing here may wait for the device: no ``.item()``, no ``.cpu()``, no boolean index. The counters are Python integers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks.call import AttentionCall, acting_on, uncompiled
from vila_lab.hooks.rows import attention_rows, expand_mask, group_mass
from vila_lab.hooks.sites import Site
from vila_lab.upstream import cache_of, changes_later, first_keys, is_buffer, keeps_keys, layer_of, made_cache

Mode = Literal["auto", "tape", "live"]


@dataclass(slots=True)
class Step:
    """One forward of the decoder: the positions it covers and the rows that are kept of it.

    Attributes
    ----------
    start, length : int
        The forward's query rows are the positions ``start .. start + length - 1``.
    rows : tuple of int or None
        Kept rows, counted from `start`; None keeps all.
    is_ordinary : bool
        One row that nobody takes a gradient of: a token of an answer. Its layers take the short way, where nothing else applies.
    """

    start: int
    length: int
    rows: tuple[int, ...] | None
    is_ordinary: bool = False
    _index: dict[torch.device, Tensor] | None = None

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def positions(self) -> list[int]:
        rows = range(self.length) if self.rows is None else self.rows
        return [self.start + row for row in rows]

    def index(self, device: torch.device) -> Tensor:
        """The kept rows on a device, copied there once for all layers: each copy waits for the device."""
        if self._index is None:
            self._index = {}
        if device not in self._index:
            rows = range(self.length) if self.rows is None else self.rows
            self._index[device] = torch.tensor(list(rows), device=device)
        return self._index[device]

    @property
    def keeps_last_only(self) -> bool:
        return self.rows == (self.length - 1,)

    def pick(self, tensor: Tensor) -> Tensor:
        """The kept rows of a tensor whose rows are axis 2."""
        if self.rows is None or self.length == 1:
            return tensor
        return tensor[:, :, -1:] if self.keeps_last_only else tensor.index_select(2, self.index(tensor.device))


@dataclass(slots=True)
class Reel:
    """What one layer has recorded so far."""

    live: bool | None = None
    is_tape: bool = False  # queries and keys are kept, and nothing else
    query_is_own: bool = False  # has memory of its own, and no keys or values in it
    key: Tensor | None = None  # (B, Hkv, K, D), the latest; grows inside the cache, not here
    key_is_buffer: bool = False
    queries: list[Tensor] = field(default_factory=list)  # each (B, H, r, D)
    masks: list[Tensor | None] = field(default_factory=list)  # each (B|1, H|1, r, columns so far)
    live_rows: list[Tensor] = field(default_factory=list)  # each (B, H, r, columns kept), float16
    live_first: list[int] = field(default_factory=list)  # column of the first weight of each entry of live_rows
    mass: list[Tensor] = field(default_factory=list)  # each (B, H, blocks, n)
    steps: int = 0
    scaling: float = 1.0
    softcap: float | None = None
    sinks: Tensor | None = None
    causal: bool = True


class DecoderRecorder:
    """Records a decoder over one generation: one prompt (whole or in chunks), then one row per token.

    Parameters
    ----------
    sites : sequence of Site
        The decoder's attention modules.
    rows : "answer", "all" or a set of int
        Beyond the last row of every forward ("answer"): all rows, or the rows at these positions.
    indicator : Tensor or None, (T, n)
        Column groups whose mass is recorded for every prompt row.
    mass_block : int
        Average the mass over blocks of that many rows.
    mode : "auto", "tape" or "live"
        Keep queries (weights are computed later), or weights at once; auto decides by layer.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        rows: str | frozenset[int] = "answer",
        indicator: Tensor | None = None,
        mass_block: int = 1,
        mode: Mode = "auto",
    ) -> None:
        self.sites = tuple(sites)
        self.reels = {site.layer: Reel() for site in sites}
        self.rows = rows
        self.indicator = indicator
        self.mass_block = mass_block
        self.mode = mode
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.seen = 0
        self._step: Step | None = None
        self._cache: Cache | None = None
        self._watched: weakref.ref[Tensor] | None = None
        self._step_masks: list[tuple[weakref.ref[Tensor], Tensor]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """This thread's forwards of the decoder are recorded inside; the block may be entered again for the next ones."""
        self.thread = threading.get_ident()
        owner = self.sites[0].owner
        with ExitStack() as stack:
            stack.callback(owner.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            stack.callback(owner.register_forward_hook(self._after, with_kwargs=True).remove)
            stack.enter_context(acting_on(self.sites, recorder=self))
            yield

    def keep(self, length: int) -> None:
        """Forget the forwards that reach behind the first `length` positions, and one that did not end."""
        count = sum(step.stop <= length for step in self.steps)
        self.steps = self.steps[:count]
        self.seen = self.steps[-1].stop if self.steps else 0
        masses = sum(self._wants_mass(step) for step in self.steps)
        for reel in self.reels.values():
            reel.steps = min(reel.steps, count)
            for kept in (reel.queries, reel.masks, reel.live_rows, reel.live_first):
                del kept[count:]
            del reel.mass[masses:]

    # -- once per forward ------------------------------------------------------------------------------------------

    @uncompiled
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that this forward continues the same generation, and learn where it starts."""
        if threading.get_ident() != self.thread:
            return
        cache = cache_of(args, kwargs)
        if self.steps:
            self._check_continues(cache)
        elif cache is not None:
            self.seen = int(cache.get_seq_length())
            self._check_whole()
        self._cache, self._step, self._step_masks = cache, None, []

    @uncompiled
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Close the forward: advance the counter and remember whose keys the next forward must find."""
        if threading.get_ident() != self.thread:
            return
        if self._step is None:
            raise CaptureError(
                "the decoder ran, but none of its layers reached the captured attention function; capture the model that does the work."
            )
        self.seen = self._step.stop
        self.steps.append(self._step)
        if self._cache is None:
            self._cache = made_cache(output)
        self._watched = self._watch()

    def _check_whole(self) -> None:
        """Queries of positions that the cache holds already are not computed again."""
        if self.seen and (self.rows == "all" or self.indicator is not None):
            what = "rows='all'" if self.rows == "all" else "groups="
            raise CaptureError(
                f"{what} asks for every row of the prompt, but the cache that this run goes on from holds its first {self.seen} "
                "positions already; run it without that cache, or leave rows= and groups= out for the answer's rows alone."
            )

    def _watch(self) -> weakref.ref[Tensor] | None:
        """The tensor of the first layer's keys. Beam search and assisted decoding replace it between two forwards."""
        keys = None if self._cache is None else first_keys(self._cache)
        return None if keys is None else weakref.ref(keys)

    def _check_continues(self, cache: Cache | None) -> None:
        if cache is None:
            raise CaptureError(
                "a second forward came without a cache, so its rows cannot be told from earlier ones; "
                "generate with use_cache=True, one run per Capture."
            )
        if self._cache is not None and cache is not self._cache:
            raise CaptureError("a second generation started under the same Capture; open one Capture per generate.")
        if changes_later(cache) or (self._watched is not None and not _is(self._watched, first_keys(cache))):
            raise CaptureError(
                "the cache was reordered or cut between two steps (beam search, assisted decoding); "
                "capture supports greedy search and sampling."
            )

    # -- once per layer and forward --------------------------------------------------------------------------------

    def record(self, call: AttentionCall, output: Tensor) -> None:
        """Keep the wanted rows of one layer's call."""
        step, reel = self._step, self.reels[call.layer]
        if step is None:
            step = self._step = self._open(call.query.shape[2])
        reel.steps += 1
        key = call.key
        if step.is_ordinary and reel.is_tape and call.mask is None and not call.is_edited and key.shape[2] >= step.stop:
            reel.key = key
            # Nobody writes to what rotary positions made anew; a copy would be a third of the recorder's time.
            reel.queries.append(call.query if reel.query_is_own and not call.is_lent else call.query.clone())
            reel.masks.append(None)
            return
        self._record_any(step, reel, call)

    def _record_any(self, step: Step, reel: Reel, call: AttentionCall) -> None:
        """`record` of whatever a call may be."""
        query, key, mask = call.query, call.key, call.mask
        if reel.live is None:
            self._start(reel, call)
        if query.requires_grad or key.requires_grad:
            query, key = query.detach(), key.detach()
        offset = call.offset(step.stop)
        edited = self._edited_mask(step, call) if call.is_edited else None
        if reel.live or self.indicator is not None:
            seen = key[:, :, : step.stop - offset]
            if self._wants_mass(step):
                self._record_mass(reel, step, query, seen, mask, offset, call.window)
            if reel.live:
                self._record_live(reel, step, query, seen, mask, offset, call.window, edited)
                return
        if offset:
            raise CaptureError(
                f"layer {call.layer} was given {key.shape[2]} keys of {step.stop}: its cache drops keys, so weights cannot be computed later; "
                "use mode='live'."
            )
        reel.key = key
        reel.queries.append(step.pick(query).clone())
        if edited is not None:
            reel.masks.append(self._keep_mask(edited, lambda: edited[..., : step.stop]))
        else:
            reel.masks.append(
                None if mask is None else self._keep_mask(mask, lambda: _mask_rows(mask, step, step.stop))
            )

    def _edited_mask(self, step: Step, call: AttentionCall) -> Tensor | None:
        """The whole mask of the kept rows where edits change it."""
        if self._wants_mass(step):
            raise CaptureError("the attention mass of groups cannot be recorded under edits; leave groups= out.")
        return call.edited_mask(range(step.length) if step.rows is None else step.rows)

    def _wants_mass(self, step: Step) -> bool:
        """Groups are given for the prompt's positions, so they also say where the prompt ends."""
        return self.indicator is not None and step.start < self.indicator.shape[0]

    def _open(self, length: int) -> Step:
        if self.steps and length == 1:
            return Step(self.seen, 1, (0,), is_ordinary=not torch.is_grad_enabled())
        if self.steps and self.steps[-1].length == 1:
            raise CaptureError(
                f"a forward of {length} rows followed a decoding step (assisted decoding?); "
                "capture supports greedy search and sampling."
            )
        start, stop = self.seen, self.seen + length
        extra = self.rows if isinstance(self.rows, frozenset) else frozenset()
        kept = sorted({row - start for row in extra if start <= row < stop} | {length - 1})
        step = Step(start, length, None if self.rows == "all" else tuple(kept))
        groups = 0 if self.indicator is None else self.indicator.shape[0]
        if groups and groups < stop:
            raise OptionError(
                f"groups name {groups} positions, but the prompt has at least {stop}; "
                "give one group per prompt position (-1: none)."
            )
        return step

    def _start(self, reel: Reel, call: AttentionCall) -> None:
        """Read once what stays the same for a layer, and decide between queries and weights."""
        if call.kwargs.get("position_bias") is not None or call.kwargs.get("cache") is not None:
            raise CaptureError(
                "attention with a position bias or a paged cache cannot be captured; use a decoder with rotary positions and an ordinary cache."
            )
        reel.scaling, reel.softcap, reel.causal = call.scaling, call.softcap, call.causal
        reel.sinks = None if call.sinks is None else call.sinks.detach().clone()
        reel.key_is_buffer = is_buffer(layer_of(self._cache, call.layer))
        keeps = call.window is None and keeps_keys(self._cache, call.layer)
        if self.mode == "tape" and not keeps:
            raise CaptureError(
                f"layer {call.layer} has a sliding, quantised or offloaded cache, which does not keep its keys; use mode='auto' or 'live'."
            )
        reel.live = self.mode == "live" or not keeps
        reel.is_tape = not reel.live and self.indicator is None
        reel.query_is_own = call.query.untyped_storage().nbytes() == call.query.nbytes

    def _keep_mask(self, mask: Tensor, cut: Callable[[], Tensor]) -> Tensor:
        """The kept part of a mask, as a tensor of its own; layers that were given the same mask share one copy."""
        for known, kept in self._step_masks:
            if known() is mask:
                return kept
        kept = cut().clone()
        self._step_masks.append((weakref.ref(mask), kept))
        return kept

    def _record_live(
        self,
        reel: Reel,
        step: Step,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        offset: int,
        window: int | None,
        edited: Tensor | None,
    ) -> None:
        """Store the weights of the kept rows; `key` begins at column `offset`. `edited` is their whole mask, if there are edits."""
        first = offset
        implied = mask is None or mask.ndim == 2  # the causal limit and the window are not in the mask
        if window is not None and implied and step.keeps_last_only:
            first = max(offset, step.stop - window)  # what lies before the window is zero
        limited = (
            reel.causal and implied and edited is None and not step.keeps_last_only
        )  # the last row sees all keys there are
        if edited is None and mask is not None:
            edited = _mask_rows(mask, step, step.stop - offset)
        weights = attention_rows(
            step.pick(query),
            key[:, :, first - offset :],
            scaling=reel.scaling,
            mask=None if edited is None else edited[..., first - offset : step.stop - offset],
            positions=step.index(query.device) + (step.start - first) if limited else None,
            window=window if limited else None,
            softcap=reel.softcap,
            sinks=reel.sinks,
        )
        # float16, not bfloat16: weights lie in 0 .. 1, where float16 has three more bits.
        reel.live_rows.append(weights.to(torch.float16))
        reel.live_first.append(first)

    def _record_mass(
        self, reel: Reel, step: Step, query: Tensor, key: Tensor, mask: Tensor | None, offset: int, window: int | None
    ) -> None:
        """Store the group mass of all rows; `key` begins at column `offset`."""
        assert self.indicator is not None
        if self.indicator.device != query.device:
            self.indicator = self.indicator.to(query.device)
        limited = reel.causal and (mask is None or mask.ndim == 2)
        mass = group_mass(
            query,
            key,
            self.indicator[offset : step.stop],
            scaling=reel.scaling,
            mask=None if mask is None else mask[..., : key.shape[2]],
            start=step.start - offset if limited else None,
            window=window if limited else None,
            softcap=reel.softcap,
            sinks=reel.sinks,
        )  # (B, H, r, n)
        if self.mass_block > 1:
            mass = torch.cat([part.mean(2, keepdim=True) for part in torch.split(mass, self.mass_block, dim=2)], dim=2)
        reel.mass.append(mass)

    @property
    def mass_rows(self) -> list[tuple[int, int]]:
        """First and one-past-last position of each row of the recorded mass."""
        block = self.mass_block
        prompt = [step for step in self.steps if self._wants_mass(step)]
        return [(row, min(row + block, step.stop)) for step in prompt for row in range(step.start, step.stop, block)]


def _is(watched: weakref.ref[Tensor], tensor: Tensor | None) -> bool:
    return tensor is not None and watched() is tensor


def _mask_rows(mask: Tensor, step: Step, columns: int) -> Tensor:
    """The kept rows of a step's mask, cut to the columns that exist, as (B|1, H|1, r|1, columns)."""
    if mask.ndim == 2:  # one bool per column, as flash attention wants it: causality is implied
        positions = step.index(mask.device) + step.start
        later = torch.arange(step.stop - columns, step.stop, device=mask.device) > positions[:, None]  # (r, columns)
        return expand_mask(mask[:, :columns]) & ~later
    rows = mask if mask.shape[2] == 1 else step.pick(mask)
    return rows[..., :columns]
