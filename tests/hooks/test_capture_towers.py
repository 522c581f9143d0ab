"""Vision towers, and models that hold a tower and a decoder: every module is found, named and kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks import Capture, Tape
from vila_lab.hooks.towers import find_sites
from vila_lab.nvila.checkpoint import load_checkpoint

CHECKPOINTS = Path(__file__).parents[1] / "goldens" / "checkpoints"
PICTURES = CHECKPOINTS.parent / "images"
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 12, "patch_size": 4,
}  # fmt: skip
EXACT = 1e-5


def sharpen(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
    return model.eval()


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def both():
    """A CLIP tower and a Qwen2 decoder in one model; one picture is 9 positions."""
    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=95)
    return sharpen(LlavaForConditionalGeneration(config))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_tiles_are_the_batch_axis_of_a_vision_tower(attn, pixels):
    torch.manual_seed(0)
    model = sharpen(SiglipVisionModel(SiglipVisionConfig(**VISION, attn_implementation=attn)))
    with torch.no_grad():
        plain = model(pixels).last_hidden_state
        with Capture(model, towers=["vision"]) as tape:
            first = model(pixels[:2]).last_hidden_state
            second = model(pixels[2:]).last_hidden_state
        model.set_attn_implementation("eager")
        reference = model(pixels, output_attentions=True).attentions
    torch.testing.assert_close(torch.cat([first, second]), plain, rtol=0, atol=1e-5)  # another batch, another rounding
    assert (tape.tower, tape.n_items, tape.n_layers, tape.n_rows) == ("vision", 3, 2, 9)
    for layer in range(2):
        for tile in range(3):
            weights = tape.weights(layer, item=tile)
            torch.testing.assert_close(weights, reference[layer][tile].transpose(0, 1), rtol=0, atol=EXACT)
            torch.testing.assert_close(weights.sum(-1), torch.ones(9, 4), rtol=0, atol=1e-6)
    assert weights.triu(1).abs().max() > 0.1, "patches look both ways"
    with pytest.raises(OptionError, match="generates no tokens"):
        tape.finish(1)


def test_a_tower_without_pictures_is_noticed(both):
    def text_only():
        both.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False, pad_token_id=0)

    with pytest.raises(CaptureError, match="at least one picture"), Capture(both, towers=["text", "vision"]):
        text_only()


def test_tiles_of_different_sizes_are_refused(pixels):
    model = SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()

    def two_sizes():
        model(pixels)
        model(torch.randn(1, 3, 16, 16), interpolate_pos_encoding=True)

    with torch.no_grad(), pytest.raises(CaptureError, match="different sizes"), Capture(model, towers=["vision"]):
        two_sizes()


def test_every_attention_module_has_a_tower_and_a_layer(both):
    sites = [(site.tower, site.layer) for site in find_sites(both)]
    assert sorted(sites) == [("text", 0), ("text", 1), ("text", 2), ("vision", 0), ("vision", 1)]


@pytest.mark.parametrize("towers", [("text",), ("vision",), ("text", "vision"), ("vision", "text")])
def test_towers_are_recorded_on_request(towers, both, pixels, tmp_path):
    ids = torch.tensor([[5, 95, 95, 95, 95, 95, 95, 95, 95, 95, 7, 8]])
    inputs = {"input_ids": ids, "pixel_values": pixels[:1], "attention_mask": torch.ones_like(ids)}
    inputs |= {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = both.generate(**inputs)
    with Capture(both, towers=towers) as tape:
        out = both.generate(**inputs)
    assert torch.equal(out, plain)
    assert tape.tower == towers[0]
    again = Tape.load(tape.save(tmp_path / "both.safetensors"))
    for tower in towers:
        one = tape.tower_tape(tower)
        assert one.n_layers == {"text": 3, "vision": 2}[tower]
        assert torch.equal(again.tower_tape(tower).weights(0), one.weights(0))
    if "text" in towers:
        assert tape.tower_tape("text").finish(4, ids.shape[1]).n_rows == 4
    for tower in {"text", "vision"} - set(towers):
        with pytest.raises(OptionError, match="was not captured"):
            tape.tower_tape(tower)


@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.glob("*")) or [None])
def test_nvila_checkpoints(name):
    """The decoder and the tower of each checkpoint layout, found without knowing the family."""
    if name is None:
        pytest.skip("the golden checkpoints are not in this checkout")
    model, processor = load_checkpoint(CHECKPOINTS / name, dtype="float32")
    pictures = [Image.open(PICTURES / "a_land.png").convert("RGB"), Image.open(PICTURES / "c_sq.png").convert("RGB")]
    inputs = processor([*pictures, "What changed?"])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    plain = model.generate(**inputs, **options)
    with Capture(model, towers=["text", "vision"]) as tape:
        out = model.generate(**inputs, **options)
    assert torch.equal(out, plain)
    assert tape.finish(4, out.shape[1] - 4).n_layers == model.language_model.config.num_hidden_layers
    tower = tape.tower_tape("vision")
    assert tower.n_items == inputs["pixel_values"].shape[0]
    sums = tower.weights(0, item=-1).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    model.language_model.set_attn_implementation("eager")
    with torch.no_grad():
        extra = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
        reference = model(input_ids=out[:, :-1], **extra, output_attentions=True, use_cache=False).attentions
    for layer in tape.layers:
        expected = reference[layer][0].transpose(0, 1)[tape.positions]
        torch.testing.assert_close(tape.weights(layer), expected, rtol=0, atol=EXACT)
