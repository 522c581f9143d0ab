"""NVILA and VILA1.5 behind the seam: from a prompt to model inputs and a TokenMap. Knows no capture and no answer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from ..errors import OptionError
from ..nvila.checkpoint import load_checkpoint
from ..nvila.folder import MODEL_TYPES
from ..nvila.generation import default_generation_config
from ..nvila.image_processing_nvila import NVILAImageProcessor
from ..nvila.layout import PromptLayout
from ..nvila.modeling_nvila import NVILAForConditionalGeneration
from ..nvila.processing_nvila import NVILAProcessor
from ..nvila.prompt_options import NVILAOptions
from ..nvila.tiling import TilingOptions, picture_box, plan_crops, tiled_pictures
from ..prompt import Picture, Prompt
from ..tokenmap import Kind, TokenMap
from .base import Components, Embedded, Family, KnownFeatures, LateInputs, Prepared
from .geometry import Region, even, whole
from .patches import Patches, Read

AT_ONCE = 8  # pictures that are embedded together


@dataclass(frozen=True)
class NVILAPrepared(Prepared):
    """One prompt, ready for the model.

    Attributes
    ----------
    tiled : tuple of bool
        Which of them are cut into tiles.
    blocks : tuple of int
        How many ``<image>`` blocks each has.
    """

    tiled: tuple[bool, ...] = ()
    blocks: tuple[int, ...] = ()


class NVILAFamily(Family):
    """A loaded NVILA or VILA1.5 checkpoint."""

    options = NVILAOptions
    components = Components(layers="language_model.model.layers", norm="language_model.model.norm")
    pixels = "pixel_values"
    first_reading: ClassVar[Mapping[str, Any]] = {"tile_first": True}
    kept_in_full = ("vision_tower", "mm_projector", "lm_head")

    def __init__(self, model: NVILAForConditionalGeneration, processor: NVILAProcessor) -> None:
        super().__init__(model, processor.tokenizer)
        self.processor = processor
        self._generation: dict[tuple[str, int], GenerationConfig] = {}

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") in MODEL_TYPES

    @classmethod
    def load(cls, folder: Path, name: str, **given: Any) -> NVILAFamily:
        return cls(*load_checkpoint(folder, name, **given))

    @property
    def context_length(self) -> int:
        return min(int(self.tokenizer.model_max_length), int(self.model.config.text_config.max_position_embeddings))

    def prepare(self, prompt: Prompt, options: NVILAOptions | None = None) -> NVILAPrepared:
        options = options or NVILAOptions()
        cutter = self._cutter(options)
        features, layout = self.processor.prepare(
            _messages(prompt) if prompt.history else _content(prompt.parts),
            conv_mode=options.conv_mode,
            tile_all_images=options.tile_all_images,
            tile_first=options.tile_first,
            cutter=cutter,
            pixels=False,
        )
        pictures = tuple(prompt.images)
        tiled = tuple(tiled_pictures(len(pictures), options.tile_all_images, options.tile_first))
        device = self.model.get_input_embeddings().weight.device
        late = (self.pixels, "block_sizes") if pictures else ()
        inputs = LateInputs(
            {name: value.to(device) for name, value in features.items()},
            late,
            partial(self._cut, pictures, tiled, cutter),
        )
        counts = Counter(block.picture for block in layout.blocks)
        mode = self.processor.resolve_conv_mode(options.conv_mode)
        return NVILAPrepared(
            inputs,
            token_map_of(layout, [image.size for image in pictures]),
            replace(options, conv_mode=mode),
            tuple(_contents(prompt.pictures, tiled, cutter)),
            pictures,
            tiled=tiled,
            blocks=tuple(counts[number] for number in range(len(pictures))),
        )

    def _cutter(self, options: NVILAOptions) -> NVILAImageProcessor:
        """What cuts the pictures of a prompt."""
        own: NVILAImageProcessor = self.processor.image_processor
        if options.image_aspect_ratio in (None, own.image_aspect_ratio):
            return own
        if own.image_aspect_ratio == "dynamic_s2":
            raise OptionError(
                "this checkpoint reads every picture in several scales (dynamic_s2), and its tower can do nothing else: leave "
                "image_aspect_ratio out"
            )
        return own.with_settings(image_aspect_ratio=options.image_aspect_ratio)

    def _cut(
        self, pictures: Sequence[Image.Image], tiled: Sequence[bool], cutter: NVILAImageProcessor
    ) -> dict[str, Tensor]:
        """Pixels of pictures, as the tower takes them."""
        found = cutter(list(pictures), tiled=list(tiled), return_tensors="pt")
        device = self.model.get_input_embeddings().weight.device
        return {name: value.to(device) for name, value in found.items()}

    def embed(self, prepared: NVILAPrepared, known: KnownFeatures | None = None) -> Embedded:  # type: ignore[override]
        inputs = prepared.inputs
        if known is None or not prepared.contents:
            vectors = self.model.embed(inputs["input_ids"], inputs.get(self.pixels), inputs.get("block_sizes"))[0]
        else:
            features = self._features(prepared, known)
            vectors = self.model.embed_features(inputs["input_ids"], [features[key] for key in prepared.contents])[0]
        return Embedded(vectors, torch.arange(len(vectors), device=vectors.device))

    def _features(self, prepared: NVILAPrepared, known: KnownFeatures) -> dict[str, Tensor]:
        """Each content's visual tokens, (n, H), computed where they are not known."""
        found = {content: known.features(content) for content in prepared.contents}
        unknown = [content for content, features in found.items() if features is None]
        # Alone or among others a picture's features are the same to the bit: in all three types on the CPU, in bfloat16 on an H200.
        for first in range(0, len(unknown), AT_ONCE):
            some = unknown[first : first + AT_ONCE]
            for content, features in zip(some, self._computed(prepared, some), strict=True):
                known.keep_features(content, features)
                found[content] = features
        return {content: features for content, features in found.items() if features is not None}

    def _computed(self, prepared: NVILAPrepared, contents: Sequence[str]) -> list[Tensor]:
        """Visual tokens of some of a prompt's pictures, each a tensor of its own."""
        numbers = [prepared.contents.index(content) for content in contents]
        pictures, tiled = [prepared.pictures[k] for k in numbers], [prepared.tiled[k] for k in numbers]
        cut = self._cut(pictures, tiled, self._cutter(prepared.options))
        found = self.model.get_image_features(cut[self.pixels], cut["block_sizes"].tolist(), return_dict=True)
        blocks = iter(found.pooler_output)
        return [torch.cat([next(blocks) for _ in range(prepared.blocks[k])]) for k in numbers]

    def pictures_features(
        self,
        pictures: Sequence[Image.Image],
        context: Prepared,
        number: int = 0,
        known: KnownFeatures | None = None,
    ) -> list[Tensor]:
        """Stands on this: every picture is embedded by itself, and cut alike in every prompt of several pictures."""
        options = context.options
        tiled = tiled_pictures(context.token_map.n_pictures, options.tile_all_images, options.tile_first)
        options = replace(options, tile_all_images=tiled[number], tile_first=False)
        found: list[Tensor] = []
        for first in range(0, len(pictures), AT_ONCE):
            some = list(pictures[first : first + AT_ONCE])
            padded = some if len(some) > 1 else some * 2  # a picture alone would be cut into tiles
            prepared = self.prepare(Prompt(tuple(map(Picture.of, padded))), options)
            features = self.embed(prepared, known).features
            found += [features[prepared.token_map.positions(f"image_{k + 1}")] for k in range(len(some))]
        return found

    def alone(self, context: NVILAPrepared, number: int) -> NVILAPrepared:  # type: ignore[override]
        is_cut, picture = context.tiled[number], Picture.of(context.pictures[number])
        options = replace(context.options, tile_all_images=is_cut, tile_first=False)
        return self.prepare(Prompt((picture,) if is_cut else (picture, picture)), options)  # one alone would be cut

    def patches(self, prepared: NVILAPrepared) -> Patches:  # type: ignore[override]
        cut = self._cutter(prepared.options).options
        tiled = zip(prepared.token_map.sizes, prepared.tiled, strict=True)
        regions = [list(_tiles(size, cut, is_cut)) for size, is_cut in tiled]
        return Read(prepared.token_map, prepared.inputs, self.pixels, self.processor, self.model.config).tiled(regions)

    def layers_read(self, count: int) -> int:
        return int(self.model.config.mm_vision_select_layer) % (count + 1)

    def generation_config(self, options: NVILAOptions) -> GenerationConfig:
        # Which rows no text stands for takes 0.1 s to find in a vocabulary of 150 thousand: once, not in every question.
        key = options.conv_mode, len(self.tokenizer)
        if key not in self._generation:
            config = self.model.config.text_config
            self._generation[key] = default_generation_config(self.processor, config, options.conv_mode)
        return copy.deepcopy(self._generation[key])


