"""Replay: an answer's prompt, ready to be run again with other pictures or other words. Knows a family, no method.

All passes are teacher-forced: prompt and answer go through the model at once, row p scoring the token at p + 1.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import CaptureError
from ..families.base import Family, Prepared
from ..interrupts import uninterrupted
from ..prompt import Picture, Prompt
from ..tokenmap import TokenMap
from ..turn import Turn
from ..upstream import CACHE, made_cache
from .target import Said, Target

NO_MODEL = "this answer has no model any more (it was read from a file, or its session was unloaded): ask again to attribute it"
PICTURES_AT_ONCE = 8  # painted variants of a picture that are embedded together


@dataclass
class Meter:
    """What was computed: whole sequences scored, backward passes, and positions put through the decoder."""

    forwards: int = 0
    backwards: int = 0
    positions: int = 0


class Replay:
    """One question, asked before, that can be run again.

    Parameters
    ----------
    family
        The loaded model. Only a weak reference is kept, so an answer never keeps an unloaded model in memory.
    prompt
        What was asked.
    token_map
        What every position of prompt and answer is.
    said
        The answer's tokens.
    conv_mode, tile_all_images
        As they were given to `Family.prepare`.
    lock
        Held while the model works; the session's own, so that no question runs at the same time.
    head_sets
        (layer, head) pairs by the name that ``heads=`` may give; the session's own.
    """

    def __init__(
        self,
        family: Family,
        prompt: Prompt,
        token_map: TokenMap,
        said: Sequence[Said],
        *,
        conv_mode: str = "auto",
        tile_all_images: bool = False,
        lock: Turn | None = None,
        head_sets: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        self._family = weakref.ref(family)
        self.prompt = prompt
        self.token_map = token_map
        self.said = tuple(said)
        self.lock = lock or Turn()
        self.head_sets = {} if head_sets is None else head_sets
        self.meter = Meter()
        self.conv_mode = conv_mode
        self.tile_all_images = tile_all_images

    @property
    def family(self) -> Family:
        family = self._family()
        if family is None:
            raise CaptureError(NO_MODEL)
        return family

    @property
    def model(self) -> Any:
        return self.family.model

    @property
    def prompt_length(self) -> int:
        return self.token_map.prompt_length

    def on(self, family: Family) -> Replay:
        """The same question and answer on another loaded model of the family, or afresh on the same one.

        The new replay computes its own embeddings, counts its own passes and has a lock of its own.
        """
        return Replay(
            family,
            self.prompt,
            self.token_map,
            self.said,
            conv_mode=self.conv_mode,
            tile_all_images=self.tile_all_images,
            head_sets=self.head_sets,
        )

    def release(self) -> None:
        """Forget the embeddings; they are computed again when needed."""
        for name in ("prepared", "embeddings"):
            self.__dict__.pop(name, None)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and embeddings that were computed and kept."""
        prepared = self.__dict__.get("prepared")
        held = [] if prepared is None else list(prepared.inputs.values())
        held += [self.__dict__["embeddings"]] if "embeddings" in self.__dict__ else []
        return sum(value.nbytes for value in held)

    # -- what goes in ----------------------------------------------------------------------------------------------

    @cached_property
    def prepared(self) -> Prepared:
        return self._prepare(self.prompt, self.tile_all_images)

    @cached_property
    def embeddings(self) -> Tensor:
        """Input embeddings of the prompt as it was asked.  # (P, H)"""
        return self._embed(self.prepared)

    def with_pictures(self, images: Mapping[int, Image.Image]) -> Tensor:
        """Input embeddings of the prompt with some pictures replaced by others of the same size.  # (P, H)"""
        return self._embed(self.prepare_with(images))

    def prepare_with(self, images: Mapping[int, Image.Image]) -> Prepared:
        """Model inputs of the prompt with some pictures replaced by others of the same size."""
        parts: list[str | Picture] = []
        for part in self.prompt.parts:
            number = sum(isinstance(p, Picture) for p in parts)
            is_replaced = isinstance(part, Picture) and number in images
            parts.append(Picture.of(images[number]) if is_replaced else part)
        return self._prepare(Prompt(tuple(parts)), self.tile_all_images)

    def variants(self, picture: int, images: Sequence[Image.Image]) -> list[Tensor]:
        """Visual tokens of one picture painted over in several ways; no other picture is embedded again.

        Stands on this: a family embeds every picture by itself, and cuts it alike in every prompt of several pictures.

        Returns
        -------
        list of Tensor (n, H)
            In the order of ``token_map.positions("image_k")``.
        """
        is_single = len(self.prompt.pictures) == 1
        found: list[Tensor] = []
        for first in range(0, len(images), PICTURES_AT_ONCE):
            some = list(images[first : first + PICTURES_AT_ONCE])
            padded = some if len(some) > 1 else some * 2  # a picture alone would be cut into tiles
            prepared = self._prepare(Prompt(tuple(map(Picture.of, padded))), is_single or self.tile_all_images)
            embeddings = self._embed(prepared)
            found += [embeddings[prepared.token_map.positions(f"image_{k + 1}")] for k in range(len(some))]
        return found

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """Input embeddings of generated tokens.  # (n, H)"""
        table = self.model.get_input_embeddings()
        with torch.no_grad():
            embedded: Tensor = table(torch.tensor(list(ids), dtype=torch.int64, device=table.weight.device))
        return embedded

    def _prepare(self, prompt: Prompt, tile_all_images: bool) -> Prepared:
        return self.family.prepare(prompt, conv_mode=self.conv_mode, tile_all_images=tile_all_images)

    def _embed(self, prepared: Prepared) -> Tensor:
        with torch.no_grad():
            return self.family.embed(prepared.inputs)[0]

    # -- passes ----------------------------------------------------------------------------------------------------

    def values(self, target: Target, embeddings: Tensor | None = None) -> Tensor:
        """The target's scores under a prompt given as embeddings; gradients flow where they are on.  # (rows,)"""
        prompt = self.embeddings if embeddings is None else embeddings
        logits = []
        for each in target.passes:
            sequence = torch.cat([prompt, self.embed_ids(each.fed)])
            places = [self.prompt_length - 1 + row for row in each.rows]
            logits.append(self.forward(sequence, range(len(sequence)), keep=places)[0])
        self.meter.forwards += len(logits)
        return target.values(logits)

    def forward(
        self, embeddings: Tensor, positions: Sequence[int], *, keep: Sequence[int], cache: Any = None, **options: Any
    ) -> tuple[Tensor, Any]:
        """One pass of the decoder, possibly behind a cache.

        Parameters
        ----------
        embeddings : Tensor (n, H)
        positions
            Their places in the sequence; gaps are positions that nobody sees.
        keep
            Which of the n rows' logits are wanted.
        cache
            Keys and values of what stands before.

        Returns
        -------
        (Tensor (len(keep), V), cache)
            Logits in float32 or better.
        """
        device = embeddings.device
        before = 0 if cache is None else cache.get_seq_length()
        self.meter.positions += len(embeddings)
        # A mask of ones, because without one positions with gaps are taken for several packed sequences.
        output = self.model(
            inputs_embeds=embeddings[None],
            position_ids=torch.tensor([list(positions)], device=device),
            attention_mask=torch.ones(1, before + len(embeddings), dtype=torch.int64, device=device),
            **{CACHE: cache},
            use_cache=cache is not None,
            logits_to_keep=torch.tensor(list(keep), dtype=torch.int64, device=device),
            **options,
        )
        logits: Tensor = output.logits[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), made_cache(output)

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config.get_text_config(decoder=True))


def fork(cache: Any) -> Any:
    """A cache that goes on from here by itself. Nothing is copied: the layers append by making new tensors."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No parameter takes part in gradients inside, and afterwards exactly those that did before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        try:
            _set_trained(trained, False)
            yield
        finally:
            _set_trained(trained, True)
    finally:  # again: a Ctrl-C may have come while the first ran
        _set_trained(trained, True)


def _set_trained(parameters: Sequence[Tensor], value: bool) -> None:
    with uninterrupted():
        for parameter in parameters:
            parameter.requires_grad_(value)
