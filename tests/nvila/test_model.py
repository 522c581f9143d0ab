"""The model behaves as a transformers model: dtypes, cache, batches, attention switches, training, generation options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from vila_lab.nvila.checkpoint import load_checkpoint
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.generation import undecodable_ids
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.upstream import CACHE, attention_name, made_cache


@pytest.fixture
def asked(load: Any, open_picture: Any) -> tuple[Any, Any, Any]:
    model, processor = load("nvila-lite")
    batch, _ = processor.prepare([open_picture("b_port.png"), "What is this?"])
    return model, processor, batch


def test_skipped_layers_change_nothing(load: Any, asked: Any) -> None:
    model, _, batch = asked
    with torch.no_grad():
        states = model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states
        for index in (-1, -2, 0, 2):
            config = model.config.mm_vision_select_layer
            model.config.mm_vision_select_layer = index
            try:
                assert torch.equal(model.get_vision_features(batch["pixel_values"]), states[index])
            finally:
                model.config.mm_vision_select_layer = config


def test_image_id_lies_outside_the_embedding(asked: Any) -> None:
    model, processor, batch = asked
    assert processor.image_token_id >= model.get_input_embeddings().weight.shape[0] == 405
    assert model.get_output_embeddings().weight.shape[0] == 405
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(goldens: Any, asked: Any, dtype: torch.dtype) -> None:
    full, _, batch = asked
    model, _ = load_checkpoint(goldens / "checkpoints" / "nvila-lite", dtype=dtype)
    assert {value.dtype for value in model.parameters()} == {dtype}
    with torch.no_grad():
        exact, rounded = full(**batch).logits[0, -1], model(**batch).logits[0, -1]
    assert rounded.dtype == dtype
    tolerance = 0.05 if dtype == torch.float16 else 0.5  # measured 0.011 and 0.135 at scale 12.3
    assert (rounded.float() - exact).abs().max() < tolerance
    assert model.generate(**batch, max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


def test_cache_changes_nothing(asked: Any) -> None:
    model, _, batch = asked
    ids = model.generate(**batch, max_new_tokens=6)
    assert torch.equal(ids, model.generate(**batch, max_new_tokens=6, use_cache=False))
    with torch.no_grad():
        first = model(**batch, use_cache=True)
        new = ids[:, batch["input_ids"].shape[1] :][:, :1]
        step = model(input_ids=new, **{CACHE: made_cache(first)})
        longer = batch["attention_mask"].new_ones(1, batch["input_ids"].shape[1] + 1)
        whole = model(**{**batch, "input_ids": torch.cat([batch["input_ids"], new], 1), "attention_mask": longer})
    torch.testing.assert_close(step.logits[0, -1], whole.logits[0, -1], atol=5e-5, rtol=0)


def test_left_padded_batch_answers_as_each_alone(load: Any, open_picture: Any) -> None:
    model, processor = load("nvila-dynamic_s2")
    prompts = [
        [open_picture("a_land.png"), "What?"],
        [open_picture("b_port.png"), "First", open_picture("a_land.png"), "Second, and why?"],
        ["No"],
    ]
    texts = [processor.layout(parts).text for parts in prompts]
    images = [[p for p in parts if not isinstance(p, str)] for parts in prompts]
    batch = processor(text=texts, images=images)
    together = model.generate(**batch, max_new_tokens=5)[:, batch["input_ids"].shape[1] :]
    for row, parts in zip(together, prompts, strict=True):
        alone = processor(parts)
        answer = model.generate(**alone, max_new_tokens=5)[0, alone["input_ids"].shape[1] :]
        assert row[: len(answer)].tolist() == answer.tolist()


def test_several_tiles_survive_beams_and_samples(asked: Any) -> None:
    """Options that repeat the batch must not shuffle tiles: one beam search result beats or equals greedy."""
    model, _, batch = asked
    assert len(batch["pixel_values"]) == 3
    length = batch["input_ids"].shape[1]
    torch.manual_seed(0)
    samples = model.generate(**batch, max_new_tokens=4, do_sample=True, top_k=1, num_return_sequences=3)
    greedy = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(samples, greedy.expand(3, -1))
    beams = model.generate(**batch, max_new_tokens=4, num_beams=3)

    def score(ids: torch.Tensor) -> float:
        with torch.no_grad():
            whole = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = model(**whole).logits[0, length - 1 : -1].log_softmax(-1)
        return float(logits.gather(1, ids[0, length:, None]).sum())

    assert score(beams) >= score(greedy) - 1e-4


def test_repetition_penalty_meets_no_foreign_ids(asked: Any) -> None:
    model, _, batch = asked
    ids = model.generate(**batch, max_new_tokens=4, repetition_penalty=1.3)
    assert ids.shape[1] == batch["input_ids"].shape[1] + 4


def test_generation_file_does_not_leak_in(copy_of: Any, edit_json: Any, asked: Any) -> None:
    plain, _, batch = asked
    root = copy_of("nvila-lite")
    edit_json(
        root / "llm" / "generation_config.json",
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.9, eos_token_id=[402, 400],
    )  # fmt: skip
    model, _ = load_checkpoint(root)
    assert model.generation_config.eos_token_id == [402]
    for config in (None, GenerationConfig(do_sample=False, max_new_tokens=8)):
        options = {"generation_config": config} if config else {"max_new_tokens": 8}
        assert torch.equal(model.generate(**batch, **options), plain.generate(**batch, max_new_tokens=8))


def test_length_limit_of_the_checkpoint(load: Any) -> None:
    model, processor = load("nvila-lite")
    assert model.generation_config.max_length == processor.tokenizer.model_max_length == 4096


def test_padded_vocabulary_is_never_generated(copy_of: Any, edit_json: Any, asked: Any) -> None:
    """Rows beyond the tokenizer win every argmax here, and so does the image token's own row; neither comes out."""
    from safetensors.torch import load_file, save_file

    plain, _, batch = asked
    root = copy_of("nvila-lite")
    weights = load_file(root / "llm" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], 50 * torch.randn(15, 64, generator=torch.Generator().manual_seed(0))])
    save_file(weights, root / "llm" / "model.safetensors", metadata={"format": "pt"})
    edit_json(root / "llm" / "config.json", vocab_size=420)
    model, processor = load_checkpoint(root)
    assert undecodable_ids(processor.tokenizer, 420) == list(range(405, 420))
    assert processor.image_token_id == 406
    with torch.no_grad():
        assert (model(**batch).logits[0].argmax(-1) >= 405).any()
    assert torch.equal(model.generate(**batch, max_new_tokens=8), plain.generate(**batch, max_new_tokens=8))


