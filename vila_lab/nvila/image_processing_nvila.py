"""Pictures to tiles of numbers, bit-equal to the reference. Knows pictures and arrays, no text and no model.

Resampling is always PIL's: the torchvision processors that transformers 5 prefers differ by up to two grey levels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

# From its own module: in some versions the package's name of it wants torchvision. Not through `vila_lab.upstream`, which
# cannot be imported while transformers itself is half imported.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import ImagesKwargs

from vila_lab.errors import OptionError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint, read_json
from vila_lab.nvila.limits import check_normalisation, check_tiling
from vila_lab.nvila.tiling import Crop, TilingOptions, plan_crops
from vila_lab.options import nearest
from vila_lab.picture import Picture

WHOLE_PICTURE = (0, 0)  # the block size of a picture that was not cut
SETTINGS = (
    "size", "image_mean", "image_std", "rescale_factor", "resample", "do_convert_rgb", "do_rescale", "do_normalize",
    "image_aspect_ratio", "min_tiles", "max_tiles", "s2_scales", "s2_resize_output_to_scale_idx",
)  # fmt: skip
WITHOUT_EFFECT = ("disable_grouping", "default_to_square")  # they choose between ways to the same result
FILES = ("processor_config.json", "preprocessor_config.json")


class NVILAImageProcessorKwargs(ImagesKwargs, total=False):
    """What a call may set, besides transformers' own names."""

    tiled: bool | None
    image_aspect_ratio: str | None
    min_tiles: int
    max_tiles: int
    s2_scales: list[int] | None
    s2_resize_output_to_scale_idx: int


