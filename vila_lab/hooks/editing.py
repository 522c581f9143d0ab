"""Carries out edits while a decoder works: on the scores of chosen edges, on heads, on the residual stream. Knows no pictures.

Rows that no edit touches are answered by the model's own attention implementation untouched; the others are answered by it
too, a few hundred at a time, with a mask that holds the causal limit, the model's own mask and the edits. So an edit cannot
be lost between implementations: there is always a mask, it is always additive, and it always reaches the softmax.

Positions are counted in the sequence as the model sees it, padding included.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vila_lab.errors import CaptureError, NoEffect
from vila_lab.hooks.call import ACTING, WAY_OUT, Answered, AttentionCall, acting_on
from vila_lab.hooks.edited_layer import EditedLayer
from vila_lab.hooks.edits import (
    Edit,
    HeadOutputLook,
    HeadPatch,
    StateLook,
    StatePatch,
)
from vila_lab.hooks.sites import Site, heads_of, implementation_of, select_sites
from vila_lab.upstream import cache_of


class Editing(ExitStack[bool | None]):
    """Edits and watches a model's decoder inside the block.

    Parameters
    ----------
    model : PreTrainedModel
        Any decoder, or model with a decoder, whose attention goes through transformers' `AttentionInterface`.
    edits
        In order; see `vila_lab.hooks.edits`. None of them: the model is not touched.
    looks_from : int
        Forwards that begin before this position are shown to nobody.

    Raises
    ------
    NoEffect
        If an edit names a layer or a head that the model does not have.
    CaptureError
        On entering: under a flash or flex implementation, which takes no additive mask; inside a capture; inside other
        edits.

    Notes
    -----
    The block may be entered again, for the forwards to come. Only the thread that entered it is edited. An exception from a look ends the forward.

    Examples
    --------
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> config = Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    >>> model, ids = Qwen2ForCausalLM(config).eval(), torch.arange(5)[None]
    >>> from vila_lab.hooks.edits import EdgeBias
    >>> from vila_lab.hooks.spans import Span
    >>> cut = EdgeBias(Span.of([1]), Span(onward=2), {0: None, 1: None})
    >>> with torch.no_grad(), Editing(model, [cut]):
    ...     edited = model(ids).logits
    >>> ((edited - model(ids).logits).abs().amax((0, 2)) > 1e-4).tolist()  # which positions it changed
    [False, False, True, True, True]
    """

    def __init__(self, model: PreTrainedModel, edits: Sequence[Edit], looks_from: int = 0) -> None:
        super().__init__()
        self._model = model
        self._edits = tuple(edits)
        self.thread = threading.get_ident()
        self.start = 0
        self._looks_from = looks_from
        self._sites: list[Site] = []  # looked up once: a block is entered for every token
        self._layers: dict[int, EditedLayer] = {}
        self._masks: dict[Any, tuple[Tensor | None, Tensor]] = {}

    def __enter__(self) -> Self:
        if not self._edits:
            return self
        self.thread = threading.get_ident()
        if not self._sites:
            self._sites = select_sites(self._model, ("text",))["text"]
            _check_edits(self._edits, self._sites)
            self._layers = self._work(self._sites)
        sites = self._sites
        _check_free(sites, self._model)
        try:
            self.callback(self._masks.clear)
            self.enter_context(acting_on([site for site in sites if site.layer in self._layers], editor=self))
            self.callback(sites[0].owner.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            for site in sites:
                for edit in self._edits:
                    self._watch_states(self, site, edit)
            return self
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    # -- putting in ------------------------------------------------------------------------------------------------

    def _work(self, sites: Sequence[Site]) -> dict[int, EditedLayer]:
        """What each layer's attention has to do; layers without work are left alone."""
        mine = {site.layer: [edit for edit in self._edits if _touches(edit, site.layer)] for site in sites}
        return {layer: EditedLayer(self, layer, edits) for layer, edits in mine.items() if edits}

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

    def attend(self, call: AttentionCall) -> Answered:
        return self._layers[call.layer].attend(call)

    def edited_mask(self, call: AttentionCall, rows: Sequence[int]) -> Tensor | None:
        return self._layers[call.layer].edited_mask(call, rows)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Learn where this forward starts, and forget the masks of the one before."""
        if threading.get_ident() != self.thread:
            return
        cache = cache_of(args, kwargs)
        self.start = 0 if cache is None else int(cache.get_seq_length())
        self._masks.clear()

    def _state(self, edit: StatePatch | StateLook, layer: int, vectors: Tensor) -> Tensor:
        stop = self.start + vectors.shape[1]
        if isinstance(edit, StateLook):
            if not self.is_shown:
                return vectors
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

    @property
    def is_shown(self) -> bool:
        """Whether this forward is shown to those who look."""
        return self.start >= self._looks_from

    def shared_mask(self, key: Any) -> Tensor | None:
        """A mask that another layer made in this forward."""
        known = self._masks.get(key)
        return None if known is None else known[1]

    def share_mask(self, key: Any, own: Tensor | None, mask: Tensor) -> None:
        """Keep a mask for the layers to come. `own`, which the key knows by its id, lives as long: ids are used again."""
        self._masks[key] = own, mask


def _touches(edit: Edit, layer: int) -> bool:
    """Whether an edit has work inside a layer's attention."""
    if isinstance(edit, HeadOutputLook):
        return layer in edit.layers
    if isinstance(edit, HeadPatch):
        return layer == edit.layer
    return not isinstance(edit, StatePatch | StateLook) and layer in edit.where


def _check_free(sites: Sequence[Site], model: PreTrainedModel) -> None:
    for site in sites:
        if ACTING in site.module.__dict__:
            raise CaptureError(f"{type(model).__name__} is already being captured or edited ({site.name}); {WAY_OUT}")
        name = implementation_of(site)
        if "flash" in name:
            raise CaptureError(
                f"the {name!r} implementation takes no additive mask, so its attention cannot be edited; "
                "load the model with attn_implementation='sdpa'."
            )


def _check_edits(edits: Sequence[Edit], sites: Sequence[Site]) -> None:
    known = {site.layer: heads_of(site) for site in sites}
    for edit in edits:
        layers: dict[int, Any]
        if isinstance(edit, StatePatch):
            layers = {edit.layer: None}
        elif isinstance(edit, HeadPatch):
            layers = {edit.layer: sorted(set().union(*edit.heads))}
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
