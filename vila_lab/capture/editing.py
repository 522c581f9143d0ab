"""Carries out edits while a decoder works: on the scores of chosen edges, on heads, on the residual stream. Knows no pictures.

A second registered attention function, beside the tape's. Rows that no edit touches are answered by the wrapped
implementation untouched; the others are answered by the same implementation too, a few hundred at a time, with a mask that
holds the causal limit, the model's own mask and the edits. So an edit cannot be lost between implementations: there is always
a mask, it is always additive, and it always reaches the softmax.

Positions are counted in the sequence as the model sees it, padding included.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache

from vila_lab.capture.edits import (
    AttentionLook,
    AttentionRows,
    EdgeBias,
    Edit,
    HeadConstant,
    HeadOutputLook,
    HeadScale,
    StateLook,
    StatePatch,
)
from vila_lab.capture.recorder import EDITED, SLOT
from vila_lab.capture.rewire import rewired
from vila_lab.capture.rows import attention_rows, expand_mask
from vila_lab.capture.towers import Site, base_function, select_sites
from vila_lab.errors import CaptureError, NoEffect

ATTENTION = "vila_lab_edit"
"""Name of the registered function. Names with "flash", "sdpa" or "/" in them have a special meaning in transformers."""

ROWS_AT_ONCE = 512  # rows that get a mask of their own together: 8 MB of it at 4,096 columns


def edited_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The registered attention function: answer as the wrapped implementation does, under the edits of this layer."""
    layer: EditedLayer = module.__dict__[EDITED]
    if threading.get_ident() != layer.editing.thread:
        return layer.base(module, query, key, value, attention_mask, *args, **kwargs)
    return layer.attend(module, query, key, value, attention_mask, args, kwargs)


AttentionInterface.register(ATTENTION, edited_attention)


