"""The NVILA model: SigLIP tower, projector, decoder. A normal transformers model; knows no pictures and no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.pretrained import NVILAPreTrainedModel
from vila_lab.nvila.projector import build_projector
from vila_lab.nvila.tile_maps import area_resize, merge_tiles, split_tiles
from vila_lab.upstream import (
    CACHE,
    CACHE_NAMES,
    can_return_tuple,
    compilable_check,
    from_config,
    overrides,
    with_cache,
)

__all__ = ["NVILAForConditionalGeneration", "NVILAPreTrainedModel", "build_projector"]

IGNORED_LABEL = -100


@dataclass
class NVILACausalLMOutput(CausalLMOutputWithPast):
    """What a pass with pictures returns.

    Attributes
    ----------
    image_outputs : BaseModelOutputWithPooling
        See `NVILAForConditionalGeneration.get_image_features`.
    """

    image_outputs: BaseModelOutputWithPooling | None = None


class NVILAForConditionalGeneration(NVILAPreTrainedModel, GenerationMixin):
    """NVILA and VILA1.5.

    Attributes
    ----------
    language_model : PreTrainedModel
        The decoder with its head.
    vision_tower : SiglipVisionModel
    mm_projector : Projector
    """

    def __init__(self, config: NVILAConfig) -> None:
        super().__init__(config)
        self.vision_tower = from_config(SiglipVisionModel, config.vision_config)
        self.mm_projector = build_projector(
            config.mm_projector_type, config.mm_hidden_size, config.hidden_size, transposed=config.legacy_transposed
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    @property
    def _image_token_id(self) -> int:
        token = self.config.image_token_id
        return -1 if token is None else token

    # -- vision ---------------------------------------------------------------------------------------------------

    def get_vision_features(self, pixel_values: Tensor) -> Tensor:
        """The selected hidden state of the tower for every tile.

        Layers after the selected one are not run: nothing reads them.

        Parameters
        ----------
        pixel_values : Tensor (n_tiles, 3, S, S)

        Returns
        -------
        Tensor (n_tiles, g * g, C)
        """
        tower = getattr(self.vision_tower, "vision_model", self.vision_tower)
        layers = tower.encoder.layers
        hidden: Tensor = tower.embeddings(pixel_values)
        for layer in layers[: self.config.mm_vision_select_layer % (len(layers) + 1)]:
            hidden = layer(hidden, attention_mask=None)
        return hidden

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(
        self, pixel_values: Tensor, block_sizes: Tensor | Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of each ``<image>`` block.

        Parameters
        ----------
        pixel_values : Tensor (n_tiles, 3, S, S)
            All tiles of all pictures, in order.
        block_sizes : Tensor (n_blocks, 2) or sequence of pairs, optional
            (rows, columns) of the finest grid of a multi-scale picture, (0, 0) for a block of one tile; by default every
            tile is a block.
        output_hidden_states, output_attentions : bool, optional
            Run the whole tower and return those too.

        Returns
        -------
        BaseModelOutputWithPooling
            ``pooler_output``: a list with one Tensor (n_tokens, H) per block; ``last_hidden_state`` (n_tiles, g * g, C):
            the tower's selected features.
        """
        pixel_values = pixel_values.to(self.vision_tower.dtype)
        weight = next(self.vision_tower.parameters())
        if weight.device.type != "meta":  # an offloaded tower is moved by its hooks
            pixel_values = pixel_values.to(weight.device)
        wanted = [name for name in ("output_hidden_states", "output_attentions") if self._wants(name, kwargs)]
        if not wanted:
            features, seen = self.get_vision_features(pixel_values), {}
        else:
            options = dict.fromkeys({*wanted, "output_hidden_states"}, True)
            whole = self.vision_tower(pixel_values, return_dict=True, **options)
            features = whole.hidden_states[self.config.mm_vision_select_layer]
            seen = {name: whole[name] for name in ("hidden_states", "attentions") if f"output_{name}" in wanted}
        tokens = self._block_tokens(features, block_sizes)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=tokens, **seen)  # type: ignore[arg-type]

    def _wants(self, name: str, kwargs: Mapping[str, Any]) -> bool:
        asked = kwargs.get(name)
        return bool(getattr(self.config.vision_config, name) if asked is None else asked)

    def _block_tokens(self, features: Tensor, block_sizes: Tensor | Sequence[Sequence[int]] | None) -> list[Tensor]:
        if not self.config.is_multiscale:
            return list(self.mm_projector(features))
        if isinstance(block_sizes, Tensor):
            if torch.compiler.is_compiling():
                raise ValueError("Compiled, a multi-scale model needs its grids as numbers: block_sizes.tolist().")
            block_sizes = block_sizes.tolist()
        sizes = [(0, 0)] * len(features) if block_sizes is None else [(int(r), int(c)) for r, c in block_sizes]
        blocks = []
        for rows, columns in sizes:
            count = self._tiles_in_block(rows, columns)
            blocks.append(self._multiscale_tokens(features[:count], rows, columns))
            features = features[count:]
        return blocks

    def _tiles_in_block(self, rows: int, columns: int) -> int:
        if rows == 0:
            return 1
        options = self.config.tiling
        return rows * columns + sum(options.square_tiles(k) ** 2 for k in range(len(options.scales) - 1))

    def _multiscale_tokens(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Bring all scales of one picture to one map, project it tile by tile, read it row by row over the picture."""
        scales = self.config.tiling.scales
        if rows == 0:
            single: Tensor = self.mm_projector(features.repeat(1, 1, len(scales)))
            return single[0]
        squares = [self.config.tiling.square_tiles(k) for k in range(len(scales) - 1)]
        grids = [*((n, n) for n in squares), (rows, columns)]
        maps = []
        for grid in grids:
            count = grid[0] * grid[1]
            maps.append(merge_tiles(features[:count], *grid))
            features = features[count:]
        chosen = self.config.s2_resize_output_to_scale_idx
        size = maps[chosen].shape[:2]
        merged = torch.cat([area_resize(each, size) for each in maps], dim=-1)  # (R * g, C * g, n_scales * C)
        rows, columns = grids[chosen]
        tokens = self.mm_projector(split_tiles(merged, rows, columns))
        return merge_tiles(tokens, rows, columns).flatten(0, 1)

    # -- text and pictures together -------------------------------------------------------------------------------

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        block_sizes: Tensor | Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Input embeddings with the visual tokens in their places.

        Parameters
        ----------
        input_ids : Tensor (B, T)
            Expanded: ``image_token_id`` once per visual token. That id may lie outside the embedding matrix.
        pixel_values, block_sizes : optional
            See `get_image_features`.

        Returns
        -------
        Tensor (B, T, H)

        Raises
        ------
        ValueError
            The number of visual tokens differs from the number of places for them.
        """
        return self._with_pictures(input_ids, pixel_values, block_sizes)[0]

    def embed_features(self, input_ids: Tensor, features: Sequence[Tensor]) -> Tensor:
        """`embed` with visual tokens that were computed before, (n_tokens, H) each, in order.  # (B, T) -> (B, T, H)"""
        return self._placed(input_ids, self._token_embeddings(input_ids), features)

    def _with_pictures(
        self, input_ids: Tensor, pixel_values: Tensor | None, block_sizes: Tensor | Sequence[Sequence[int]] | None
    ) -> tuple[Tensor, BaseModelOutputWithPooling | None]:
        embeddings = self._token_embeddings(input_ids)
        if pixel_values is None or len(pixel_values) == 0:
            self._check_places(input_ids, 0)
            return embeddings, None
        seen: BaseModelOutputWithPooling = self.get_image_features(pixel_values, block_sizes, return_dict=True)
        return self._placed(input_ids, embeddings, list(seen.pooler_output or ())), seen

    def _placed(self, input_ids: Tensor, embeddings: Tensor, blocks: Sequence[Tensor]) -> Tensor:  # (B, T, H)
        features = torch.cat([*blocks]).to(embeddings.device, embeddings.dtype)
        self._check_places(input_ids, len(features))
        places = torch.eq(input_ids, self._image_token_id).to(embeddings.device).unsqueeze(-1).expand_as(embeddings)
        return embeddings.masked_scatter(places, features)

    def _check_places(self, input_ids: Tensor, count: int) -> None:
        places = torch.eq(input_ids, self._image_token_id).sum()
        compilable_check(
            places == count,
            lambda: (
                f"The prompt has {int(places)} places for visual tokens and the pictures give {count}; "
                "pass input_ids, pixel_values and block_sizes from the same call of the processor."
            ),
        )

    def _token_embeddings(self, input_ids: Tensor) -> Tensor:  # (B, T) -> (B, T, H); any row at the places of pictures
        is_visual = torch.eq(input_ids, self._image_token_id)
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_visual, 0))
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        block_sizes: Tensor | Sequence[Sequence[int]] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass through the decoder.

        Parameters
        ----------
        input_ids : Tensor (B, T)
            Expanded, see `embed`. Either these or `inputs_embeds`.
        pixel_values, block_sizes : optional
            See `get_image_features`; only together with `input_ids`.
        labels : Tensor (B, T), optional
            Targets; places of visual tokens never count.
        past_key_values, cache : Cache, optional
            The same, under its names in all versions of transformers.

        Returns
        -------
        CausalLMOutputWithPast, with pictures an NVILACausalLMOutput
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds.")
        if inputs_embeds is not None and pixel_values is not None:
            raise ValueError("inputs_embeds already hold the pictures; pass pixel_values together with input_ids.")
        kwargs = with_cache(cache if cache is not None else past_key_values, kwargs)
        seen = None
        if input_ids is not None:
            # One id behind a cache is a word that was said; to look at its value would hold up every step for the device.
            is_step = pixel_values is None and kwargs[CACHE] is not None and input_ids.shape[1] == 1
            inputs_embeds, seen = (
                (self._token_embeddings(input_ids), None)
                if is_step
                else self._with_pictures(input_ids, pixel_values, block_sizes)
            )
        if labels is not None:
            labels = labels.masked_fill(torch.eq(labels, self._image_token_id), IGNORED_LABEL)
        output: CausalLMOutputWithPast = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return (
            output if seen is None or isinstance(output, tuple) else NVILACausalLMOutput(**output, image_outputs=seen)
        )

    # -- generation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """Answer a prompt; see transformers' ``generate`` for all options. Greedy unless told otherwise.

        The pictures are embedded once, before the first step, into one sequence of embeddings per prompt: that is what
        every kind of decoding repeats, cuts and continues, never the list of tiles. The ids that come back hold the
        expanded prompt and the answer.

        Raises
        ------
        ValueError
            See `embed`; or pictures come without ``input_ids``; or ``assistant_model`` cannot see them.
        """
        ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        pixel_values, block_sizes = kwargs.pop("pixel_values", None), kwargs.pop("block_sizes", None)
        if any(name in kwargs for name in CACHE_NAMES):
            kwargs = with_cache(None, kwargs)
        if pixel_values is not None and len(pixel_values) > 0:
            if ids is None or kwargs.get("inputs_embeds") is not None:
                raise ValueError("inputs_embeds already hold the pictures; pass pixel_values together with input_ids.")
            self._check_assistant(kwargs.get("assistant_model"))
            mask = kwargs.get("attention_mask")
            cached = (
                0 if mask is None else max(0, mask.shape[1] - ids.shape[1])
            )  # a cache's positions, without their ids
            kwargs["prompt_embeds"] = F.pad(self.embed(ids, pixel_values, block_sizes), (0, 0, cached, 0))
        elif ids is not None and not any(kwargs.get(name) is not None for name in ("inputs_embeds", "prompt_embeds")):
            self._check_places(_behind(kwargs.get(CACHE), ids, kwargs.get("attention_mask")), 0)
        return super().generate(ids, generation_config=generation_config, **kwargs)  # type: ignore[misc]

    def _check_assistant(self, assistant: Any) -> None:
        if assistant is None or (
            isinstance(assistant, NVILAForConditionalGeneration)
            and assistant.config.hidden_size == self.config.hidden_size
        ):
            return
        raise ValueError(
            f"assistant_model is a {type(assistant).__name__}, which cannot take over this model's visual tokens; use one of "
            "this family with the same hidden size, or prompt_lookup_num_tokens."
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        prompt_embeds: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step: positions of the prompt enter as embeddings, all others as ids.

        Parameters
        ----------
        prompt_embeds : Tensor (B, T, H), optional
            From `embed`, for the first T positions.
        inputs_embeds : Tensor, optional
            What a caller gave instead of ids.
        cache, past_key_values : Cache, optional
            The same, under its names in all versions of transformers.
        """
        kwargs = with_cache(cache if cache is not None else past_key_values, kwargs)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        start = _length(kwargs[CACHE])
        # Who calls this outside of `generate` (captum does) hands in the pictures, and later all ids from the first on.
        pictures = {name: kwargs[name] for name in ("pixel_values", "block_sizes") if name in kwargs}
        inputs |= {name: None if start > 0 else given for name, given in pictures.items()}
        ids = inputs.get("input_ids")
        if ids is not None:
            inputs["input_ids"] = ids = _behind(kwargs[CACHE], ids, kwargs.get("attention_mask"))
        if prompt_embeds is None or ids is None or start >= prompt_embeds.shape[1]:
            return inputs
        known = prompt_embeds[:, start : start + ids.shape[1]]
        later = self._token_embeddings(ids[:, known.shape[1] :])  # what was generated, when there is no cache
        return {**inputs, "input_ids": None, "inputs_embeds": torch.cat([known, later.to(known.device)], dim=1)}

    @overrides(GenerationMixin)
    def _prepare_generated_length(
        self, generation_config: Any, has_default_max_length: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """The checkpoint's length limit is a default: asking for ``max_new_tokens`` is not at odds with it."""
        is_default = has_default_max_length or generation_config.max_new_tokens is not None
        return super()._prepare_generated_length(generation_config, is_default, *args, **kwargs)  # type: ignore[misc]

    @overrides(GenerationMixin)
    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Processors that look at earlier ids (repetition penalty) must not meet ids outside the vocabulary."""
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        return _WithinVocabulary(processors, int(self.config.text_config.vocab_size))


def _length(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _behind(cache: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Those of the ids that a cache does not hold; the mask covers the cache too, so it tells how many there are."""
    start = _length(cache)
    if start == 0 or mask is None or mask.ndim != 2:
        return ids
    return ids[:, -max(1, mask.shape[1] - start) :]


class _WithinVocabulary(LogitsProcessorList):
    """Hide ids beyond the vocabulary from the processors inside."""

    def __init__(self, processors: LogitsProcessorList, vocab_size: int) -> None:
        super().__init__(processors)
        self.vocab_size = vocab_size

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return super().__call__(input_ids.masked_fill(input_ids >= self.vocab_size, 0), scores, **kwargs)


AutoModelForImageTextToText.register(NVILAConfig, NVILAForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(NVILAConfig, NVILAForConditionalGeneration, exist_ok=True)
