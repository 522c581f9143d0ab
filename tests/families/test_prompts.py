"""What is typed and shown reaches every family in the order and the words in which it was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families.checkpoints import (
    HAS_TORCHVISION,
    NAMES,
    ONE_TURN,
    REORDERED,
    golden,
    image,
    parts,
    prompt,
    session,
)
from vila_lab.errors import OptionError, PromptError
from vila_lab.families.vlm_options import VLMOptions
from vila_lab.prompt import Prompt


@pytest.fixture(params=NAMES)
def family(request):
    return session(request.param).family


@pytest.fixture
def name(request):
    return request.node.callspec.params["family"]


def typed(token_map):
    """The typed words, as the map finds them."""
    places = {place for a, b in token_map.span[token_map.positions("text")] for place in range(a, b)}
    return "".join(token_map.text[place] for place in sorted(places))


def test_pictures_and_words_stand_in_the_order_given(family, name):
    prepared = family.prepare(prompt(2))
    token_map = prepared.token_map
    places = {k: token_map.positions(f"image_{k}") for k in (1, 2)}
    words = token_map.positions("text")
    assert places[1].max() < places[2].min()
    if name in ONE_TURN:
        assert words.min() > places[2].max()
        assert prepared.notes == (
            "the pictures do not stand where they were given, this model's prompt has no other order",
        )
        return
    assert prepared.notes == ()
    between = words[(words > places[1].max()) & (words < places[2].min())]
    assert words.min() < places[1].min()
    assert "Second image" in "".join(token_map.text[a:b] for a, b in token_map.span[between])
    assert words.max() > places[2].max()


def test_the_templates_own_order_is_there_for_who_wants_it(family, name):
    prepared = family.prepare(prompt(2), VLMOptions(picture_order="template"))
    first = prepared.token_map.positions("text").min()
    if name in REORDERED:
        assert first > prepared.token_map.positions("image_2").max()
        assert "as its chat template writes them" in prepared.notes[0]
    elif name not in ONE_TURN:
        assert first < prepared.token_map.positions("image_1").min()
        assert prepared.notes == ()


@pytest.mark.parametrize("count", [1, 4])
def test_a_prompts_positions_are_the_processors_ids(family, name, count):
    """As a user of transformers alone would get them."""
    asked = prompt(count)
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.image}
        for part in asked.parts
    ]
    text = family.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    begin = family.tokenizer.bos_token
    more = {"add_special_tokens": False} if begin and text.startswith(begin) else {}
    expected = family.processor(text=[text], images=[asked.images], return_tensors="pt", **more)
    found = family.prepare(asked).inputs
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_typed_words_are_found_as_they_were_typed(family):
    question = "  What's in 图像1 — a cat?\n Or user\nassistant  "
    found = typed(family.prepare(Prompt.of([image("c_sq"), question])).token_map)
    assert found in (question, question.strip(), f"{question}\n")


def test_a_control_token_in_words_is_refused_by_one_sentence(family):
    special = {str(token) for token in family.tokenizer.added_tokens_decoder.values() if token.special}
    assert special
    for token in special | {family.processor.image_token}:
        with pytest.raises(PromptError, match=r"would read as a control token and not as words: write it") as caught:
            family.prepare(Prompt.of([image("c_sq"), f"What is {token}?"]))
        assert "\n" not in str(caught.value).replace(repr(token), "")


def test_a_system_prompt_and_several_turns(family, name):
    lab = session(name)
    if name in ONE_TURN:
        with pytest.raises(PromptError, match="PaliGemma holds no conversation"):
            lab.chat(system="Be brief.").ask(parts(1), max_new_tokens=2)
        return
    chat = lab.chat(system="Be brief and kind.")
    chat.ask(parts(1), max_new_tokens=3)
    second = chat.ask(["And here?", image("b_port")], max_new_tokens=3)
    token_map = second.token_map
    assert "Be brief and kind." in token_map.text
    assert "Be brief and kind." not in typed(token_map)
    assert token_map.n_pictures == 2
    assert token_map.n_turns == 2
    assert token_map.positions("turn_1").max() < token_map.positions("turn_2").min()
    assert set(token_map.positions("image_1")) <= set(token_map.positions("turn_1"))
    assert set(token_map.positions("image_2")) <= set(token_map.positions("turn_2"))
    assert "And here?" in typed(token_map)
    assert np.isfinite(second.ledger().to_numpy()).all()
    with torch.no_grad():
        prepared = second.replay.prepared
        own = lab.family.model(**prepared.inputs).logits[0, -1].log_softmax(-1)
    assert second.tokens[0].logprob == pytest.approx(float(own[second.tokens[0].id]), abs=1e-4)


def test_transparency_means_the_same_in_every_family(family, name):
    """The colours under it, as NVILA reads them, and a note where the family's own processor would do otherwise."""
    clear = Image.open(image("e_rgba"))
    found = family.prepare(Prompt.of([clear, "What is it?"]))
    expected = family.prepare(Prompt.of([clear.convert("RGB"), "What is it?"]))
    assert torch.equal(found.inputs["pixel_values"], expected.inputs["pixel_values"])
    assert any("white" in note for note in found.notes) == (
        name not in ONE_TURN
    )  # whose processor refuses such pictures
    assert not any("white" in note for note in expected.notes)


def test_penalties_of_the_checkpoint_act_when_they_are_asked_for(family):
    own = family.model.generation_config
    plain = family.generation_config(VLMOptions())
    asked = family.generation_config(VLMOptions(generation_config="checkpoint"))
    assert plain.repetition_penalty == 1.0
    assert asked.repetition_penalty == own.repetition_penalty
    assert not plain.do_sample
    stops = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    assert set(plain.eos_token_id) == {*stops, family.tokenizer.eos_token_id}


@pytest.mark.skipif(not HAS_TORCHVISION, reason="the goldens hold torchvision's pixels: see `make test`")
def test_a_penalty_changes_what_is_said_as_transformers_would():
    expected = golden("llava_onevision", 1)
    found = {
        kind: [t.id for t in session("llava_onevision").ask(parts(1), max_new_tokens=8, generation_config=kind).tokens]
        for kind in ("greedy", "checkpoint")
    }
    assert found["greedy"] == expected["generated_ids"].tolist()
    assert found["checkpoint"] == expected["generated_ids_hub_config"].tolist()


def test_an_option_of_another_family_is_refused():
    lab = session("qwen2_vl")
    with pytest.raises(OptionError, match="there is no option 'tile_all_images'"):
        lab.ask("Hello?", tile_all_images=True)
    with pytest.raises(OptionError, match="conv_mode 'llama_3' is unknown for this model; known: auto"):
        lab.ask("Hello?", conv_mode="llama_3")
    assert lab.ask("Hello?", conv_mode="auto", max_new_tokens=1).tokens
