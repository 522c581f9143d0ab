"""Every way of decoding says what greedy decoding behind one cache says, and refuses in one sentence what it cannot do."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from PIL import Image
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.upstream import CACHE, CACHE_NAMES, made_cache

NEW_TOKENS = 9
CHECKPOINTS = ("nvila-lite", "nvila-dynamic_s2", "nvila-resize")

pytestmark = pytest.mark.filterwarnings("ignore:.*generation_config.*:FutureWarning")


@pytest.fixture(params=CHECKPOINTS)
def asked(request: pytest.FixtureRequest, load: Any, open_picture: Any) -> tuple[Any, Any, Any, torch.Tensor]:
    """Model, processor, the inputs of a prompt with two pictures, and what greedy decoding makes of it."""
    model, processor = load(request.param)
    batch = processor([open_picture("a_land.png"), " and ", open_picture("b_port.png"), "What is it?"])
    return model, processor, batch, model.generate(**batch, max_new_tokens=NEW_TOKENS)


def new_cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"prefill_chunk_size": 7},
        {"prefill_chunk_size": 1000},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"do_sample": True, "top_k": 1},
    ],
    ids=str,
)
def test_decoding_says_what_greedy_decoding_says(asked: Any, options: dict[str, Any]) -> None:
    model, _, batch, greedy = asked
    assert torch.equal(model.generate(**batch, max_new_tokens=NEW_TOKENS, **options), greedy)


def test_an_assistant_loses_no_token(asked: Any) -> None:
    model, _, batch, greedy = asked
    assert torch.equal(model.generate(**batch, max_new_tokens=NEW_TOKENS, assistant_model=model), greedy)


def test_an_assistant_that_guesses_wrong_changes_nothing(asked: Any) -> None:
    model, _, batch, greedy = asked
    torch.manual_seed(0)
    assistant = NVILAForConditionalGeneration(model.config).eval()
    assistant.generation_config = model.generation_config
    assert torch.equal(model.generate(**batch, max_new_tokens=NEW_TOKENS, assistant_model=assistant), greedy)


def test_an_assistant_that_cannot_take_the_pictures_is_refused(asked: Any) -> None:
    model, _, batch, _ = asked
    assistant = Qwen2ForCausalLM(Qwen2Config(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="assistant_model is a Qwen2ForCausalLM"):
        model.generate(**batch, max_new_tokens=2, assistant_model=assistant)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_conversation_goes_on_behind_its_cache(asked: Any, name: str) -> None:
    """All ids with all pictures, behind the cache of the turn before: what a fresh run says."""
    model, _, batch, greedy = asked
    cache = new_cache(model)
    first = model.generate(**batch, max_new_tokens=NEW_TOKENS, **{name: cache})
    assert torch.equal(first, greedy)
    ids = torch.cat([first, batch["input_ids"][:, -5:]], dim=1)
    longer = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    behind = model.generate(**longer, max_new_tokens=4, **{name: cache})
    assert torch.equal(behind, model.generate(**longer, max_new_tokens=4))


def test_only_the_new_ids_go_on_behind_a_cache(asked: Any, open_picture: Any) -> None:
    """Ids of the new turn alone, one of them a picture's, with a mask over all: what all ids together say."""
    model, processor, batch, _ = asked
    cache = new_cache(model)
    with torch.no_grad():
        model(**batch, use_cache=True, **{CACHE_NAMES[0]: cache})
    new = processor([open_picture("b_port.png"), "Q"])
    along = {"input_ids": 1, "attention_mask": 1, "pixel_values": 0, "block_sizes": 0}
    whole = {name: torch.cat([batch[name], new[name]], dim) for name, dim in along.items()}
    greedy = model.generate(**whole, max_new_tokens=4)
    behind = model.generate(**{**new, "attention_mask": whole["attention_mask"]}, max_new_tokens=4, cache=cache)
    assert torch.equal(behind[:, -4:], greedy[:, -4:])


