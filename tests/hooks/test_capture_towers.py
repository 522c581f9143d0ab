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
    PixtralVisionConfig,
    PixtralVisionModel,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionConfig,
)

from vila_lab.errors import CaptureError
from vila_lab.hooks import Capture
from vila_lab.hooks.sites import find_sites
from vila_lab.nvila.checkpoint import load_checkpoint

CHECKPOINTS = Path(__file__).parents[1] / "goldens" / "checkpoints"
PICTURES = CHECKPOINTS.parent / "images"
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 12, "patch_size": 4,
}  # fmt: skip
EXACT = 5e-5  # the layers before ran another kernel than the reference; up to 1.6e-5 was measured


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
    assert tape.layers == [0, 1]
    assert tape.lengths(1) == [9, 9, 9]
    for layer in range(2):
        for tile in range(3):
            weights = tape.weights(layer, item=tile)
            torch.testing.assert_close(weights, reference[layer][tile].transpose(0, 1), rtol=0, atol=EXACT)
            torch.testing.assert_close(weights.sum(-1), torch.ones(9, 4), rtol=0, atol=1e-6)
    assert weights.triu(1).abs().max() > 0.1, "patches look both ways"


def test_a_tower_without_pictures_is_noticed(both):
    def text_only():
        both.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False, pad_token_id=0)

    with pytest.raises(CaptureError, match="at least one picture"), Capture(both, towers=["text", "vision"]):
        text_only()


@torch.no_grad()
def test_calls_of_different_sizes_are_items_of_their_own(pixels):
    torch.manual_seed(0)
    model = sharpen(SiglipVisionModel(SiglipVisionConfig(**VISION)))
    large = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    with Capture(model, towers=["vision"]) as tape:
        model(pixels)
        model(large, interpolate_pos_encoding=True)
    assert tape.lengths(0) == [9, 9, 9, 16]
    model.set_attn_implementation("eager")
    reference = model(large, interpolate_pos_encoding=True, output_attentions=True).attentions
    for layer in tape.layers:
        torch.testing.assert_close(tape.weights(layer, item=3), reference[layer][0].transpose(0, 1), rtol=0, atol=EXACT)


@torch.no_grad()
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_packed_pictures_and_windows_are_items(attn):
    """Qwen2.5-VL packs all pictures into one sequence, and its first layers see windows of them only."""
    config = Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=32, intermediate_size=48, num_heads=4, out_hidden_size=32, patch_size=4, window_size=16,
        fullatt_block_indexes=[2], attn_implementation=attn,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    for name, parameter in model.named_parameters():
        parameter.mul_(6 if "qkv.weight" in name else 1)
    grids = torch.tensor([[1, 4, 6], [1, 6, 6]])
    patches = torch.randn(24 + 36, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(2))
    with Capture(model, towers=["vision"]) as tape:
        model(patches, grid_thw=grids)
    assert tape.lengths(2) == [24, 36]
    assert sorted(tape.lengths(0)) == sorted([16, 8, 16, 8, 8, 4])
    with Capture(model, towers=["vision"]) as alone:
        model(patches[24:], grid_thw=grids[1:])
    for item in range(2):
        weights = tape.weights(2, item=item)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), rtol=0, atol=1e-6)
        assert weights.std() > 1e-3, "a flat row would hide mistakes"
    for layer, item, same in ((2, 1, 0), (0, 2, 0)):  # alone the sequence is shorter, and products round otherwise
        torch.testing.assert_close(tape.weights(layer, item=item), alone.weights(layer, item=same), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_pictures_behind_a_mask_are_one_item(attn):
    """Pixtral tells pictures apart by a mask; no patch of one looks at the other."""
    config = PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=4,
        attn_implementation=attn,
    )  # fmt: skip
    torch.manual_seed(0)
    model = sharpen(PixtralVisionModel(config))
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with Capture(model, towers=["vision"]) as tape:
        model(pictures, image_sizes=torch.tensor([[16, 16], [8, 16]]))
    model.set_attn_implementation("eager")
    reference = model(pictures, image_sizes=torch.tensor([[16, 16], [8, 16]]), output_attentions=True).attentions
    assert tape.lengths(0) == [16 + 8]
    for layer in tape.layers:
        weights = tape.weights(layer)
        assert not weights[:16, :, 16:].any()
        torch.testing.assert_close(weights, reference[layer][0].transpose(0, 1), rtol=0, atol=EXACT)


def test_every_attention_module_has_a_tower_and_a_layer(both):
    sites = [(site.tower, site.layer) for site in find_sites(both)]
    assert sorted(sites) == [("text", 0), ("text", 1), ("text", 2), ("vision", 0), ("vision", 1)]


@pytest.mark.parametrize("towers", [("text",), ("vision",), ("text", "vision"), ("vision", "text")])
def test_towers_are_recorded_on_request(towers, both, pixels):
    ids = torch.tensor([[5, 95, 95, 95, 95, 95, 95, 95, 95, 95, 7, 8]])
    inputs = {"input_ids": ids, "pixel_values": pixels[:1], "attention_mask": torch.ones_like(ids)}
    inputs |= {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = both.generate(**inputs)
    capture = Capture(both, towers=towers)
    with capture as tape:
        out = both.generate(**inputs)
    assert torch.equal(out, plain)
    assert tape is (capture.text if "text" in towers else capture.vision)
    for tower, count in {"text": 3, "vision": 2}.items():
        one = getattr(capture, tower)
        if tower in towers:
            assert len(one.layers) == count
            continue
        with pytest.raises(CaptureError, match="not captured"):
            one.weights(0)


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
    capture = Capture(model, towers=["text", "vision"])
    with capture as tape:
        out = model.generate(**inputs, **options)
    assert torch.equal(out, plain)
    assert tape.n_layers == model.language_model.config.num_hidden_layers
    tower = capture.vision
    assert len(tower.lengths(0)) == inputs["pixel_values"].shape[0]
    sums = tower.weights(0, item=-1).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    model.language_model.set_attn_implementation("eager")
    with torch.no_grad():
        extra = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
        reference = model(input_ids=out[:, :-1], **extra, output_attentions=True, use_cache=False).attentions
    for layer in tape.layers:
        expected = reference[layer][0].transpose(0, 1)[tape.positions]
        torch.testing.assert_close(tape.weights(layer), expected, rtol=0, atol=EXACT)
