"""Each projector type has the public parameter names, and down-sampling keeps the order of cells."""

from __future__ import annotations

import pytest
import torch

from vila_lab.errors import CheckpointError
from vila_lab.nvila.modeling_nvila import build_projector
from vila_lab.nvila.projector import DownSample, merge_of, projector_kind

SHAPES = {
    "linear": {"layers.weight": (12, 6), "layers.bias": (12,)},
    "identity": {},
    "mlp2x_gelu": {"layers.0.weight": (12, 6), "layers.2.weight": (12, 12)},
    "mlp_downsample": {"layers.1.weight": (24,), "layers.2.weight": (12, 24), "layers.4.weight": (12, 12)},
    "mlp_downsample_2x2_fix": {"layers.1.weight": (24,), "layers.2.weight": (12, 24), "layers.4.weight": (12, 12)},
    "mlp_downsample_3x3_fix": {
        "layers.1.weight": (54,), "layers.2.weight": (18, 54), "layers.4.weight": (18,), "layers.5.weight": (12, 18), "layers.7.weight": (12, 12),
    },
    "mlp_downsample_3x3_s2": {
        "layers.1.weight": (54,), "layers.2.weight": (18, 54), "layers.4.weight": (18,), "layers.5.weight": (6, 18), "layers.7.weight": (6,),
        "layers.8.weight": (2, 6), "layers.10.weight": (2,), "layers.11.weight": (12, 2), "layers.13.weight": (12, 12),
    },
    "mlp_downsample_3x3_s2_new": {
        "layers.1.weight": (54,), "layers.2.weight": (24, 54), "layers.4.weight": (24,), "layers.5.weight": (12, 24), "layers.7.weight": (12,),
        "layers.8.weight": (6, 12), "layers.10.weight": (6,), "layers.11.weight": (2, 6), "layers.13.weight": (2,), "layers.14.weight": (12, 2),
        "layers.16.weight": (12, 12),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_parameters_and_output(kind: str) -> None:
    projector = build_projector(kind, 6, 12)
    weights = {name: tuple(value.shape) for name, value in projector.state_dict().items() if name.endswith("weight")}
    assert weights == {name: shape for name, shape in SHAPES[kind].items() if name.endswith("weight")}
    side = -(-7 // merge_of(kind))
    out = projector(torch.randn(2, 49, 6))
    assert out.shape == (2, side * side, 6 if kind == "identity" else 12)


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind.startswith("mlp_downsample")])
def test_type_is_read_off_the_shapes(kind: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in build_projector(kind, 6, 12).state_dict().items()}
    found = projector_kind(shapes, 6)
    assert found is not None
    assert found[1] == 6
    assert found[0] == (
        "mlp_downsample" if kind == "mlp_downsample_2x2_fix" else kind
    )  # these two are the same function


@pytest.mark.parametrize("kind", ["mlp_downsample_fix", "resampler", "mlpx_gelu", ""])
def test_unknown_type(kind: str) -> None:
    with pytest.raises(CheckpointError, match="supported are linear"):
        build_projector(kind, 6, 12)


@pytest.mark.parametrize("n", [2, 3])
def test_down_sample_by_hand(n: int) -> None:
    side, channels = 7, 5
    features = torch.randn(1, side * side, channels)
    grid = features.reshape(side, side, channels)
    cells = -(-side // n)
    out = DownSample(n)(features).reshape(cells, cells, n, n, channels)
    for row in range(cells):
        for column in range(cells):
            for dr in range(n):
                for dc in range(n):
                    r, c = row * n + dr, column * n + dc
                    expected = grid[r, c] if r < side and c < side else torch.zeros(channels)
                    assert torch.equal(out[row, column, dr, dc], expected)


def test_transposed_exchanges_rows_and_columns_of_tokens() -> None:
    features = torch.randn(2, 64, 3)
    straight, turned = (DownSample(2, flag)(features).reshape(2, 4, 4, 12) for flag in (False, True))
    assert torch.equal(turned, straight.transpose(1, 2))
