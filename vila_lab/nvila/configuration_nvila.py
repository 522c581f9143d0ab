"""The configuration of an NVILA model: reads the root ``config.json`` of every layout. Knows no weights and no tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vila_lab.errors import CheckpointError
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint, read_json, write_json
from vila_lab.nvila.layout import TokenGrid
from vila_lab.nvila.limits import check_part, check_sizes
from vila_lab.nvila.projector import merge_of
from vila_lab.nvila.registration import register_others
from vila_lab.nvila.tiling import TILING_MODES, TilingOptions

SCALES = (1, 2, 3)  # the released multi-scale checkpoints use 448, 896, 1344
PART_KEYS = ("llm_cfg", "vision_tower_cfg", "mm_projector_cfg")
NOT_WRITTEN = {
    "text_config", "vision_config", "_name_or_path", "resume_path", "auto_map", "dtype", "torch_dtype", "tie_word_embeddings",
    "output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder",
    "id2label", "label2id", "problem_type",
}  # fmt: skip
HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "nvila": {
        "image_aspect_ratio": "dynamic_s2",
        "mm_projector_type": "mlp_downsample",
        "s2_resize_output_to_scale_idx": -1,
    },
    "nvila_lite": {"image_aspect_ratio": "dynamic", "mm_projector_type": "mlp_downsample_3x3_fix"},
    "vila": {"image_aspect_ratio": "dynamic", "mm_projector_type": "mlp_downsample_3x3_fix"},
}


class NVILAConfig(PreTrainedConfig):
    """Configuration of NVILA and VILA1.5 models.

    Parameters
    ----------
    text_config, vision_config : PreTrainedConfig or dict, optional
        The decoder (Qwen2 by default) and the SigLIP tower.
    mm_projector_type : str
        One of the types in `vila_lab.nvila.projector`.
    image_aspect_ratio : str or None
        resize, pad, dynamic or dynamic_s2; anything else squashes each picture to one tile.
    min_tiles, max_tiles : int
        Bounds of the tile grid.
    s2_scales : sequence of int or str, optional
        Sides of the scales of dynamic_s2, "448,896,1344" in files; by default 1, 2 and 3 times the tile's side.
    s2_resize_output_to_scale_idx : int
        Which scale's map becomes the tokens.
    mm_vision_select_layer : int
        Index into the tower's hidden states; -2 leaves the last layer unused.
    image_encoder : dict or str, optional
        ``start_tokens`` and ``end_tokens`` around every block of visual tokens.
    image_token_id : int, optional
        Id of ``<image>``; may lie outside the embedding matrix. Filled in when a checkpoint is loaded.
    conv_mode : str
        The conversation template to use for "auto"; "auto" itself means the tokenizer's chat template.
    legacy_transposed : bool
        Emit the tokens of each tile column by column, as VILA1.5 was trained and as the reference did before December 2024.
    """

    model_type = "llava_llama"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}  # noqa: RUF012 - transformers' own convention

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        mm_projector_type: str = "mlp_downsample",
        image_aspect_ratio: str | None = "resize",
        min_tiles: int = 1,
        max_tiles: int = 12,
        s2_scales: tuple[int, ...] | list[int] | str | None = None,
        s2_resize_output_to_scale_idx: int = 0,
        mm_vision_select_layer: int = -2,
        image_encoder: dict[str, Any] | str | None = None,
        image_token_id: int | None = None,
        conv_mode: str | None = None,
        legacy_transposed: bool = False,
        **kwargs: Any,
    ) -> None:
        register_others()
        self.text_config = _sub_config(text_config, "qwen2", "llm")
        self.vision_config = _sub_config(vision_config, "siglip_vision_model", "vision_tower")
        self.vision_config.vision_use_head = False  # the pooling head is never read; files may or may not hold it
        self.mm_projector_type = mm_projector_type
        self.image_aspect_ratio = image_aspect_ratio
        self.min_tiles = min_tiles
        self.max_tiles = max_tiles
        self.s2_scales = _scales(s2_scales, self.vision_config.image_size)
        self.s2_resize_output_to_scale_idx = s2_resize_output_to_scale_idx
        self.mm_vision_select_layer = mm_vision_select_layer
        self.image_encoder = json.loads(image_encoder) if isinstance(image_encoder, str) else image_encoder
        self.image_token_id = image_token_id
        self.conv_mode = conv_mode
        self.legacy_transposed = legacy_transposed
        check_sizes(self.text_config, self.vision_config, vars(self))
        kwargs.pop("hidden_size", None)  # both are derived from the parts
        kwargs.pop("mm_hidden_size", None)
        kwargs["tie_word_embeddings"] = bool(self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return int(self.text_config.hidden_size)

    @property
    def mm_hidden_size(self) -> int:
        """Channels that enter the projector: the tower's, once per scale."""
        return int(self.vision_config.hidden_size) * (len(self.s2_scales) if self.is_multiscale else 1)

    @property
    def is_multiscale(self) -> bool:
        return self.image_aspect_ratio == "dynamic_s2"

    @property
    def tiling(self) -> TilingOptions:
        """The checkpoint's rules for cutting pictures."""
        size = self.s2_scales[0] if self.is_multiscale else int(self.vision_config.image_size)
        mode = self.image_aspect_ratio if self.image_aspect_ratio in TILING_MODES else None
        scales = tuple(self.s2_scales) if self.is_multiscale else ()
        return TilingOptions(mode, size, self.min_tiles, self.max_tiles, scales, self.s2_resize_output_to_scale_idx)

    @property
    def token_grid(self) -> TokenGrid:
        """How a tile becomes tokens."""
        return TokenGrid(int(self.vision_config.patch_size), merge_of(self.mm_projector_type), self.legacy_transposed)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read any layout, given a folder, a hub id or the path of a ``config.json``."""
        revision = kwargs.pop("revision", None)
        path = Path(pretrained_model_name_or_path)
        source = path.parent if path.is_file() else pretrained_model_name_or_path
        folder = find_checkpoint(source, revision=revision, weights=False)
        return standard_config_dict(folder.config, folder), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from `to_dict`'s output, or from a raw ``config.json`` whose folder is ``name_or_path``."""
        if "text_config" not in config_dict:
            source = kwargs.get("name_or_path")
            revision = kwargs.pop("revision", None)
            config_dict = standard_config_dict(
                config_dict, find_checkpoint(source, revision=revision, weights=False) if source else None
            )
        elif config_dict.get("model_type", cls.model_type) != cls.model_type:
            config_dict = standard_config_dict(config_dict, None)
        config_dict = {key: value for key, value in config_dict.items() if key != "model_type"}
        return super().from_dict(config_dict, **kwargs)

    def to_checkpoint_dict(self) -> dict[str, Any]:
        """The root ``config.json`` of the three-folder layout."""
        content = {key: value for key, value in self.to_dict().items() if key not in NOT_WRITTEN}
        if self.conv_mode is not None:
            content.pop("source_transformers_version", None)
        text, vision = _part_file(self.text_config), _part_file(self.vision_config)
        content |= {
            "architectures": ["LlavaLlamaModel"],
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "mm_hidden_size": self.mm_hidden_size,
            "mm_projector": self.mm_projector_type,
            "s2": False,
            "dynamic_s2": self.is_multiscale,
            "s2_scales": ",".join(str(side) for side in self.s2_scales),
            "s2_max_split_size": self.s2_scales[0],
            "mm_vision_select_feature": "cls_patch",
            "llm_cfg": text,
            "vision_tower_cfg": vision,
            "mm_projector_cfg": {
                "architectures": ["MultimodalProjector"],
                "model_type": "v2l_projector",
                "mm_projector_type": self.mm_projector_type,
            },
        }
        if dtype := text.get("dtype"):
            content["model_dtype"] = f"torch.{dtype}"
        return content

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configurations of the root and of the three parts."""
        root = Path(save_directory)
        content = self.to_checkpoint_dict()
        write_json(root / "config.json", content)
        for name, key in zip(("llm", "vision_tower", "mm_projector"), PART_KEYS, strict=True):
            write_json(root / name / "config.json", content[key])
        if push_to_hub:
            raise CheckpointError(
                "Saving straight to the hub is not supported; save to a folder and upload it with huggingface_hub."
            )


class _OtherName(NVILAConfig):
    """A model type under which the same configuration is published; it is read as an `NVILAConfig`."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return NVILAConfig.from_dict(config_dict, **kwargs)