def _tiles(size: tuple[int, int], options: TilingOptions, tiled: bool) -> Iterator[Region]:
    """What each tile of a picture shows, in the order in which the tower reads them."""
    crops = plan_crops(*size, options, tiled=tiled)
    if len(crops) == 1 and crops[0].tiles == 1:
        yield picture_box(*size, options)
        return
    for crop in crops:
        yield from even(crop.rows, crop.columns, whole(size)).box.tolist()


def _contents(pictures: Sequence[Picture], tiled: Sequence[bool], cutter: NVILAImageProcessor) -> Iterator[str]:
    """What tells each picture's features from others: its pixels, and how they are cut."""
    for picture, cut in zip(pictures, tiled, strict=True):
        yield f"{picture.digest} {'tiled' if cut else 'whole'} {cutter.options}"


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A conversation as the processor takes it."""
    earlier = [{"role": turn.role, "content": _content(turn.parts), "ids": turn.ids} for turn in prompt.history]
    return [*earlier, {"role": "user", "content": _content(prompt.parts)}]


def _content(parts: Sequence[str | Picture]) -> list[str | Image.Image]:
    return [part.image if isinstance(part, Picture) else part for part in parts]


def token_map_of(layout: PromptLayout, sizes: Sequence[tuple[int, int]]) -> TokenMap:
    """The token map of a laid-out prompt."""
    length = len(layout.input_ids)
    kind = np.full(length, Kind.TEMPLATE, np.int8)
    picture, tile, scale = (np.full(length, -1, np.int32) for _ in range(3))
    box = np.full((length, 4), np.nan)
    for start, stop in layout.user_spans:
        overlaps = (layout.offsets[:, 0] < stop) & (layout.offsets[:, 1] > start)
        kind[overlaps] = Kind.TEXT
    kind[layout.separators] = Kind.SEPARATOR
    for first, last in layout.replies:
        kind[first:last] = Kind.REPLY
    for block in layout.blocks:
        mine = slice(block.start, block.stop)
        kind[mine], picture[mine], tile[mine], scale[mine], box[mine] = (
            Kind.IMAGE,
            block.picture,
            block.tiles,
            block.scale,
            block.boxes,
        )
    _give_separators(kind, picture)
    return TokenMap(kind, picture, tile, scale, box, layout.offsets.astype(np.int32), layout.text, tuple(sizes))


def _give_separators(kind: np.ndarray, picture: np.ndarray) -> None:
    """A separator belongs to the picture that stands before it, or behind it if none does."""
    for position in np.flatnonzero(kind == Kind.SEPARATOR):
        before = picture[position - 1] if position else -1
        after = picture[position + 1 :][picture[position + 1 :] >= 0][:1]
        picture[position] = before if before >= 0 else (after[0] if after.size else -1)