class Editing:
    """Edits and watches a model's decoder inside the block.

    Parameters
    ----------
    model : PreTrainedModel
        Any decoder, or model with a decoder, whose attention goes through transformers' `AttentionInterface`.
    edits
        In order; see `vila_lab.capture.edits`. None of them: the model is not touched.

    Raises
    ------
    NoEffect
        If an edit names a layer or a head that the model does not have.
    CaptureError
        On entering: under a flash or flex implementation, which takes no additive mask; inside a capture; inside other
        edits.

    Notes
    -----
    Only the thread that entered the block is edited. An exception from a look ends the forward.

    Examples
    --------
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> config = Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    >>> model, ids = Qwen2ForCausalLM(config).eval(), torch.arange(5)[None]
    >>> from vila_lab.capture.edits import EdgeBias
    >>> from vila_lab.capture.spans import Span
    >>> cut = EdgeBias(Span.of([1]), Span(onward=2), {0: None, 1: None})
    >>> with torch.no_grad(), Editing(model, [cut]):
    ...     edited = model(ids).logits
    >>> plain = model(ids).logits
    >>> torch.equal(edited[:, :2], plain[:, :2]), torch.equal(edited[:, 2:], plain[:, 2:])
    (True, False)
    """

    def __init__(self, model: PreTrainedModel, edits: Sequence[Edit]) -> None:
        self._model = model
        self._edits = tuple(edits)
        self._stack = ExitStack()
        self.thread = threading.get_ident()
        self.start = 0
        self._masks: dict[Any, tuple[Tensor | None, Tensor]] = {}

    def __enter__(self) -> Editing:
        if not self._edits:
            return self
        self.thread = threading.get_ident()
        sites = select_sites(self._model, ("text",))["text"]
        _check(self._edits, sites, self._model)
        with ExitStack() as stack:
            stack.enter_context(rewired(self._slots(sites), EDITED, ATTENTION))
            hook = sites[0].owner.register_forward_pre_hook(self._before, with_kwargs=True)
            stack.callback(hook.remove)
            for site in sites:
                for edit in self._edits:
                    self._watch_states(stack, site, edit)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._masks.clear()

    # -- putting in ------------------------------------------------------------------------------------------------

    def _slots(self, sites: Sequence[Site]) -> dict[Site, EditedLayer]:
        """What each layer's attention has to do; layers without work are left alone."""
        found = {}
        for site in sites:
            mine = [edit for edit in self._edits if _touches(edit, site.layer)]
            if mine:
                found[site] = EditedLayer(self, site.layer, base_function(site), mine)
        return found

    def _watch_states(self, stack: ExitStack, site: Site, edit: Edit) -> None:
        if not isinstance(edit, StatePatch | StateLook):
            return
        layers = (edit.layer,) if isinstance(edit, StatePatch) else edit.layers
        if site.layer not in layers:
            return

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != self.thread:
                return output
            vectors = output[0] if isinstance(output, tuple) else output
            changed = self._state(edit, site.layer, vectors)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = _state_module(self._model, site, edit.state).register_forward_hook(hook)
        stack.callback(handle.remove)

    # -- while the model works -------------------------------------------------------------------------------------

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Learn where this forward starts, and forget the masks of the one before."""
        if threading.get_ident() != self.thread:
            return
        cache = next((item for item in (kwargs.get("past_key_values"), *args) if isinstance(item, Cache)), None)
        self.start = 0 if cache is None else int(cache.get_seq_length())
        self._masks.clear()

    def _state(self, edit: StatePatch | StateLook, layer: int, vectors: Tensor) -> Tensor:
        stop = self.start + vectors.shape[1]
        if isinstance(edit, StateLook):
            rows = np.flatnonzero(edit.positions.inside(self.start, stop))
            if rows.size:
                edit.function(layer, rows + self.start, vectors[:, rows])
            return vectors
        here = [k for k, position in enumerate(edit.positions) if self.start <= position < stop]
        if not here:
            return vectors
        rows = np.array([edit.positions[k] - self.start for k in here])
        values = edit.values[here].to(vectors)
        changed = vectors.clone()
        items = slice(None) if edit.items is None else torch.tensor([edit.items[k] for k in here])
        changed[items, torch.from_numpy(rows)] = values
        return changed

    def shared_mask(self, key: Any) -> Tensor | None:
        """A mask that another layer made in this forward."""
        known = self._masks.get(key)
        return None if known is None else known[1]

    def share_mask(self, key: Any, own: Tensor | None, mask: Tensor) -> None:
        """Keep a mask for the layers to come. `own`, which the key knows by its id, lives as long: ids are used again."""
        self._masks[key] = own, mask


class EditedLayer:
    """What one layer's attention has to do differently."""

    def __init__(self, editing: Editing, layer: int, base: Any, edits: Sequence[Edit]) -> None:
        self.editing = editing
        self.layer = layer
        self.base = base
        self.biases = [edit for edit in edits if isinstance(edit, EdgeBias)]
        self.heads = [edit for edit in edits if isinstance(edit, HeadScale | HeadConstant)]
        self.looks = [edit for edit in edits if isinstance(edit, AttentionLook)]
        self.outputs = [edit for edit in edits if isinstance(edit, HeadOutputLook)]

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The layer's attention under its edits; shapes as in transformers: query (B, H, r, D), output (B, r, H, D)."""
        start = self.editing.start
        view = _View(module, query, key, mask, start, kwargs)
        touched = self._touched(view)
        if touched.any():
            output, weights = self._with_edits(module, query, key, value, mask, args, kwargs, view, touched)
        else:
            output, weights = self.base(module, query, key, value, mask, *args, **kwargs)
        for edit in self.heads:
            output = _heads_changed(edit, self.layer, output, start)
        for output_look in self.outputs:
            output_look.function(self.layer, output)
        for look in self.looks:
            self._show(look, view)
        return output, weights

    def _with_edits(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        view: _View,
        touched: NDArray[np.bool_],
    ) -> tuple[Tensor, Tensor | None]:
        """Rows before the first touched one in one call; the others in chunks, each with its own mask."""
        first = int(touched.argmax())
        outputs, weights = [], []

        def call(rows: slice, columns: int, part: Tensor | None) -> None:
            found = self.base(
                module, query[:, :, rows], key[:, :, :columns], value[:, :, :columns], part, *args, **kwargs
            )
            outputs.append(found[0])
            weights.append(None if found[1] is None else _padded(found[1], key.shape[2]))

        if first:
            columns = view.columns_of(first - 1)
            call(slice(0, first), columns, None if mask is None else mask[:, :, :first, :columns])
        for begin in range(first, len(touched), ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + ROWS_AT_ONCE, len(touched)))
            columns = view.columns_of(int(rows[-1]))
            call(slice(begin, int(rows[-1]) + 1), columns, self.mask(view, rows)[..., :columns])
        shown = [part for part in weights if part is not None]
        return torch.cat(outputs, 1), torch.cat(shown, 2) if shown else None

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

    def kept_mask(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        rows: Sequence[int],
        kwargs: dict[str, Any],
    ) -> Tensor | None:
        """For the tape: the whole mask of some rows under the edits, or None where no edit touches them."""
        view = _View(module, query, key, mask, self.editing.start, kwargs)
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

    def __init__(
        self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, start: int, kwargs: dict[str, Any]
    ) -> None:
        if kwargs.get("position_bias") is not None or (mask is not None and mask.ndim != 4):
            raise CaptureError(
                "edits and hooks need the model's mask as (batch, heads, rows, columns) or none at all; "
                "load the model with attn_implementation='sdpa'"
            )
        self.query, self.key, self.mask, self.kwargs = query, key, mask, kwargs
        self.rows, self.heads = query.shape[2], query.shape[1]
        self.start, self.stop = start, start + query.shape[2]
        # A sliding cache hands out its last keys only; a static one its whole buffer, longer than what was seen.
        self.offset = max(0, self.stop - key.shape[2])
        self.columns = key.shape[2]
        given = kwargs.get("is_causal")
        self.causal = bool(getattr(module, "is_causal", True) if given is None else given)

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
        scaling = self.kwargs.get("scaling")
        sinks = self.kwargs.get("s_aux")
        # Where only some heads are asked, each gets its own copy of the key head it reads; for all of them that costs most.
        every = heads == tuple(range(self.heads))
        key = self.key if every else self.key[:, index // (self.heads // self.key.shape[1])]
        return attention_rows(
            self.query[:, heads][:, :, torch.from_numpy(rows).to(self.query.device)].detach(),
            key.detach(),
            scaling=float(self.query.shape[-1] ** -0.5 if scaling is None else scaling),
            mask=mask if mask.shape[1] == 1 else mask[:, index],
            softcap=self.kwargs.get("softcap"),
            sinks=None if sinks is None else sinks[index],
        )

    def _later(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(self.offset + np.arange(self.columns) > self.start + rows[:, None])


def _touches(edit: Edit, layer: int) -> bool:
    """Whether an edit has work inside a layer's attention."""
    if isinstance(edit, HeadOutputLook):
        return layer in edit.layers
    return not isinstance(edit, StatePatch | StateLook) and layer in edit.where


def _check(edits: Sequence[Edit], sites: Sequence[Site], model: PreTrainedModel) -> None:
    for site in sites:
        if SLOT in site.module.__dict__ or EDITED in site.module.__dict__:
            raise CaptureError(
                f"{type(model).__name__} is already being captured or edited ({site.name}); leave that block first."
            )
        name = getattr(site.module.config, "_attn_implementation", None) or "eager"
        if "flash" in name:
            raise CaptureError(
                f"the {name!r} implementation takes no additive mask, so its attention cannot be edited; "
                "load the model with attn_implementation='sdpa'."
            )
    known = {site.layer: int(_heads_of(site)) for site in sites}
    for edit in edits:
        layers: dict[int, Any]
        if isinstance(edit, StatePatch):
            layers = {edit.layer: None}
        elif isinstance(edit, StateLook | HeadOutputLook):
            layers = dict.fromkeys(edit.layers)
        else:
            layers = dict(edit.where)
        for layer, heads in layers.items():
            if layer not in known:
                raise NoEffect(f"there is no layer {layer}: the decoder has {len(known)}, counted from 0")
            for head in heads or ():
                if not 0 <= head < known[layer]:
                    raise NoEffect(f"there is no head {head} in layer {layer}: it has {known[layer]}, counted from 0")


def _heads_of(site: Site) -> int:
    module: Any = site.module
    return int(getattr(module, "num_heads", None) or module.config.num_attention_heads)


def _state_module(model: PreTrainedModel, site: Site, state: str) -> nn.Module:
    """The module whose output a state is."""
    if state == "attention":
        return site.module
    layer = model.get_submodule(site.name.rpartition(".")[0])
    if state == "residual":
        return layer
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        raise NoEffect(
            f"layer {site.layer} of {type(model).__name__} has no module 'mlp'; use 'residual' or 'attention'"
        )
    return mlp


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


def _chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[first : first + ROWS_AT_ONCE]


def _padded(weights: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(weights, (0, columns - weights.shape[-1]))