class VILAPreviewConfig(_OtherName):
    """The type of the ``-hf-preview`` checkpoints."""

    model_type = "vila"


class NVILAHubConfig(_OtherName):
    """The type of the single-file ``-hf`` checkpoints with three scales."""

    model_type = "nvila"


class NVILALiteHubConfig(_OtherName):
    """The type of the single-file ``-hf`` Lite checkpoints."""

    model_type = "nvila_lite"


CONFIG_CLASSES: tuple[type[NVILAConfig], ...] = (NVILAConfig, VILAPreviewConfig, NVILAHubConfig, NVILALiteHubConfig)


def standard_config_dict(config: Mapping[str, Any], folder: CheckpointFolder | None) -> dict[str, Any]:
    """Bring the ``config.json`` of any layout to the keys of `NVILAConfig`.

    Parameters
    ----------
    config : mapping
        The root configuration.
    folder : CheckpointFolder, optional
        Where the configurations of the parts lie; without it the root configuration must hold them.

    Raises
    ------
    CheckpointError
        The checkpoint is of a kind that is not supported (plain s2, PS3, AWQ, another vision tower).
    """
    raw = dict(config)
    if folder.split if folder else "text_config" not in raw:
        raw["text_config"] = _part_dict(config, folder, "llm", "llm_cfg")
        raw["vision_config"] = _part_dict(config, folder, "vision_tower", "vision_tower_cfg")
        projector = _part_dict(config, folder, "mm_projector", "mm_projector_cfg")
        raw["mm_projector_type"] = (
            projector.get("mm_projector_type") or raw.get("mm_projector_type") or "mlp_downsample"
        )
    else:
        defaults = HF_DEFAULTS.get(str(raw.get("model_type")), {})
        raw = {**defaults, **{key: value for key, value in raw.items() if value is not None}}
    for key in PART_KEYS:
        raw.pop(key, None)
    _refuse_unsupported(raw)
    if raw.get("dynamic_s2"):
        raw["image_aspect_ratio"] = "dynamic_s2"
    if raw.get("conv_mode") is None:
        raw["source_transformers_version"] = config.get("transformers_version")
    for key in ("resume_path", "auto_map", "_name_or_path", "model_dtype", "torch_dtype", "dtype"):
        raw.pop(key, None)
    return raw


