"""The NVILA model: SigLIP tower, projector, decoder. A normal transformers model; knows no pictures and no text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from vila_lab.errors import CheckpointError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint
from vila_lab.nvila.generation import default_generation_config
from vila_lab.nvila.processing_nvila import NVILAProcessor
from vila_lab.nvila.projector import build_projector, projector_kind
from vila_lab.nvila.weights import CheckpointTensors, match_names
from vila_lab.upstream import CACHE, CACHE_NAMES, has_adapter, is_quantized, overrides, with_cache

__all__ = ["NVILAForConditionalGeneration", "NVILAPreTrainedModel", "build_projector"]

IGNORED_LABEL = -100
TOWER_PREFIX = "vision_model."  # in the files of the tower; transformers' present class has one level less
SLOW_TO_LOAD = 100_000_000  # parameters


class NVILAPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about the family."""

    config_class = NVILAConfig
    config: NVILAConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 - transformers' own convention
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer", "SiglipVisionEmbeddings", "Projector"]  # noqa: RUF012
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


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
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
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

    def get_image_features(
        self, pixel_values: Tensor, block_sizes: Tensor | None = None, **kwargs: Any
    ) -> list[Tensor]:
        """Visual tokens of each ``<image>`` block.

        Parameters
        ----------
        pixel_values : Tensor (n_tiles, 3, S, S)
            All tiles of all pictures, in order.
        block_sizes : Tensor (n_blocks, 2), optional
            (rows, columns) of the finest grid of a multi-scale picture, (0, 0) for a block of one tile; by default every
            tile is a block.

        Returns
        -------
        list of Tensor (n_tokens, H)
        """
        weight = next(self.vision_tower.parameters())
        pixel_values = pixel_values.to(weight.dtype)
        if weight.device.type != "meta":  # an offloaded tower is moved by its hooks
            pixel_values = pixel_values.to(weight.device)
        features = self.get_vision_features(pixel_values)
        if not self.config.is_multiscale:
            return list(self.mm_projector(features))
        sizes = [(0, 0)] * len(features) if block_sizes is None else [(int(r), int(c)) for r, c in block_sizes.tolist()]
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
            maps.append(_merge_tiles(features[:count], *grid))
            features = features[count:]
        chosen = self.config.s2_resize_output_to_scale_idx
        size = maps[chosen].shape[:2]
        merged = torch.cat([_area_resize(each, size) for each in maps], dim=-1)  # (R * g, C * g, n_scales * C)
        rows, columns = grids[chosen]
        tokens = self.mm_projector(_split_tiles(merged, rows, columns))
        return _merge_tiles(tokens, rows, columns).flatten(0, 1)

    # -- text and pictures together -------------------------------------------------------------------------------

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None, block_sizes: Tensor | None = None) -> Tensor:
        """Input embeddings with the visual tokens in their places.

        Parameters
        ----------
        input_ids : Tensor (B, T)
            Expanded: ``image_token_id`` once per visual token. That id may lie outside the embedding matrix.

        Returns
        -------
        Tensor (B, T, H)

        Raises
        ------
        ValueError
            The number of visual tokens differs from the number of places for them.
        """
        is_visual = torch.eq(input_ids, self._image_token_id)
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_visual, 0))
        if pixel_values is None or len(pixel_values) == 0:
            return embeddings
        features = torch.cat(self.get_image_features(pixel_values, block_sizes)).to(embeddings.device, embeddings.dtype)
        places = is_visual.to(embeddings.device).unsqueeze(-1).expand_as(embeddings)
        if places.sum() != features.numel():
            raise ValueError(
                f"The prompt has {int(is_visual.sum())} places for visual tokens and the pictures give {len(features)}; "
                "pass input_ids, pixel_values and block_sizes from the same call of the processor."
            )
        return embeddings.masked_scatter(places, features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        block_sizes: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass through the decoder.

        Parameters
        ----------
        input_ids : Tensor (B, T)
            Expanded, see `embed`. Either these or `inputs_embeds`.
        pixel_values, block_sizes : Tensor, optional
            See `get_image_features`; only read together with `input_ids`.
        labels : Tensor (B, T), optional
            Targets; places of visual tokens never count.

        Returns
        -------
        CausalLMOutputWithPast
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds.")
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values, block_sizes)
        if labels is not None:
            labels = labels.masked_fill(torch.eq(labels, self._image_token_id), IGNORED_LABEL)
        output: CausalLMOutputWithPast = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **with_cache(past_key_values, kwargs),
        )
        return output

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """Answer a prompt; see transformers' ``generate`` for all options. Greedy unless told otherwise.

        The pictures are embedded once, before the first step: that way every kind of decoding repeats and cuts one
        sequence of embeddings, never the list of tiles. The ids that come back hold the expanded prompt and the answer.
        """
        ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        pixel_values, block_sizes = kwargs.pop("pixel_values", None), kwargs.pop("block_sizes", None)
        if ids is not None and kwargs.get("inputs_embeds") is None:
            kwargs["inputs_embeds"] = self.embed(ids, pixel_values, block_sizes)
        if ids is not None:
            kwargs["input_ids"] = ids
        return super().generate(generation_config=generation_config, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: Any = None, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pictures enter only with the prompt; afterwards they are in the cache."""
        kwargs = with_cache(past_key_values, kwargs)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        cache = kwargs[CACHE]
        if cache is not None and cache.get_seq_length() > 0:
            inputs["pixel_values"] = inputs["block_sizes"] = None
        return inputs

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

    # -- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of any layout: a folder, or a hub id.

        Takes transformers' own arguments (dtype, device_map, quantization_config, attn_implementation ...), and:

        Parameters
        ----------
        processor : NVILAProcessor, optional
            The checkpoint's processor, if it is loaded already.

        Raises
        ------
        CheckpointNotFound, CheckpointError
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **kwargs)
        folder = find_checkpoint(pretrained_model_name_or_path, revision=kwargs.pop("revision", None))
        config = kwargs.pop("config", None)
        processor = kwargs.pop("processor", None)
        for key in (
            "cache_dir",
            "force_download",
            "local_files_only",
            "token",
            "subfolder",
            "use_safetensors",
            "_from_auto",
        ):
            kwargs.pop(key, None)
        with CheckpointTensors(folder) as tensors:
            config = deepcopy(config) if isinstance(config, NVILAConfig) else NVILAConfig.from_pretrained(folder.root)
            config.mm_projector_type = _projector_type(folder, config, tensors)
            if processor is None:
                processor = NVILAProcessor.from_folder(folder, config, name=str(pretrained_model_name_or_path))
            processor.grid = config.token_grid  # the projector's type may only now be known
            config.image_token_id = processor.image_token_id
            config.conv_mode = processor.conv_mode
            older_name = kwargs.pop("torch_dtype", None)
            dtype = kwargs.pop("dtype", None) or older_name or "auto"
            kwargs["dtype"] = tensors.dtype if dtype == "auto" else dtype
            with torch.device("meta"):
                skeleton = cls(config)
            expected = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
            state = match_names(expected, tensors.slices, skeleton.all_tied_weights_keys)
            with _progress_bar(sum(math.prod(shape) for shape in expected.values())):
                model = super().from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        report = model[1] if isinstance(model, tuple) else None
        loaded = model[0] if isinstance(model, tuple) else model
        loaded.name_or_path = loaded.config.name_or_path = str(pretrained_model_name_or_path)
        if kwargs.get("generation_config") is None:
            loaded.generation_config = default_generation_config(processor, config.text_config)
        return loaded if report is None else (loaded, report)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the three-folder layout, or with an adapter attached only the adapter, as transformers does."""
        if has_adapter(self):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        if is_quantized(self):
            raise CheckpointError(
                "A quantised model cannot be saved in this layout; load it without quantization and save that."
            )
        root = Path(save_directory)
        self.language_model.generation_config = _plain_generation_config(self.generation_config)
        with _progress_bar(self.num_parameters()):
            self.language_model.save_pretrained(root / "llm", **kwargs)
        _save_tensors(root / "vision_tower", self.vision_tower.state_dict(), prefix=TOWER_PREFIX)
        _save_tensors(root / "mm_projector", self.mm_projector.state_dict())
        for part, config in (
            (self.language_model, self.config.text_config),
            (self.vision_tower, self.config.vision_config),
        ):
            config.architectures, config.dtype = [type(part).__name__], part.dtype
        self.config.save_pretrained(root)


def _save_tensors(folder: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = {prefix + name.removeprefix(prefix): value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def _progress_bar(parameters: int) -> Iterator[None]:
    """Transformers' loading bar, only for models that take a while."""
    from transformers.utils import logging

    hide = parameters < SLOW_TO_LOAD and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


class _WithinVocabulary(LogitsProcessorList):
    """Hide ids beyond the vocabulary from the processors inside."""

    def __init__(self, processors: LogitsProcessorList, vocab_size: int) -> None:
        super().__init__(processors)
        self.vocab_size = vocab_size

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return super().__call__(input_ids.masked_fill(input_ids >= self.vocab_size, 0), scores, **kwargs)


def _merge_tiles(
    features: Tensor, rows: int, columns: int
) -> Tensor:  # (rows * columns, g * g, C) -> (rows * g, columns * g, C)
    side = int(features.shape[1] ** 0.5)
    tiles = features.reshape(rows, columns, side, side, -1)
    return tiles.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, -1)


def _split_tiles(
    merged: Tensor, rows: int, columns: int
) -> Tensor:  # (rows * g, columns * g, C) -> (rows * columns, g * g, C)
    height, width, channels = merged.shape
    tiles = merged.reshape(rows, height // rows, columns, width // columns, channels)
    return tiles.permute(0, 2, 1, 3, 4).reshape(rows * columns, -1, channels)


def _area_resize(each: Tensor, size: torch.Size) -> Tensor:  # (h, w, C) -> (*size, C), averaged in float32
    resized = F.interpolate(each.permute(2, 0, 1).float().unsqueeze(0), size=tuple(size), mode="area")
    return resized[0].to(each.dtype).permute(1, 2, 0)


def _projector_type(folder: CheckpointFolder, config: NVILAConfig, tensors: CheckpointTensors) -> str:
    """The named type; for single-file checkpoints that name none, the type that the tensors' shapes show."""
    if folder.split or folder.config.get("mm_projector_type"):
        return str(config.mm_projector_type)
    prefix = "mm_projector."
    shapes = {name.removeprefix(prefix): shape for name, shape in tensors.shapes.items() if name.startswith(prefix)}
    found = projector_kind(shapes, int(config.vision_config.hidden_size))
    return found[0] if found and found[1] == config.mm_hidden_size else str(config.mm_projector_type)


def _plain_generation_config(config: GenerationConfig) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
    )


AutoModelForImageTextToText.register(NVILAConfig, NVILAForConditionalGeneration, exist_ok=True)