def test_decodable_vocabulary_is_not_restricted(load: Any) -> None:
    model, processor = load("nvila-lite")
    assert undecodable_ids(processor.tokenizer, 405) == []
    assert model.generation_config.suppress_tokens is None


def test_attention_implementation_reaches_both_parts(goldens: Any) -> None:
    model, _ = load_checkpoint(goldens / "checkpoints" / "nvila-resize", attn_implementation="eager")
    parts = [model.language_model.model.layers[0].self_attn, model.vision_tower.encoder.layers[0].self_attn]
    for asked, expected in (
        ("sdpa", ["sdpa", "sdpa"]),
        ({"text_config": "eager"}, ["eager", "sdpa"]),
        ("eager", ["eager", "eager"]),
    ):
        model.set_attn_implementation(asked)
        assert [attention_name(part.config) for part in parts] == expected


def test_training_reaches_every_used_parameter(asked: Any) -> None:
    model, _, batch = asked
    labels = batch["input_ids"].clone()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    silent = {name for name, value in model.named_parameters() if value.grad is None}
    model.zero_grad(set_to_none=True)
    assert loss.isfinite()
    assert all(name.startswith(("vision_tower.encoder.layers.3", "vision_tower.post_layernorm")) for name in silent)


def test_wrong_number_of_places(asked: Any) -> None:
    model, _, batch = asked
    with pytest.raises(ValueError, match="same call of the processor"):
        model.embed(batch["input_ids"][:, :-30], batch["pixel_values"])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_from_scratch_with_a_config_alone() -> None:
    text = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 50, "tie_word_embeddings": True}  # fmt: skip
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    config = NVILAConfig(
        text, vision, image_aspect_ratio="dynamic_s2", s2_resize_output_to_scale_idx=-1, image_token_id=60
    )
    assert config.s2_scales == [28, 56, 84]
    assert NVILAConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    model = NVILAForConditionalGeneration(config)
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    features = model.get_image_features(torch.randn(1 + 4 + 12, 3, 28, 28), torch.tensor([[3, 4]])).pooler_output
    assert features[0].shape == (3 * 2 * 4 * 2, 16)


@pytest.mark.parametrize(("chosen", "shape"), [(0, (1, 1)), (1, (2, 2)), (-1, (3, 4))])
def test_scale_that_becomes_the_tokens(load: Any, chosen: int, shape: tuple[int, int]) -> None:
    model, processor = load("nvila-dynamic_s2")
    from PIL import Image

    before = model.config.s2_resize_output_to_scale_idx
    model.config.s2_resize_output_to_scale_idx = processor.image_processor.s2_resize_output_to_scale_idx = chosen
    try:
        batch, layout = processor.prepare([Image.new("RGB", (400, 300)), "Q"])
        (features,) = model.get_image_features(batch["pixel_values"], batch["block_sizes"]).pooler_output
    finally:
        model.config.s2_resize_output_to_scale_idx = processor.image_processor.s2_resize_output_to_scale_idx = before
    assert (layout.blocks[0].rows, layout.blocks[0].cols) == (4 * shape[0], 4 * shape[1])
    assert len(features) == 16 * shape[0] * shape[1]
