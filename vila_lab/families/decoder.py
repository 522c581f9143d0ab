"""The one way through a loaded model's decoder. Knows where its modules stand, and no prompt and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from ..hooks.sites import Site, select_sites
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
        self._sites: list[Site] = []

    @property
    def sites(self) -> list[Site]:
        """The decoder's attention modules, in order. Looking for them is a walk through all modules (0.4 ms of the embedded model's
        15 for a question), so that is done once, and again where one of them was replaced."""
        if not self._sites or not all(map(self._stands, self._sites)):
            self._sites = select_sites(self.model, ("text",))["text"]
        return self._sites

    def _stands(self, site: Site) -> bool:
        try:
            return self.model.get_submodule(site.name) is site.module
        except AttributeError:
            return False

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The decoder's layers, in order; each returns the residual stream."""
        return list(self.model.get_submodule(self.components.layers))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the decoder's last layer and its head."""
        norm: nn.Module = self.model.get_submodule(self.components.norm)
        return norm

    @cached_property
    def window(self) -> int | None:
        """How far back the rows of the layer that looks back least see; None where all see everything."""
        windows = [getattr(site.module, "sliding_window", None) for site in self.sites]
        return min((int(window) for window in windows if window), default=None)

    def capped(self, logits: Tensor) -> Tensor:
        """What the model makes of its head's product before anybody reads it: nothing, in most."""
        return logits

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

    def decode_batch(self, stretches: Sequence[Embedded], cache: Any, shown: Tensor) -> tuple[Tensor, Any, Tensor]:
        """The next stretch of each of several sequences, padded on the left.

        Parameters
        ----------
        stretches
            One for each sequence, of any lengths, causal and with one position each.
        cache
            Keys and values of what stands before, padded alike.
        shown : Tensor (B, K)
            Which of the cache's columns are there, True or False.

        Returns
        -------
        (Tensor (B, V), cache, Tensor (B, K + n))
            Logits of each one's last row in float32 or better, the cache that goes on from here, and its columns.
        """
        width = max(map(len, stretches))
        device = stretches[0].vectors.device
        missing = [width - len(stretch) for stretch in stretches]
        here = torch.stack([torch.arange(width) >= count for count in missing])
        shown = torch.cat([shown, here], 1)
        rows = zip(stretches, missing, strict=True)
        output = self.model(
            inputs_embeds=torch.stack([F.pad(stretch.vectors, (0, 0, count, 0)) for stretch, count in rows]),
            position_ids=torch.stack(
                [F.pad(stretch.positions, (count, 0)) for stretch, count in zip(stretches, missing, strict=True)]
            ),
            attention_mask=shown.to(device, torch.int64),
            **{CACHE: cache},
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), made_cache(output), shown

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