class NVILAImageProcessor(BaseImageProcessor):
    """Cut, resize and normalise pictures.

    Parameters
    ----------
    size : dict
        ``height`` and ``width`` of a tile.
    image_mean, image_std : sequence of float
        Per channel, applied after `rescale_factor`.
    resample : int
        PIL filter; 3 is bicubic.
    do_convert_rgb, do_resize, do_rescale, do_normalize : bool
        False leaves the step out, which does not suit any released checkpoint; tiles are always resized, and a picture of
        another mode than RGB is always converted.
    image_aspect_ratio : str or None
        Tiling mode, see `vila_lab.nvila.tiling`.
    min_tiles, max_tiles : int
        Bounds of the tile grid.
    s2_scales : sequence of int, optional
        Sides of the scales of dynamic_s2; the first becomes the tile's side.
    s2_resize_output_to_scale_idx : int
        Which scale's map becomes the tokens.
    """

    model_input_names = ["pixel_values", "block_sizes"]  # noqa: RUF012 - transformers' own convention
    valid_kwargs = NVILAImageProcessorKwargs

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        rescale_factor: float = 0.00392156862745098,
        resample: int = 3,
        do_convert_rgb: bool = True,
        do_resize: bool = True,
        do_rescale: bool = True,
        do_normalize: bool = True,
        image_aspect_ratio: str | None = "resize",
        min_tiles: int = 1,
        max_tiles: int = 12,
        s2_scales: Sequence[int] | None = None,
        s2_resize_output_to_scale_idx: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        side = _side(size or {"height": 448, "width": 448})
        self.image_aspect_ratio = image_aspect_ratio
        self.s2_scales = sorted(s2_scales) if s2_scales else [side, 2 * side, 3 * side]
        if image_aspect_ratio == "dynamic_s2":
            side = self.s2_scales[0]
        self.size = {"height": side, "width": side}
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        check_normalisation(self.image_mean, self.image_std)
        self.rescale_factor = rescale_factor
        self.resample = resample
        self.do_convert_rgb = do_convert_rgb
        self.do_resize = do_resize
        self.do_rescale = do_rescale
        self.do_normalize = do_normalize
        self.min_tiles = min_tiles
        self.max_tiles = max_tiles
        self.s2_resize_output_to_scale_idx = s2_resize_output_to_scale_idx
        check_tiling(min_tiles, max_tiles, self.s2_scales, s2_resize_output_to_scale_idx)

    @property
    def options(self) -> TilingOptions:
        """The tiling rules as the geometry code takes them."""
        multiscale = self.image_aspect_ratio == "dynamic_s2"
        scales = tuple(self.s2_scales) if multiscale else ()
        side = self.size["height"]
        return TilingOptions(
            self.image_aspect_ratio, side, self.min_tiles, self.max_tiles, scales, self.s2_resize_output_to_scale_idx
        )

    def with_settings(self, **settings: Any) -> NVILAImageProcessor:
        """A copy with other settings, those that are None unchanged.

        Parameters
        ----------
        settings
            By the names of the parameters of `NVILAImageProcessor`.

        Raises
        ------
        OptionError
            A setting is not known, or cannot be had.
        """
        given = {name: value for name, value in settings.items() if value is not None and name not in WITHOUT_EFFECT}
        if given.pop("do_resize", True) is False:
            raise OptionError(
                "do_resize=False cannot be had: tiles are squares of one size; resize is what makes them."
            )
        layout = given.pop("data_format", "channels_first")
        if getattr(layout, "value", layout) != "channels_first":
            raise OptionError("data_format cannot be changed: the vision tower takes the channels first.")
        if unknown := sorted(given.keys() - set(SETTINGS)):
            raise OptionError(
                f"The image processor has no option {unknown[0]!r}{nearest(unknown[0], SETTINGS)}; it has {', '.join(SETTINGS)}."
            )
        if "size" in given:
            given["size"] = {"height": _side(given["size"]), "width": _side(given["size"])}
        other = copy.copy(self)
        vars(other).update(given)
        if other.image_aspect_ratio == "dynamic_s2" and other.size["height"] != min(other.s2_scales):
            raise OptionError("Under dynamic_s2 the size of a tile is the smallest of s2_scales; change those instead.")
        return other

    def preprocess(
        self,
        images: Any,
        *,
        tiled: bool | Sequence[bool] | None = None,
        return_tensors: str | None = None,
        input_data_format: Any = None,
        **settings: Any,
    ) -> BatchFeature:
        """Turn pictures into tiles.

        Parameters
        ----------
        images : PIL image, array, tensor, path, address, or (nested) list of them
        tiled : bool or one per picture, optional
            Whether to cut; by default only if there is exactly one picture, as the reference does.
        input_data_format : str, optional
            Where arrays have their channels, "channels_first" or "channels_last"; by default that is found out.
        settings
            Any parameter of `NVILAImageProcessor`, for this call only.

        Returns
        -------
        BatchFeature
            ``pixel_values`` (n_tiles, 3, S, S) float32 and ``block_sizes`` (n_blocks, 2): the (rows, columns) of each
            ``<image>``'s finest grid under dynamic_s2, (0, 0) for a block of one tile.

        Raises
        ------
        PictureError, PictureNotFound, OptionError
        """
        if any(value is not None for value in settings.values()):
            return self.with_settings(**settings).preprocess(
                images, tiled=tiled, return_tensors=return_tensors, input_data_format=input_data_format
            )
        pictures = flatten_pictures(images, input_data_format)
        alone = len(pictures) == 1 if tiled is None else tiled
        cuts = [alone] * len(pictures) if isinstance(alone, bool) else alone
        tiles: list[np.ndarray] = []
        block_sizes: list[tuple[int, int]] = []
        for picture, cut in zip(pictures, cuts, strict=True):
            new_tiles, new_blocks = self.cut(picture, tiled=cut)
            tiles.extend(new_tiles)
            block_sizes.extend(new_blocks)
        side = self.size["height"]
        pixel_values = np.stack(tiles) if tiles else np.zeros((0, 3, side, side), np.float32)
        data = {"pixel_values": pixel_values, "block_sizes": np.array(block_sizes, dtype=np.int64).reshape(-1, 2)}
        return BatchFeature(data, tensor_type=return_tensors)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        return self.preprocess(images, *args, **kwargs)

    def cut(self, picture: Image.Image, *, tiled: bool) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """Normalised tiles of one picture, and the block size of each of its ``<image>`` markers."""
        image = picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy it
        crops = plan_crops(*image.size, self.options, tiled=tiled)
        if len(crops) == 1 and crops[0].tiles == 1 and self.image_aspect_ratio == "pad":
            image = self._pad_to_square(image)
        tiles = [self._normalise(tile) for crop in crops for tile in self._crop_tiles(image, crop)]
        if tiled and self.options.is_multiscale:
            return tiles, [(crops[-1].rows, crops[-1].columns)]
        return tiles, [WHOLE_PICTURE] * len(tiles)

    def _crop_tiles(self, image: Image.Image, crop: Crop) -> list[Image.Image]:
        side = self.size["height"]
        canvas = image.resize((side * crop.columns, side * crop.rows), Image.Resampling(self.resample))
        if crop.tiles == 1:
            return [canvas]
        corners = [(column * side, row * side) for row in range(crop.rows) for column in range(crop.columns)]
        return [canvas.crop((left, top, left + side, top + side)) for left, top in corners]

    def _pad_to_square(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        side = max(width, height)
        background = tuple(int(mean * 255) for mean in self.image_mean)
        square = Image.new("RGB", (side, side), background)
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        return square

    def _normalise(self, tile: Image.Image) -> np.ndarray:
        values = np.asarray(tile)
        if self.do_rescale:
            values = values * self.rescale_factor  # float64, as in the reference
        values = values.astype(np.float32)
        if self.do_normalize:
            values = (values - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Read an image processor that was saved by itself or with its processor, or that of a checkpoint in any layout.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            A folder, or a hub id.
        kwargs
            Settings to overrule, and transformers' own arguments.
        """
        if saved_here(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = find_checkpoint(pretrained_model_name_or_path, revision=kwargs.get("revision"), weights=False)
        if saved_here(folder.root):
            return super().from_pretrained(folder.root, **kwargs)
        found = cls.from_folder(folder, NVILAConfig.from_pretrained(folder.root))
        return found.with_settings(**{name: value for name, value in kwargs.items() if name in SETTINGS})

    @classmethod
    def from_folder(cls, folder: CheckpointFolder, config: NVILAConfig) -> NVILAImageProcessor:
        """Build from the places of a checkpoint: normalisation from the tower's file, tiling from the root configuration."""
        side = int(config.vision_config.image_size)
        values: dict[str, Any] = {"size": {"height": side, "width": side}}
        path = folder.vision_tower / "preprocessor_config.json"
        if path.is_file():
            read = read_json(path)
            known = ("size", "image_mean", "image_std", "rescale_factor", "resample")
            values |= {key: read[key] for key in known if read.get(key) is not None}
        if "height" not in values["size"]:
            values["size"] = {"height": side, "width": side}
        return cls(
            **values,
            image_aspect_ratio=config.image_aspect_ratio,
            min_tiles=config.min_tiles,
            max_tiles=config.max_tiles,
            s2_scales=config.s2_scales,
            s2_resize_output_to_scale_idx=config.s2_resize_output_to_scale_idx,
        )

    def to_siglip_dict(self) -> dict[str, Any]:
        """The ``preprocessor_config.json`` that any reader of the three-folder layout understands."""
        return {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "resample": self.resample,
            "rescale_factor": self.rescale_factor,
            "size": self.size,
        }


def saved_here(source: Any) -> bool:
    """Whether a folder holds the files of an image processor that this package wrote, by itself or in its processor's."""
    for name in FILES:
        path = Path(source).expanduser() / name
        if path.is_file() and _is_ours(read_json(path)):
            return True
    return False


def _is_ours(content: Mapping[str, Any]) -> bool:
    part = content.get("image_processor", content)
    return isinstance(part, Mapping) and part.get("image_processor_type") == NVILAImageProcessor.__name__


def flatten_pictures(images: Any, input_data_format: Any = None) -> list[Image.Image]:
    """One flat list of PIL pictures from a picture, an array, a batch of either, or lists of them.

    Raises
    ------
    PictureError, PictureNotFound, PromptError
        An item is no picture.
    """
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [picture for item in images for picture in flatten_pictures(item, input_data_format)]
    if getattr(images, "ndim", 0) == 4:
        return [picture for item in images for picture in flatten_pictures(item, input_data_format)]
    if isinstance(images, Image.Image):
        return [images]
    return [Picture.of(_as_announced(images, input_data_format)).image]


def _as_announced(picture: Any, input_data_format: Any) -> Any:
    """An array with its channels where `Picture.of` looks first: last in an array, first in a tensor."""
    name = getattr(input_data_format, "value", input_data_format)
    if name not in (None, "channels_first", "channels_last", "none"):
        raise OptionError(f"input_data_format {name!r} is unknown; use 'channels_first' or 'channels_last'.")
    if getattr(picture, "ndim", 0) != 3 or name not in ("channels_first", "channels_last"):
        return picture
    if isinstance(picture, torch.Tensor):
        return picture.permute(2, 0, 1) if name == "channels_last" else picture
    return picture.transpose(1, 2, 0) if name == "channels_first" else picture


def _side(size: Any) -> int:
    """The side of a tile from what transformers takes for a size."""
    if isinstance(size, Mapping) or hasattr(size, "height"):
        height, width = (
            size.get(key) if isinstance(size, Mapping) else getattr(size, key) for key in ("height", "width")
        )
    else:
        height, width = (size, size) if isinstance(size, int) else tuple(size)
    if not height or height != width:
        raise OptionError(f"size={size!r} is no tile; give the same height and width.")
    return int(height)


AutoImageProcessor.register(NVILAConfig, slow_image_processor_class=NVILAImageProcessor, exist_ok=True)
