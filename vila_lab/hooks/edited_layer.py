"""One attention call under edits: which rows they touch, which mask those rows get, what its heads hand on. Knows no model.

`vila_lab.hooks.editing` asks it in place of a module's attention, and tells it where a forward starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vila_lab.errors import CaptureError
from vila_lab.hooks.call import Answered, AttentionCall
from vila_lab.hooks.edits import (
    AttentionLook,
    AttentionRows,
    EdgeBias,
    Edit,
    HeadConstant,
    HeadOutputLook,
    HeadPatch,
    HeadScale,
)
from vila_lab.hooks.rows import attention_rows, expand_mask

if TYPE_CHECKING:
    from vila_lab.hooks.editing import Editing

ROWS_AT_ONCE = 512  # rows that get a mask of their own together: 8 MB of it at 4,096 columns
WORTH_LEAVING_OUT = 1.5  # of one plain call: masks cost about twice as much, since no kernel skips what they hide


class EditedLayer:
    """What one layer's attention has to do differently."""

    def __init__(self, editing: Editing, layer: int, edits: Sequence[Edit]) -> None:
        self.editing = editing
        self.layer = layer
        self.biases = [edit for edit in edits if isinstance(edit, EdgeBias)]
        self.heads = [edit for edit in edits if isinstance(edit, HeadScale | HeadConstant | HeadPatch)]
        self.looks = [edit for edit in edits if isinstance(edit, AttentionLook)]
        self.outputs = [edit for edit in edits if isinstance(edit, HeadOutputLook)]

    def attend(self, call: AttentionCall) -> Answered:
        """The layer's attention under its edits."""
        start = self.editing.start
        view = _View(call, start)
        touched = self._touched(view)
        closed = self._closed_alike(view, touched) if touched.any() else None
        weights: Tensor | None
        if closed is not None:
            output, weights = without_columns(view, touched, closed), None
        elif touched.any():
            output, weights = self._in_chunks(view, touched)
        else:
            output, weights = call.plain(call.query, call.key, call.value, call.mask)
        for edit in self.heads:
            output = (
                _heads_patched(edit, output, start)
                if isinstance(edit, HeadPatch)
                else _heads_changed(edit, self.layer, output, start)
            )
        if self.editing.is_shown:
            for output_look in self.outputs:
                output_look.function(self.layer, output)
            for look in self.looks:
                self._show(look, view)
        return output, weights

    def _in_chunks(self, view: _View, touched: NDArray[np.bool_]) -> Answered:
        """Rows before the first touched one in one call; the others in chunks, each with its own mask."""
        first = int(touched.argmax())
        outputs, weights = [], []

        def call(rows: slice, columns: int, part: Tensor | None) -> None:
            some = view.query[:, :, rows], view.key[:, :, :columns], view.call.value[:, :, :columns]
            output, shown = view.call.plain(*some, part)
            outputs.append(output)
            weights.append(None if shown is None else _padded(shown, view.columns))

        if first:
            columns = view.columns_of(first - 1)
            call(slice(0, first), columns, None if view.mask is None else view.mask[:, :, :first, :columns])
        for begin in range(first, len(touched), ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + ROWS_AT_ONCE, len(touched)))
            columns = view.columns_of(int(rows[-1]))
            call(slice(begin, int(rows[-1]) + 1), columns, self.mask(view, rows)[..., :columns])
        shown = [part for part in weights if part is not None]
        return torch.cat(outputs, 1), torch.cat(shown, 2) if shown else None

    def _closed_alike(self, view: _View, touched: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """The columns that all touched rows lose in all heads, where leaving them out of the call says the same and costs
        less than masks do: a whole prompt under the plain causal limit, a cut from everything that comes after."""
        plain = view.mask is None and view.causal and view.start == 0 and view.rows == view.columns
        whole = all(bias.value == -torch.inf and bias.where[self.layer] is None for bias in self.biases)
        if not plain or not whole or view.call.window is not None:
            return None
        closed = np.zeros(view.rows, bool)
        for bias in self.biases:
            readers = bias.reader.inside(0, view.rows)
            if readers.any() and not np.array_equal(readers, touched):
                return None
            closed |= bias.source.inside(0, view.rows) if readers.any() else False
        if (closed & touched).any():
            return None
        before = int(np.flatnonzero(~touched)[-1]) + 1 if not touched.all() else 0
        is_cheaper = before**2 + (~closed).sum() ** 2 < WORTH_LEAVING_OUT * view.rows**2
        return closed if is_cheaper else None

    def _touched(self, view: _View) -> NDArray[np.bool_]:
        """Rows of this forward that some bias acts on."""
        found = np.zeros(view.rows, bool)
        for bias in self.biases:
            first = bias.source.first
            if first is None or first >= view.stop:
                continue
            found |= bias.reader.inside(view.start, view.stop) & (np.arange(view.start, view.stop) != first)
        return found

    def mask(self, view: _View, rows: NDArray[np.int64]) -> Tensor:
        """The whole mask of some rows, counted in this forward: the model's own, the causal limit, the biases.

        Additive, in the queries' type.  # (B|1, H|1, len(rows), K)
        """
        heads = [bias.where[self.layer] for bias in self.biases]
        device = str(view.query.device)
        ident = (id(view.mask), device, tuple(map(id, self.biases)), tuple(heads), rows.tobytes(), view.columns)
        known = self.editing.shared_mask(ident)
        if known is not None:
            return known
        found = view.own_mask(rows)
        for bias, some in zip(self.biases, heads, strict=True):
            edges = view.edges(bias, rows)
            if not edges.any():
                continue
            added = torch.zeros(edges.shape).masked_fill_(torch.from_numpy(edges), bias.value)
            added = added.to(found.device, found.dtype)[None, None]  # (1, 1, r, K)
            if some is None:
                found = found + added
                continue
            chosen = torch.zeros(view.heads, dtype=torch.bool, device=found.device)
            chosen[list(some)] = True
            found = found + torch.where(chosen[None, :, None, None], added, 0.0)
        if all(some is None for some in heads):  # masks by head are large, and layers seldom share them
            self.editing.share_mask(ident, view.mask, found)
        return found

    def edited_mask(self, call: AttentionCall, rows: Sequence[int]) -> Tensor | None:
        """The whole mask of some rows under the edits, or None where no edit touches them."""
        view = _View(call, self.editing.start)
        index = np.asarray(rows, np.int64)
        return self.mask(view, index) if self._touched(view)[index].any() else None

    def _show(self, look: AttentionLook, view: _View) -> None:
        rows = np.flatnonzero(look.rows.inside(view.start, view.stop))
        columns = np.flatnonzero(look.columns.inside(view.offset, view.stop))
        if not rows.size or not columns.size:
            return
        heads = look.where[self.layer]
        some = tuple(range(view.heads)) if heads is None else heads
        parts = [view.weights(part, self.mask(view, part), some)[..., columns] for part in _chunks(rows)]
        look.function(AttentionRows(self.layer, some, rows + view.start, columns + view.offset, torch.cat(parts, 2)))


class _View:
    """Rows and columns of one attention call, as positions of the sequence."""

    def __init__(self, call: AttentionCall, start: int) -> None:
        if call.kwargs.get("position_bias") is not None or (call.mask is not None and call.mask.ndim != 4):
            raise CaptureError(
                "edits and hooks need the model's mask as (batch, heads, rows, columns) or none at all; "
                "load the model with attn_implementation='sdpa'"
            )
        self.call = call
        self.query, self.key, self.mask = call.query, call.key, call.mask
        self.rows, self.heads = call.query.shape[2], call.query.shape[1]
        self.start, self.stop = start, start + call.query.shape[2]
        self.offset = call.offset(self.stop)
        self.columns = call.key.shape[2]
        self.causal = call.causal

    def columns_of(self, row: int) -> int:
        """How many columns a row may need; a mask of the model's own may show it later ones (pictures seen both ways)."""
        limited = self.causal and self.mask is None
        return min(self.columns, self.start + row + 1 - self.offset) if limited else self.columns

    def own_mask(self, rows: NDArray[np.int64]) -> Tensor:
        """What the model itself hides from some rows, additive.  # (B|1, H|1, r, K)"""
        if self.mask is None:
            shown = self._later(rows) if self.causal else np.zeros((len(rows), self.columns), bool)
            found = torch.zeros(shown.shape).masked_fill_(torch.from_numpy(shown), -torch.inf)
            return found[None, None].to(self.query)
        index = torch.from_numpy(rows).to(self.mask.device)
        mask = expand_mask(self.mask)[..., : self.columns]
        mask = mask if mask.shape[2] == 1 else mask.index_select(2, index)
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        return mask.to(self.query.dtype)

    def edges(self, bias: EdgeBias, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where a bias acts.  # (r, K)"""
        readers = bias.reader.inside(self.start, self.stop)[rows]
        sources = bias.source.inside(self.offset, self.offset + self.columns)
        positions = self.start + rows[:, None]
        itself = positions == self.offset + np.arange(self.columns)
        return np.asarray(readers[:, None] & sources & ~itself)

    def weights(self, rows: NDArray[np.int64], mask: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Attention weights of some rows and heads.  # (B, heads, r, K)"""
        index = torch.tensor(heads, device=self.query.device)
        sinks = self.call.sinks
        # Where only some heads are asked, each gets its own copy of the key head it reads; for all of them that costs most.
        every = heads == tuple(range(self.heads))
        key = self.key if every else self.key[:, index // (self.heads // self.key.shape[1])]
        return attention_rows(
            self.query[:, heads][:, :, torch.from_numpy(rows).to(self.query.device)].detach(),
            key.detach(),
            scaling=self.call.scaling,
            mask=mask if mask.shape[1] == 1 else mask[:, index],
            softcap=self.call.softcap,
            sinks=None if sinks is None else sinks[index],
        )

    def _later(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(self.offset + np.arange(self.columns) > self.start + rows[:, None])


def without_columns(view: _View, touched: NDArray[np.bool_], closed: NDArray[np.bool_]) -> Tensor:
    """A whole prompt whose touched rows do not see the closed columns: these are not there in a call of their own.

    Rows keep their order, so the causal limit of the shorter sequence is the same.  # (B, T, H, D)
    """
    query, key, value, plain = view.query, view.key, view.call.value, view.call.plain
    kept = torch.from_numpy(np.flatnonzero(~closed)).to(value.device)
    some = plain(query[:, :, kept], key[:, :, kept], value[:, :, kept], None)[0]
    output = some.new_empty(some.shape[0], view.rows, *some.shape[2:])
    output[:, kept] = some
    untouched = torch.from_numpy(np.flatnonzero(~touched)).to(value.device)
    if len(untouched):
        before = int(untouched[-1]) + 1
        whole = plain(query[:, :, :before], key[:, :, :before], value[:, :, :before], None)[0]
        output[:, untouched] = whole[:, untouched]
    return output


def _heads_changed(edit: HeadScale | HeadConstant, layer: int, output: Tensor, start: int) -> Tensor:
    """The heads' outputs with an edit applied.  # (B, r, H, D)"""
    rows = torch.from_numpy(edit.rows.inside(start, start + output.shape[1])).to(output.device)
    if not bool(rows.any()):
        return output
    heads = edit.where[layer]
    chosen = torch.zeros(output.shape[2], dtype=torch.bool, device=output.device)
    chosen[slice(None) if heads is None else list(heads)] = True
    here = (rows[:, None] & chosen)[None, :, :, None]  # (1, r, H, 1)
    other = output * edit.factor if isinstance(edit, HeadScale) else edit.values[layer].to(output)
    return torch.where(here, other, output)


def _heads_patched(edit: HeadPatch, output: Tensor, start: int) -> Tensor:
    """The heads' outputs with those of another pass in them.  # (B, r, H, D)"""
    here = [k for k, position in enumerate(edit.positions) if start <= position < start + output.shape[1]]
    if not here:
        return output
    chosen = torch.zeros(output.shape[0], output.shape[2], dtype=torch.bool)
    for item, heads in enumerate(edit.heads):
        chosen[item, list(heads)] = True
    rows = torch.tensor([edit.positions[k] - start for k in here], device=output.device)
    changed = output.clone()
    mine = chosen.to(output.device)[:, None, :, None]  # (B, 1, H, 1)
    changed[:, rows] = torch.where(mine, edit.values[here].to(output), output[:, rows])
    return changed


def _chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[first : first + ROWS_AT_ONCE]


def _padded(weights: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(weights, (0, columns - weights.shape[-1]))
