"""From vision features to the language model's width: down-sampling and the projector types. Knows no pictures.

The types and their parameter names are those of the public checkpoints, so that their files load unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vila_lab.errors import CheckpointError

MERGE = {
    "mlp_downsample": 2,
    "mlp_downsample_2x2_fix": 2,
    "mlp_downsample_3x3_fix": 3,
    "mlp_downsample_3x3_s2": 3,
    "mlp_downsample_3x3_s2_new": 3,
}
KNOWN = ("linear", "identity", "mlpNx_gelu", *MERGE)


def merge_of(kind: str) -> int:
    """Patches per token along one side."""
    return MERGE.get(kind, 1)


class DownSample(nn.Module):
    """Concatenate each n x n neighbourhood of a square patch grid on channels.

    The grid is padded with zeros at the bottom and right. In a cell the rows are outer, the columns inner.

    Parameters
    ----------
    n : int
        Side of the neighbourhood.
    transposed : bool
        Emit the tokens column by column, as the reference did before December 2024.
    """

    def __init__(self, n: int, transposed: bool = False) -> None:
        super().__init__()
        self.n = n
        self.transposed = transposed

    def forward(self, features: Tensor) -> Tensor:  # (B, g * g, C) -> (B, G * G, n * n * C)
        batch, count, channels = features.shape
        side = math.isqrt(count)
        pad = -side % self.n
        grid = F.pad(features.reshape(batch, side, side, channels), (0, 0, 0, pad, 0, pad))
        cells = (side + pad) // self.n
        grid = grid.reshape(batch, cells, self.n, cells, self.n, channels)
        order = (0, 3, 1, 2, 4, 5) if self.transposed else (0, 1, 3, 2, 4, 5)
        return grid.permute(order).reshape(batch, cells * cells, self.n * self.n * channels)


class Projector(nn.Module):
    """One of the projector types; all parameters live in `layers`."""

    def __init__(self, kind: str, layers: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:  # (B, g * g, C) -> (B, G * G, H)
        return torch.as_tensor(self.layers(features))


def build_projector(kind: str, mm_hidden_size: int, hidden_size: int, *, transposed: bool = False) -> Projector:
    """Build a projector by the name that checkpoints use.

    Parameters
    ----------
    kind : str
        ``mm_projector_type``: linear, identity, mlpNx_gelu, mlp_downsample and its variants.
    mm_hidden_size : int
        Channels of the vision features, all scales together.
    hidden_size : int
        Width of the language model.
    transposed : bool
        See `DownSample`.

    Raises
    ------
    CheckpointError
        The name is not known.

    >>> sorted(build_projector("mlp_downsample", 8, 16).state_dict())[:2]
    ['layers.1.bias', 'layers.1.weight']
    """
    if kind == "linear":
        return Projector(kind, nn.Linear(mm_hidden_size, hidden_size))
    if kind == "identity":
        return Projector(kind, nn.Identity())
    if depth := _mlp_depth(kind):
        return Projector(kind, _mlp([mm_hidden_size, *[hidden_size] * depth]))
    if kind not in MERGE:
        raise CheckpointError(f"Projector type {kind!r} is not supported; supported are {', '.join(KNOWN)}.")
    return Projector(kind, _down_sampled(kind, mm_hidden_size, hidden_size, transposed))


def _mlp_depth(kind: str) -> int:
    if kind.startswith("mlp") and kind.endswith("x_gelu") and kind[3:-6].isdigit():
        return int(kind[3:-6])
    return 0


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        layers += [nn.GELU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)


def _down_sampled(kind: str, mm: int, hidden: int, transposed: bool) -> nn.Sequential:
    narrowing: Mapping[str, list[int]] = {
        "mlp_downsample_3x3_fix": [3 * mm],
        "mlp_downsample_3x3_s2": [3 * mm, mm, mm // 3],
        "mlp_downsample_3x3_s2_new": [4 * mm, 2 * mm, mm, mm // 3],
    }
    n = MERGE[kind]
    layers: list[nn.Module] = [DownSample(n, transposed)]
    width = n * n * mm
    for after in [*narrowing.get(kind, []), hidden]:
        layers += [nn.LayerNorm(width), nn.Linear(width, after), nn.GELU()]
        width = after
    return nn.Sequential(*layers, nn.Linear(hidden, hidden))


def projector_kind(shapes: Mapping[str, tuple[int, ...]], vision_width: int) -> tuple[str, int] | None:
    """Tell the type and ``mm_hidden_size`` of a projector from its parameters' shapes, for files that do not name it.

    Parameters
    ----------
    shapes : mapping
        ``layers.1.weight`` and so on to shape.
    vision_width : int
        Channels of one scale of the vision tower.

    Returns
    -------
    (kind, mm_hidden_size), or None if the shapes fit no down-sampling type.
    """
    norm = shapes.get("layers.1.weight", ())
    if len(norm) != 1:
        return None
    for kind, n in MERGE.items():
        mm, rest = divmod(norm[0], n * n)
        if rest or mm % vision_width:
            continue
        with torch.device("meta"):
            expected = _down_sampled(
                kind, mm, shapes.get("layers.2.weight", (0,))[0] if n == 2 else _last_width(shapes), False
            )
        if {f"layers.{name}": tuple(p.shape) for name, p in expected.named_parameters()} == dict(shapes):
            return kind, mm
    return None


def _last_width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    last = max((name for name in shapes if name.endswith(".bias")), key=lambda name: int(name.split(".")[1]))
    return shapes[last][0]
