"""The one way through a loaded model's decoder. Knows where its modules stand, and no prompt and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..upstream import CACHE, made_cache
from .embedded import Embedded


@dataclass(frozen=True)
class Components:
    """Where a family's modules stand, as paths from the model.

    Attributes
    ----------
    layers : str
        The decoder's layers; each returns the residual stream.
    norm : str
        The norm between the last of them and the head.
    """

    layers: str
    norm: str


class Decoder:
    """A loaded model's decoder. A family whose decoder takes more than embeddings and positions gives its own `_run`."""

    components: ClassVar[Components]

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The decoder's layers, in order; each returns the residual stream."""
        return list(self.model.get_submodule(self.components.layers))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the decoder's last layer and its head."""
        norm: nn.Module = self.model.get_submodule(self.components.norm)
        return norm

    def embed_ids(self, ids: Sequence[int], start: int) -> Embedded:
        """What the decoder is given of generated tokens that stand from a position on."""
        table = self.model.get_input_embeddings()
        with torch.no_grad():
            vectors: Tensor = table(torch.tensor(list(ids), dtype=torch.int64, device=table.weight.device))
        return Embedded(vectors, torch.arange(start, start + len(vectors), device=vectors.device))

    def decode(self, embedded: Embedded, cache: Any = None, keep: Sequence[int] | None = None) -> tuple[Tensor, Any]:
        """One teacher-forced pass of the decoder, possibly behind a cache.

        Parameters
        ----------
        embedded
            The stretch, n positions.
        cache
            Keys and values of what stands before; see `new_cache`.
        keep
            Which of the n rows' logits are wanted; by default all.

        Returns
        -------
        (Tensor (rows, V), cache)
            Logits in float32 or better, and the cache that goes on from here (None without one).
        """
        logits, cache = self.decode_copies(embedded, 1, cache, keep)
        return logits[0], cache

    def decode_copies(
        self, embedded: Embedded, copies: int, cache: Any = None, keep: Sequence[int] | None = None
    ) -> tuple[Tensor, Any]:
        """`decode` of a batch of the same stretch, for edits that tell its items apart.  # (B, rows, V)"""
        rows = torch.arange(len(embedded)) if keep is None else torch.tensor(list(keep), dtype=torch.int64)
        logits, cache = self._run(embedded, copies, cache, rows.to(embedded.vectors.device))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), cache

    def new_cache(self) -> Any:
        """An empty cache to hand to `decode`."""
        return DynamicCache(config=self.model.config.get_text_config(decoder=True))

    def _run(self, embedded: Embedded, copies: int, cache: Any, rows: Tensor) -> tuple[Tensor, Any]:
        """The pass itself. This one is right for decoders that take embeddings and positions and see only backwards."""
        before = 0 if cache is None else cache.get_seq_length()
        # A mask of ones, because without one positions with gaps are taken for several packed sequences.
        output = self.model(
            inputs_embeds=embedded.vectors[None].expand(copies, -1, -1),
            position_ids=embedded.positions[..., None, :].expand(*embedded.positions.shape[:-1], copies, -1),
            attention_mask=torch.ones(
                copies, before + len(embedded), dtype=torch.int64, device=embedded.vectors.device
            ),
            **{CACHE: cache},
            use_cache=cache is not None,
            logits_to_keep=rows,
        )
        return output.logits, made_cache(output)