def _part_file(config: PreTrainedConfig) -> dict[str, Any]:
    """A part's ``config.json``; the rotary base and the dtype also under the names that readers before transformers 5 know."""
    content = dict(config.to_diff_dict())
    content.pop("_name_or_path", None)
    content["model_type"] = config.model_type
    rope = content.get("rope_parameters") or {}
    if "rope_theta" in rope:
        content["rope_theta"] = rope["rope_theta"]
        content["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    if content.get("dtype"):
        content["torch_dtype"] = content["dtype"]
    return content


def _part_dict(config: Mapping[str, Any], folder: CheckpointFolder | None, name: str, key: str) -> dict[str, Any]:
    """A part's own file decides; the copy in the root configuration only stands in for a missing one."""
    path = folder.part(name, key) / "config.json" if folder else None
    copy = config.get(key)
    if isinstance(copy, Mapping) and (path is None or not path.is_file()):
        return dict(copy)
    if path is None:
        raise CheckpointError(f"The root configuration holds no {key}; load it from the checkpoint's folder.")
    return read_json(path)


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    vision = raw["vision_config"]
    tower = str((vision.get("architectures") or [vision.get("model_type", "")])[0]).lower()
    if raw.get("ps3") or vision.get("ps3") or "ps3" in tower:
        raise CheckpointError(
            "PS3 checkpoints (high-resolution selection) are not supported; use an NVILA or VILA1.5 checkpoint without PS3."
        )
    if raw.get("s2") and not raw.get("dynamic_s2"):
        raise CheckpointError(
            "Plain s2 checkpoints are not supported; use the dynamic_s2, dynamic or resize variant of the model."
        )
    quantization = (raw.get("quantization_config") or raw["text_config"].get("quantization_config") or {}).get(
        "quant_method"
    )
    if quantization == "awq":
        raise CheckpointError(
            "AWQ checkpoints are not supported; load the unquantised checkpoint, with quantization='4bit' if memory is short."
        )
    if "siglip" not in tower or "siglip2" in tower:
        raise CheckpointError(
            f"Vision tower type {tower or 'unknown'!r} is not supported; supported is SiglipVisionModel."
        )
    decoder = raw["text_config"].get("model_type")
    if not decoder:
        raise CheckpointError("llm/config.json names no model_type; copy it from where the checkpoint came from.")


def _sub_config(value: PreTrainedConfig | dict[str, Any] | None, default: str, part: str) -> Any:
    if isinstance(value, PreTrainedConfig):
        return value
    content = dict(value or {})
    kind = content.pop("model_type", default)
    if kind == "siglip":  # the combined model's type, with the tower's own part inside or not
        content, kind = dict(content.get("vision_config", content)), default
        content.pop("model_type", None)
    check_part(content, part)
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"Model type {kind!r} of a part of the checkpoint is not known to the installed transformers."
        )
    try:
        return AutoConfig.for_model(kind, **content)
    except Exception as error:  # transformers checks types, and each configuration in its own way
        raise CheckpointError(
            f"The configuration of the {kind} part cannot be used ({' '.join(str(error).split())}); fetch the file again."
        ) from error


def _scales(value: tuple[int, ...] | list[int] | str | None, image_size: int) -> list[int]:
    if value is None:
        return [factor * int(image_size) for factor in SCALES]
    try:
        return sorted(int(side) for side in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"config.json: s2_scales is {value!r}, not a list of sides.") from error


for _config_class in CONFIG_CLASSES:
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
