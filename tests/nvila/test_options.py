"""Options of a processor's call are honoured, or refused by name; none is swallowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vila_lab.errors import OptionError, PromptError
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor
from vila_lab.nvila.options import IMAGES, REFUSED, TEXT

TEXTS = ["<image>What is it?", "And <image> or <image>, which?"]


@pytest.fixture
def processor(load: Any) -> Any:
    return load("nvila-resize")[1]


@pytest.fixture
def pictures(open_picture: Any) -> list[list[Image.Image]]:
    return [[open_picture("a_land.png")], [open_picture("b_port.png"), open_picture("g_gray.png")]]


def test_padding(processor: Any, pictures: Any) -> None:
    longest = processor(text=TEXTS, images=pictures)["input_ids"].shape[1]
    assert processor(text=TEXTS, images=pictures, padding=True)["input_ids"].shape[1] == longest
    padded = processor(text=TEXTS, images=pictures, padding="max_length", max_length=longest + 9)
    assert padded["input_ids"].shape == padded["attention_mask"].shape == (2, longest + 9)
    assert processor(text=TEXTS, images=pictures, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    ragged = processor(text=TEXTS, images=pictures, padding=False, return_tensors=None)["input_ids"]
    assert len(ragged[0]) < len(ragged[1]) == longest
    with pytest.raises(OptionError, match="make no tensor"):
        processor(text=TEXTS, images=pictures, padding=False)


def test_one_prompt_in_parts_takes_them_too(processor: Any, pictures: Any) -> None:
    assert processor([pictures[0][0], "Q"], padding="max_length", max_length=150)["input_ids"].shape == (1, 150)


def test_truncation_cuts_text_and_no_picture(processor: Any, pictures: Any) -> None:
    whole = processor(text=TEXTS[0], images=pictures[0])["input_ids"]
    cut = processor(text=TEXTS[0], images=pictures[0], truncation=True, max_length=whole.shape[1] - 2)["input_ids"]
    assert torch.equal(cut, whole[:, :-2])
    with pytest.raises(PromptError, match=r"truncation to 3 of \d+ positions would cut a picture"):
        processor(text=TEXTS[0], images=pictures[0], truncation=True, max_length=3)
    assert processor(text=TEXTS[0], images=pictures[0], max_length=3)["input_ids"].shape == whole.shape


def test_what_else_can_be_returned(processor: Any, pictures: Any) -> None:
    batch = processor(
        text=TEXTS, images=pictures, return_mm_token_type_ids=True, return_offsets_mapping=True, return_length=True,
        return_attention_mask=False,
    )  # fmt: skip
    assert "attention_mask" not in batch
    assert torch.equal(batch["mm_token_type_ids"].bool(), batch["input_ids"] == processor.image_token_id)
    assert batch["offset_mapping"].shape == (*batch["input_ids"].shape, 2)
    start, stop = batch["offset_mapping"][1, -1].tolist()
    assert TEXTS[1][start:stop] == "?"
    assert batch["length"].max() == batch["input_ids"].shape[1]


@pytest.mark.parametrize("how", ["flat", "grouped"])
def test_picture_settings_of_a_call(processor: Any, pictures: Any, how: str) -> None:
    settings = {"image_mean": [0.1, 0.2, 0.3], "rescale_factor": -1.0, "do_normalize": False}
    given = settings if how == "flat" else {"images_kwargs": settings}
    pixels = processor(text=TEXTS[0], images=pictures[0], **given)["pixel_values"]
    side = processor.image_processor.size["height"]
    plain = np.asarray(pictures[0][0].convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    torch.testing.assert_close(pixels[0], -torch.from_numpy(plain.transpose(2, 0, 1)))
    assert processor.image_processor.do_normalize, "a call leaves the processor as it is"


@pytest.mark.parametrize(
    ("options", "tiles"),
    [({}, None), ({"max_tiles": 2}, 3), ({"image_aspect_ratio": "resize"}, 1), ({"tiled": True}, None)],
)
def test_the_tiles_of_a_call(load: Any, pictures: Any, options: dict[str, Any], tiles: int | None) -> None:
    """Settings that change the number of tiles change the places for them too."""
    model, processor = load("nvila-lite")
    batch = processor(text=TEXTS[0], images=pictures[0], **options)
    assert tiles is None or len(batch["pixel_values"]) == tiles
    assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1]


def test_what_the_tokenizer_was_loaded_with_holds(goldens: Any, pictures: Any) -> None:
    from vila_lab.nvila.processing_nvila import NVILAProcessor

    processor = NVILAProcessor.from_pretrained(goldens / "checkpoints" / "nvila-resize")
    processor.tokenizer.init_kwargs |= {"padding": "max_length", "max_length": 170}
    assert processor(text=TEXTS, images=pictures)["input_ids"].shape == (2, 170)
    assert processor(text=TEXTS, images=pictures, padding="longest")["input_ids"].shape[1] < 170


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": 1}, "no option 'foo'"),
        ({"text_kwargs": {"foo": 1}}, "text_kwargs has no option 'foo'"),
        ({"images_kwargs": {"padding": True}}, "images_kwargs has no option 'padding'"),
        ({"text_kwargs": {"padding": True}, "padding": "max_length"}, "padding stands both"),
        ({"images_kwargs": {"resample": 2}, "resample": 3}, "resample stands both"),
        ({"padding": "widest"}, "padding='widest' is unknown"),
        ({"truncation": "only_second"}, "truncation='only_second' is unknown"),
        ({"padding_side": "top"}, "padding_side 'top'"),
        ({"max_length": 0, "padding": "max_length"}, "max_length must be a whole number"),
        ({"max_length": True}, "max_length must be a whole number"),
        ({"do_resize": False}, "do_resize=False cannot be had"),
        ({"data_format": "channels_last"}, "data_format"),
        ({"input_data_format": "sideways"}, "input_data_format 'sideways'"),
        ({"size": {"height": 56, "width": 112}}, "is no tile"),
        ({"do_center_crop": True}, "no option 'do_center_crop'"),
        ({"conv_mode": "plain"}, "conv_mode"),
        *(({name: True if name != "stride" else 3}, f"{name} cannot be had") for name in REFUSED),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(
    processor: Any, pictures: Any, options: dict[str, Any], words: str
) -> None:
    if set(options) <= REFUSED.keys() and not set(options) <= TEXT:
        pytest.skip("a later transformers has this option")
    images = [[np.asarray(pictures[0][0].convert("RGB"))]]
    with pytest.raises(OptionError, match=words):
        processor(text=TEXTS[:1], images=images, **options)


def test_options_for_other_kinds_are_named(processor: Any, pictures: Any) -> None:
    with pytest.warns(UserWarning, match="num_frames: only for videos"):
        processor(text=TEXTS[0], images=pictures[0], num_frames=2, fps=None)
    with pytest.warns(UserWarning, match="sampling_rate"):
        processor(text=TEXTS[0], images=pictures[0], audio_kwargs={"sampling_rate": 16000})


def test_no_text_option_is_unheard_of(processor: Any, pictures: Any) -> None:
    """Every name that transformers has for texts and pictures is honoured or refused here, not unknown."""
    from vila_lab.nvila.image_processing_nvila import SETTINGS, WITHOUT_EFFECT
    from vila_lab.nvila.options import TextOptions

    others = {"return_tensors", "verbose"}
    assert TEXT - REFUSED.keys() - set(TextOptions.__annotations__) - others == set()
    handled = {"return_tensors", "do_resize", "data_format", "input_data_format", "tiled", *SETTINGS, *WITHOUT_EFFECT}
    for name in IMAGES - handled:
        with pytest.raises(OptionError, match=name):
            processor(text=TEXTS[0], images=pictures[0], **{name: 1})


def test_no_prompt(processor: Any) -> None:
    with pytest.raises(PromptError, match="There is no prompt"):
        processor()


def test_pictures_alone(processor: Any, pictures: Any) -> None:
    batch = processor(images=pictures[1])
    assert set(batch) == {"pixel_values", "block_sizes"}
    assert torch.equal(
        batch["pixel_values"], processor.image_processor(pictures[1], return_tensors="pt")["pixel_values"]
    )


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (lambda a: a, {}),
        (lambda a: a.transpose(2, 0, 1), {}),
        (as_tensor, {}),
        (lambda a: as_tensor(a).float() / 255, {}),
        (lambda a: torch.tensor(a), {"input_data_format": "channels_last"}),
        (lambda a: a.transpose(2, 0, 1), {"input_data_format": "channels_first"}),
        (lambda a: np.stack([a, a]), {}),
        (lambda a: [as_tensor(a), Image.fromarray(a)], {}),
    ],
)
def test_arrays_and_tensors_are_pictures(form: Any, options: dict[str, Any], open_picture: Any) -> None:
    array = np.asarray(open_picture("a_land.png").convert("RGB"))
    cutter = NVILAImageProcessor({"height": 56, "width": 56})
    pixels = cutter(form(array), return_tensors="np", **options)["pixel_values"]
    for tile in pixels:
        np.testing.assert_array_equal(tile, cutter(Image.fromarray(array))["pixel_values"][0])


def test_narrow_arrays_go_by_what_is_said() -> None:
    """Three pixels wide: both ends could be the channels."""
    array = np.arange(3 * 8 * 3, dtype=np.uint8).reshape(3, 8, 3)
    cutter = NVILAImageProcessor({"height": 56, "width": 56})
    first, last = (cutter(array, input_data_format=f"channels_{name}")["pixel_values"] for name in ("first", "last"))
    assert not np.array_equal(first, last)
    np.testing.assert_array_equal(
        first, cutter(array.transpose(1, 2, 0), input_data_format="channels_last")["pixel_values"]
    )