def test_beams_are_those_without_a_cache(asked: Any) -> None:
    model, _, batch, _ = asked
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 5, "output_scores": True}
    with_cache, without = (
        model.generate(**batch, return_dict_in_generate=True, use_cache=use_cache, **options)
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.sequences_scores, without.sequences_scores, atol=1e-4, rtol=0)
    scores = [_log_probability(model, batch, row) for row in with_cache.sequences]
    torch.testing.assert_close(torch.stack(scores), with_cache.sequences_scores, atol=1e-4, rtol=0)


def _log_probability(model: Any, batch: Any, row: torch.Tensor) -> torch.Tensor:
    """Mean log-probability of an answer by one forward, as a beam's score has it."""
    length = batch["input_ids"].shape[1]
    pad = model.generation_config.pad_token_id
    answer = [token for token in row[length:].tolist() if token != pad]
    ids = torch.cat([row[:length], torch.tensor(answer, dtype=row.dtype)])[None]
    with torch.no_grad():
        logits = model(**{**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0, length - 1 : -1]
    return torch.log_softmax(logits, -1)[range(len(answer)), answer].mean()


def test_samples_are_drawn_for_each_prompt(asked: Any, open_picture: Any) -> None:
    """Several samples of several prompts: greedy ones, so that each must be its own prompt's answer."""
    model, processor, _, _ = asked
    texts = ["<image>Is it one?", "<image><image>Which?"]
    images = [[open_picture("a_land.png")], [open_picture("b_port.png"), open_picture("g_gray.png")]]
    batch = processor(text=texts, images=images)
    drawn = model.generate(**batch, max_new_tokens=4, do_sample=True, top_k=1, num_return_sequences=2)
    length = batch["input_ids"].shape[1]
    for number, (text, pictures) in enumerate(zip(texts, images, strict=True)):
        alone = processor(text=text, images=pictures)
        expected = model.generate(**alone, max_new_tokens=4)[0, alone["input_ids"].shape[1] :].tolist()
        for row in drawn[2 * number : 2 * number + 2, length:]:
            assert row[: len(expected)].tolist() == expected


def test_padding_on_the_left_changes_nothing(asked: Any) -> None:
    model, _, batch, greedy = asked
    longer = batch["input_ids"].shape[1] + 6
    ids = torch.nn.functional.pad(batch["input_ids"], (6, 0), value=model.generation_config.pad_token_id)
    mask = torch.nn.functional.pad(batch["attention_mask"], (6, 0), value=0)
    padded = model.generate(**{**batch, "input_ids": ids, "attention_mask": mask}, max_new_tokens=NEW_TOKENS)
    assert torch.equal(padded[:, longer:], greedy[:, longer - 6 :])


def test_states_and_logits_come_along(asked: Any) -> None:
    model, _, batch, greedy = asked
    options = {"output_logits": True, "output_hidden_states": True, "return_dict_in_generate": True}
    output = model.generate(**batch, max_new_tokens=NEW_TOKENS, **options)
    assert torch.equal(output.sequences, greedy)
    assert output.hidden_states[0][0].shape[1] == batch["input_ids"].shape[1]
    with torch.no_grad():
        torch.testing.assert_close(output.logits[0], model(**batch).logits[:, -1], atol=5e-5, rtol=0)
    assert made_cache(output).get_seq_length() == greedy.shape[1] - 1


def test_embeddings_of_the_prompt_can_be_given(asked: Any) -> None:
    model, _, batch, greedy = asked
    embeddings = model.embed(batch["input_ids"], batch["pixel_values"], batch["block_sizes"])
    answer = model.generate(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], max_new_tokens=NEW_TOKENS)
    assert torch.equal(answer, greedy[:, batch["input_ids"].shape[1] :])


