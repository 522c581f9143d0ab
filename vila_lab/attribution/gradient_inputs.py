"""What a gradient is taken with respect to: the pictures' embeddings or their pixels, all pictures at once. Knows no score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..engine.replay import Replay
from ..errors import OptionError
from ..families.base import Embedded
from ..options import nearest
from .choices import On
from .features import REMOVE, baseline_name, baseline_picture, check_pictures, is_visual

ON: tuple[str, ...] = get_args(On)


@dataclass(frozen=True, eq=False)
class GradientInputs:
    """Inputs of one prompt, in a batch of one as captum wants them.

    Attributes
    ----------
    value, baseline : Tensor (1, ...)
    prompt : callable
        From one item of a batch to what the decoder is given of the prompt, differentiably.
    by_position : callable
        From an attribution of the value's shape to one number per prompt position, (P,), keeping the sum.
    """

    value: Tensor
    baseline: Tensor
    prompt: Callable[[Tensor], Embedded]
    by_position: Callable[[Tensor], NDArray[np.float64]]


def inputs_of(replay: Replay, on: str, baseline: Any) -> GradientInputs:
    """The pictures as gradients see them.

    Parameters
    ----------
    on
        "embeddings" (the visual tokens that the projector hands to the decoder) or "pixels".
    baseline
        Where the path of integrated gradients begins: "mean", "grey", "blur" or a picture.

    Raises
    ------
    OptionError
        If an option is unknown, or pixels cannot be told apart by token (several scales).
    """
    check_pictures(replay)
    if on not in ON:
        raise OptionError(f"unknown on={on!r}{nearest(on, ON)}; known: {', '.join(ON)}")
    if baseline_name(baseline) == REMOVE:
        raise OptionError(
            "a gradient's path needs a picture to begin at, so baseline='remove' is not one: take mean, grey, blur or a picture"
        )
    images = {k: baseline_picture(image, baseline) for k, image in enumerate(replay.prompt.images)}
    return _embeddings(replay, images) if on == "embeddings" else _pixels(replay, images)


def _embeddings(replay: Replay, images: dict[int, Any]) -> GradientInputs:
    visual = is_visual(replay.token_map)
    asked = replay.embedded

    def prompt(item: Tensor) -> Embedded:
        return asked.with_features(item, visual)

    def by_position(found: Tensor) -> NDArray[np.float64]:
        values = np.zeros(replay.prompt_length)
        values[visual] = found[0].double().sum(-1).cpu().numpy()
        return values

    covered = replay.with_pictures(images)
    return GradientInputs(asked.features[visual][None], covered.features[visual][None], prompt, by_position)


def _pixels(replay: Replay, images: dict[int, Any]) -> GradientInputs:
    prepared, name = replay.prepared, replay.family.pixels
    pixels = prepared.inputs[name]  # (tiles, 3, S, S)
    owner = _token_of_pixel(replay, len(pixels), pixels.shape[-1])  # (tiles, S, S)

    def prompt(item: Tensor) -> Embedded:
        return replay.family.embed(replace(prepared, inputs={**prepared.inputs, name: item}))

    def by_position(found: Tensor) -> NDArray[np.float64]:
        each = found[0].double().sum(1).cpu().numpy()  # (tiles, S, S)
        found_at = np.bincount(owner.ravel(), weights=each.ravel(), minlength=replay.prompt_length)
        return found_at.astype(np.float64)

    return GradientInputs(pixels[None], replay.prepare_with(images).inputs[name][None], prompt, by_position)


def _token_of_pixel(replay: Replay, tiles: int, side: int) -> NDArray[np.int64]:
    """For each pixel of each tile the position of the visual token made from it.  # (tiles, S, S)"""
    token_map = replay.token_map
    visual = is_visual(token_map)
    order = dict.fromkeys(zip(token_map.picture[visual].tolist(), token_map.tile[visual].tolist(), strict=True))
    if not replay.family.tiles_are_whole or len(order) != tiles:
        raise OptionError(
            "on='pixels' needs a model that makes its tokens from square tiles of one scale; this one packs patches, pads tiles or "
            "merges scales: take on='embeddings'"
        )
    owner = np.zeros((tiles, side, side), np.int64)
    centres = (np.arange(side) + 0.5) / side
    for index, (picture, tile) in enumerate(order):
        mine = visual[(token_map.picture[visual] == picture) & (token_map.tile[visual] == tile)]
        boxes = token_map.box[mine]
        left, top, right, bottom = boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max()
        x, y = left + centres * (right - left), top + centres * (bottom - top)
        across = (boxes[:, [0]] <= x) & (x <= boxes[:, [2]])  # (tokens, S)
        down = (boxes[:, [1]] <= y) & (y <= boxes[:, [3]])  # (tokens, S)
        owner[index] = mine[(down[:, :, None] & across[:, None, :]).argmax(0)]
    return owner
