"""The seam between vila_lab and a model family: what a family must tell. Knows no family.

A new family is one file here that implements `Family`, one line in `families.FAMILIES` and one test parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import GenerationConfig

from ..prompt import Prompt
from ..tokenmap import TokenMap


@dataclass(frozen=True)
class Prepared:
    """One prompt, ready for the model.

    Attributes
    ----------
    inputs
        Keyword arguments of the model's ``forward`` and ``generate``, on the model's device, batch of 1.
    token_map
        What each of the ``inputs["input_ids"].shape[1]`` positions is.
    conv_mode
        The conversation template that "auto" resolved to.
    """

    inputs: dict[str, Tensor]
    token_map: TokenMap
    conv_mode: str


class Family(Protocol):
    """A loaded model of one family, spoken to in vila_lab's terms."""

    @property
    def model(self) -> Any:
        """The transformers model (a `PreTrainedModel` that can generate)."""
        ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def context_length(self) -> int:
        """How many positions a prompt and its answer may have together."""
        ...

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The decoder's layers, in order; each returns the residual stream."""
        ...

    def prepare(self, prompt: Prompt, *, conv_mode: str = "auto", tile_all_images: bool = False) -> Prepared:
        """Model inputs of a prompt, and the map of its positions."""
        ...

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Input embeddings of prepared inputs, each picture embedded by itself; gradients reach its pixels.  # (1, T, H)"""
        ...

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the decoder's last layer and its head."""
        ...

    def generation_config(self, conv_mode: str) -> GenerationConfig:
        """Greedy decoding as the family's reference does it, with the stop tokens of this conversation mode."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The answer's text from its generated ids, without special tokens."""
        ...
