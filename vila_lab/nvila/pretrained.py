"""What transformers needs to know about the family's model, and how its checkpoints are read and written. Knows no pass of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vila_lab.errors import CheckpointError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint
from vila_lab.nvila.generation import default_generation_config
from vila_lab.nvila.processing_nvila import NVILAProcessor
from vila_lab.nvila.projector import projector_kind
from vila_lab.nvila.saving import model_names, part_of, save_tensors, write_index
from vila_lab.nvila.weights import CheckpointTensors, match_names
from vila_lab.upstream import CACHE_NAMES, has_adapter, is_quantized, offloaded_state

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

    language_model: Any

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
