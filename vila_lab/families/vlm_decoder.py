"""The decoder of any of transformers' vision-language models, with all that its own model gives it. Knows no prompt and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from ..upstream import CACHE, caps_logits, made_cache
from .decoder import Decoder
from .embedded import Embedded


class VLMDecoder(Decoder):
    """A loaded model's decoder.

    It is called below the model's own forward, which would compute positions and blocks again and has no place for deep
    features.

    Attributes
    ----------
    axes : int
        Of a position.
    """

    axes: ClassVar[int] = 1

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.get_decoder().layers)

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.get_decoder().norm
        return norm

    def _run(self, embedded: Embedded, copies: int, cache: Any, rows: Tensor) -> tuple[Tensor, Any]:
        """The decoder with all that it is given by its own model, and the head."""
        positions = embedded.positions
        if positions.ndim == 1 and self.axes > 1:  # text alone has the same position on every axis
            positions = positions.expand(self.axes, -1)
        vectors = embedded.vectors[None].expand(copies, -1, -1)
        places = positions[..., None, :].expand(*positions.shape[:-1], copies, -1)
        output = self.model.get_decoder()(
            inputs_embeds=vectors,
            position_ids=places,
            attention_mask=self._mask(embedded, vectors, places, cache),
            **{CACHE: cache},
            use_cache=cache is not None,
            **self._deep(embedded, copies),
        )
        states = output.last_hidden_state
        logits = self.model.get_output_embeddings()(states[:, rows.to(states.device)])
        return self.capped(logits), made_cache(output)

    def capped(self, logits: Tensor) -> Tensor:
        cap = caps_logits(self.model)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _mask(self, embedded: Embedded, vectors: Tensor, places: Tensor, cache: Any) -> Any:
        """Ones, because without a mask positions with gaps are taken for several packed sequences; blocks have masks of their own."""
        before = 0 if cache is None else cache.get_seq_length()
        ones = torch.ones(len(vectors), before + len(embedded), dtype=torch.int64, device=vectors.device)
        if embedded.blocks is None:
            return ones
        config = self.model.config.get_text_config(decoder=True)
        blocks = nn.functional.pad(embedded.blocks, (before, 0), value=-1)  # no block reaches back into the cache
        given = {
            "config": config,
            "inputs_embeds": vectors,
            "attention_mask": ones,
            CACHE: cache,
            "position_ids": places,
            "block_sequence_ids": blocks.expand(len(vectors), -1),
        }
        full = create_causal_mask(**given)
        if getattr(config, "sliding_window", None) is None:
            return full
        return {"full_attention": full, "sliding_attention": create_sliding_window_causal_mask(**given)}

    def _deep(self, embedded: Embedded, copies: int) -> dict[str, Any]:
        """What the decoder adds behind its first layers."""
        if not embedded.deep:
            return {}
        everywhere = torch.ones(copies, len(embedded), dtype=torch.bool, device=embedded.vectors.device)
        stacked = [each[None].expand(copies, -1, -1).flatten(0, 1) for each in embedded.deep]
        return {"visual_pos_masks": everywhere, "deepstack_visual_embeds": stacked}
