"""The NVILA model: SigLIP tower, projector, decoder. A normal transformers model; knows no pictures and no text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
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
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from vila_lab.errors import CheckpointError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint
from vila_lab.nvila.generation import default_generation_config
from vila_lab.nvila.processing_nvila import NVILAProcessor
from vila_lab.nvila.projector import build_projector, projector_kind
from vila_lab.nvila.saving import model_names, part_of, save_tensors, write_index
from vila_lab.nvila.weights import CheckpointTensors, match_names
from vila_lab.upstream import (
    CACHE,
    CACHE_NAMES,
    can_return_tuple,
    compilable_check,
    from_config,
    has_adapter,
    is_quantized,
    offloaded_state,
    overrides,
    with_cache,
)

__all__ = ["NVILAForConditionalGeneration", "NVILAPreTrainedModel", "build_projector"]

IGNORED_LABEL = -100
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
            maps.append(_merge_tiles(features[:count], *grid))
            features = features[count:]
        chosen = self.config.s2_resize_output_to_scale_idx
        size = maps[chosen].shape[:2]
        merged = torch.cat([_area_resize(each, size) for each in maps], dim=-1)  # (R * g, C * g, n_scales * C)
        rows, columns = grids[chosen]
        tokens = self.mm_projector(_split_tiles(merged, rows, columns))
        return _merge_tiles(tokens, rows, columns).flatten(0, 1)

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
            # With a cache the pictures may be in it; how long it is must not be asked, or no step could be compiled.
            cached = pixel_values is None and kwargs[CACHE] is not None
            inputs_embeds, seen = (
                (self._token_embeddings(input_ids), None)
                if cached
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
        elif ids is not None and not any(
            kwargs.get(name) is not None for name in (CACHE, "inputs_embeds", "prompt_embeds")
        ):
            self._check_places(ids, 0)
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
        start = 0 if kwargs[CACHE] is None else _length(kwargs[CACHE])
        if start > 0:
            inputs["pixel_values"] = inputs["block_sizes"] = None
        ids = inputs.get("input_ids")
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

    # -- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of any layout: a folder, or a hub id.

        Takes transformers' own arguments (dtype, device_map, quantization_config, attn_implementation ...), values of the
        configuration to overrule, and:

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
        source = _with_subfolder(pretrained_model_name_or_path, kwargs.pop("subfolder", None))
        folder = find_checkpoint(source, revision=kwargs.pop("revision", None))
        config = kwargs.pop("config", None)
        processor = kwargs.pop("processor", None)
        for key in ("cache_dir", "force_download", "local_files_only", "token", "use_safetensors", "_from_auto"):
            kwargs.pop(key, None)
        overruled = {key: kwargs.pop(key) for key in CONFIG_OPTIONS & kwargs.keys()}
        with CheckpointTensors(folder) as tensors:
            if isinstance(config, NVILAConfig):
                config = deepcopy(config)
            else:
                config = NVILAConfig.from_pretrained(folder.root, **overruled)
            config.mm_projector_type = _projector_type(folder, config, tensors)
            generation_config = kwargs.get("generation_config") or _saved_generation_config(folder)
            if processor is None and generation_config is None:  # only the tokenizer can say what else is missing
                processor = NVILAProcessor.from_folder(folder, config, name=str(pretrained_model_name_or_path))
            if processor is not None:
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
            if _goes_to_disk(kwargs):  # where a weight that shares another's is looked up by its own name
                state |= {name: state[of] for name, of in skeleton.all_tied_weights_keys.items() if name not in state}
            with _progress_bar(sum(math.prod(shape) for shape in expected.values())):
                model = super().from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        report = model[1] if isinstance(model, tuple) else None
        loaded = model[0] if isinstance(model, tuple) else model
        loaded.name_or_path = loaded.config.name_or_path = str(pretrained_model_name_or_path)
        loaded.generation_config = generation_config or default_generation_config(processor, config.text_config)
        return loaded if report is None else (loaded, report)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs: Any,
    ) -> None:
        """Write the three-folder layout, or with an adapter attached only the adapter, as transformers does.

        Parameters
        ----------
        save_directory : str or Path
        is_main_process : bool
            Whether this process is the one that writes.
        state_dict : mapping, optional
            Tensors to write instead of the model's own.
        max_shard_size : int or str
            Largest file of weights, in bytes or as "5GB".
        save_original_format : bool, optional
            Passed on to the decoder.

        Raises
        ------
        CheckpointError
            The model is quantised, or an option is given that this layout has no place for.
        """
        if has_adapter(self):
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, max_shard_size, **kwargs)
            return
        if is_quantized(self):
            raise CheckpointError(
                "A quantised model cannot be saved in this layout; load it without quantization and save that."
            )
        original = {name: kwargs.pop(name) for name in ("save_original_format",) if name in kwargs}
        _refuse_options({**kwargs, "push_to_hub": push_to_hub})
        if not is_main_process:
            return
        root = Path(save_directory)
        state = self.state_dict() if state_dict is None else state_dict
        if any(value.device.type == "meta" for value in state.values()):
            state = offloaded_state(self)
        self.language_model.generation_config = _plain_generation_config(self.generation_config)
        with _progress_bar(self.num_parameters()):
            self.language_model.save_pretrained(
                root / "llm", state_dict=part_of(state, "language_model"), max_shard_size=max_shard_size, **original
            )
        for part in ("vision_tower", "mm_projector"):
            save_tensors(root / part, part_of(state, part), max_shard_size)
        write_index(root, self.state_dict().keys(), self.all_tied_weights_keys)
        for module, config in (
            (self.language_model, self.config.text_config),
            (self.vision_tower, self.config.vision_config),
        ):
            config.architectures, config.dtype = [type(module).__name__], module.dtype
        self.config.save_pretrained(root)
        self.generation_config.save_pretrained(root)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take tensors under the model's names, or under those of one part's file, as `transformers.Trainer` reads them."""
        return super().load_state_dict(model_names(state_dict, self.state_dict().keys()), strict, assign)


CONFIG_OPTIONS = frozenset(inspect.signature(NVILAConfig.__init__).parameters) - {"self", "kwargs"}
USUAL_OPTIONS: Mapping[str, Any] = {
    "variant": None, "token": None, "save_peft_format": True, "safe_serialization": True,
    "distributed_checkpoint": False, "push_to_hub": False,
}  # fmt: skip


def _refuse_options(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if value != USUAL_OPTIONS.get(name):
            raise CheckpointError(
                f"save_pretrained cannot take {name}={value!r} in this layout; save to a folder without it, and upload "
                "that with huggingface_hub."
            )


def _with_subfolder(source: Any, subfolder: str | None) -> Any:
    return Path(source) / subfolder if subfolder else source


def _goes_to_disk(options: Mapping[str, Any]) -> bool:
    device_map = options.get("device_map")
    on_disk = isinstance(device_map, Mapping) and "disk" in device_map.values()
    return on_disk or options.get("offload_folder") is not None


def _saved_generation_config(folder: CheckpointFolder) -> GenerationConfig | None:
    """What `save_pretrained` wrote; other writers of the three-folder layout leave none at the root."""
    if not folder.split or not (folder.root / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(folder.root)


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


def _length(cache: Any) -> int:
    return int(cache.get_seq_length())


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
AutoModelForMultimodalLM.register(NVILAConfig, NVILAForConditionalGeneration, exist_ok=True)
