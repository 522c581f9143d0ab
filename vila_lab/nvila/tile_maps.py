"""Maps of features over a picture, and the tiles they are cut into. Knows shapes, no model and no pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def merge_tiles(
    features: Tensor, rows: int, columns: int
) -> Tensor:  # (rows * columns, g * g, C) -> (rows * g, columns * g, C)
    side = int(features.shape[1] ** 0.5)
    tiles = features.reshape(rows, columns, side, side, -1)
    return tiles.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, -1)


def split_tiles(
    merged: Tensor, rows: int, columns: int
) -> Tensor:  # (rows * g, columns * g, C) -> (rows * columns, g * g, C)
    height, width, channels = merged.shape
    tiles = merged.reshape(rows, height // rows, columns, width // columns, channels)
    return tiles.permute(0, 2, 1, 3, 4).reshape(rows * columns, -1, channels)


def area_resize(each: Tensor, size: torch.Size) -> Tensor:  # (h, w, C) -> (*size, C), averaged in float32
    resized = F.interpolate(each.permute(2, 0, 1).float().unsqueeze(0), size=tuple(size), mode="area")
    return resized[0].to(each.dtype).permute(1, 2, 0)