def test_pictures_are_embedded_once(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, batch, _ = asked
    calls = []
    embed = type(model).get_vision_features
    monkeypatch.setattr(type(model), "get_vision_features", lambda self, pixels: calls.append(1) or embed(self, pixels))
    model.generate(**batch, max_new_tokens=4, num_beams=2, use_cache=False)
    assert len(calls) == 1


@pytest.mark.parametrize("pictures", [False, True])
def test_places_and_pictures_must_match(asked: Any, pictures: bool) -> None:
    model, _, batch, _ = asked
    short = batch["input_ids"][:, -10:] if pictures else batch["input_ids"]
    given = {"pixel_values": batch["pixel_values"], "block_sizes": batch["block_sizes"]} if pictures else {}
    for call in (model.generate, model):
        with pytest.raises(ValueError, match=r"places for visual tokens and the pictures give"):
            call(input_ids=short, **given)


def test_places_without_pictures_are_refused_behind_a_cache_too(asked: Any) -> None:
    model, _, batch, _ = asked
    ids = batch["input_ids"]
    for call in (model.generate, model):
        with pytest.raises(ValueError, match=r"places for visual tokens and the pictures give 0"):
            call(input_ids=ids, **{CACHE: new_cache(model)})
    output = model(**batch, use_cache=True)
    with pytest.raises(ValueError, match=r"places for visual tokens and the pictures give 0"):
        model(input_ids=ids, **{CACHE: made_cache(output)})


def test_a_step_prepared_from_outside_keeps_the_pictures(asked: Any) -> None:
    model, _, batch, greedy = asked
    first = model.prepare_inputs_for_generation(**batch)
    assert torch.equal(first["pixel_values"], batch["pixel_values"])
    output = model(**first, use_cache=True)
    ids = greedy[:, : batch["input_ids"].shape[1] + 1]
    grown = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids), CACHE: made_cache(output)}
    second = model.prepare_inputs_for_generation(**grown)
    assert second["input_ids"].tolist() == ids[:, -1:].tolist()
    assert second["pixel_values"] is None
    whole = model(**{**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -1]
    torch.testing.assert_close(model(**second).logits[:, -1], whole, atol=5e-5, rtol=0)


@pytest.mark.filterwarnings(
    "ignore:.*(Skipping this token|naive):UserWarning"
)  # captum spells a tiny model's answer, half characters and all
@pytest.mark.skipif(not hasattr(captum.attr, "ImageMaskInput"), reason="this captum explains no pictures")
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "whole"])
def test_captums_default_mode_sees_the_pictures(asked: Any, open_picture: Any, cached: bool) -> None:
    model, processor, batch, greedy = asked
    said = greedy[0, batch["input_ids"].shape[1] :][:3]

    def ask(picture: Any) -> Any:
        return processor([open_picture("a_land.png"), " and ", picture, "What is it?"])

    def score(batch: Any) -> Any:
        ids = torch.cat([batch["input_ids"], said[None]], 1)
        logits = model(**{**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
        return logits[0, -len(said) - 1 : -1].log_softmax(-1).gather(1, said[:, None]).sum()

    picture = open_picture("b_port.png").convert("RGB")
    shown = captum.attr.ImageMaskInput(picture, processor_fn=ask)
    method = captum.attr.LLMAttribution(captum.attr.FeatureAblation(model), processor.tokenizer)
    found = method.attribute(shown, target=said, use_cached_outputs=cached).seq_attr
    with torch.no_grad():
        lost = score(ask(picture)) - score(ask(Image.new("RGB", picture.size, shown.baseline)))
    torch.testing.assert_close(found, lost[None], atol=1e-4, rtol=0)
    assert lost.abs() > 1e-3


def test_embeddings_and_pictures_exclude_each_other(asked: Any) -> None:
    model, _, batch, _ = asked
    given = {"inputs_embeds": torch.zeros(1, 4, model.config.hidden_size), "pixel_values": batch["pixel_values"]}
    for call in (model.generate, model):
        with pytest.raises(ValueError, match="inputs_embeds already hold the pictures"):
            call(**given)
