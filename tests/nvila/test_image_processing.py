"""Pictures become the tiles that the mode asks for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor

SIZE = {"height": 56, "width": 56}


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def plain(image: Image.Image) -> np.ndarray:
    """The normalisation, written another way."""
    return (np.asarray(image).astype(np.float64) / 255 * 2 - 1).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["resize", None, "something_else"])
def test_one_squashed_tile(mode: str | None) -> None:
    picture = noise(90, 31)
    out = NVILAImageProcessor(SIZE, image_aspect_ratio=mode)(picture)
    np.testing.assert_allclose(
        out["pixel_values"][0], plain(picture.resize((56, 56), Image.Resampling.BICUBIC)), atol=1e-6
    )
    assert out["block_sizes"].tolist() == [[0, 0]]


def test_pad_centres_on_grey() -> None:
    picture = noise(57, 20)
    square = Image.new("RGB", (57, 57), (127, 127, 127))
    square.paste(picture, (0, 18))
    out = NVILAImageProcessor(SIZE, image_aspect_ratio="pad")([picture, picture])
    np.testing.assert_allclose(
        out["pixel_values"][1], plain(square.resize((56, 56), Image.Resampling.BICUBIC)), atol=1e-6
    )


def test_dynamic_cuts_row_by_row_and_appends_the_whole() -> None:
    picture = noise(112, 112)
    out = NVILAImageProcessor(SIZE, image_aspect_ratio="dynamic")(picture)
    side = round((len(out["pixel_values"]) - 1) ** 0.5)
    canvas = plain(picture.resize((56 * side, 56 * side), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(out["pixel_values"][1], canvas[:, :56, 56:112], atol=1e-6)
    np.testing.assert_allclose(
        out["pixel_values"][-1], plain(picture.resize((56, 56), Image.Resampling.BICUBIC)), atol=1e-6
    )
    assert len(out["block_sizes"]) == len(out["pixel_values"])


def test_multiscale_tiles_and_block_size() -> None:
    processor = NVILAImageProcessor(SIZE, image_aspect_ratio="dynamic_s2", s2_scales=[56, 112, 168])
    out = processor(noise(200, 100))
    rows, columns = out["block_sizes"][0]
    assert len(out["pixel_values"]) == 1 + 4 + rows * columns


@pytest.mark.parametrize("mode", ["dynamic", "dynamic_s2"])
def test_several_pictures_are_cut_only_on_request(mode: str) -> None:
    processor = NVILAImageProcessor(SIZE, image_aspect_ratio=mode)
    pictures = [noise(200, 100), noise(60, 60)]
    assert processor(pictures)["pixel_values"].shape == (2, 3, 56, 56)
    together = processor(pictures, tiled=True)["pixel_values"]
    np.testing.assert_array_equal(together, np.concatenate([processor(each)["pixel_values"] for each in pictures]))


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        *((mode, (20000, 10)) for mode in ("resize", "dynamic", "dynamic_s2")),
        *((mode, size) for mode in ("resize", "pad", "dynamic", "dynamic_s2") for size in ((1, 1), (3, 700))),
    ],
)
def test_extreme_sizes(mode: str, size: tuple[int, int]) -> None:
    out = NVILAImageProcessor(SIZE, image_aspect_ratio=mode)(Image.new("RGB", size, (255, 0, 0)))
    assert np.isfinite(out["pixel_values"]).all()
    assert out["pixel_values"].shape[1:] == (3, 56, 56)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1"])
def test_other_colour_modes_convert_plainly(mode: str) -> None:
    picture = noise(40, 40).convert(mode)
    processor = NVILAImageProcessor(SIZE)
    np.testing.assert_array_equal(processor(picture)["pixel_values"], processor(picture.convert("RGB"))["pixel_values"])
