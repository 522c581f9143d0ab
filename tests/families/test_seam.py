"""The first property of every family: its one pass through the decoder is the model's own forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import ImageOps

from tests.families.checkpoints import NAMES, ONE_TURN, prompt, session
from vila_lab.engine.reuse import Reuse
from vila_lab.errors import PromptError
from vila_lab.families.embedded import Embedded
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import EdgeBias
from vila_lab.hooks.spans import Span
from vila_lab.prompt import Picture, Prompt

TOLERANCE = 1e-5
NVILA = ("nvila-lite", "nvila-dynamic_s2", "nvila-resize", "VILA1.5-3b-tiny")
PICTURES = ("a_land.png", "b_port.png", "a_land.png", "b_port.png")


@pytest.fixture
def question(golden_image):
    """A prompt with some pictures."""

    def ask(count: int) -> Prompt:
        parts = [part for k in range(count) for part in (f"Picture {k + 1}:", golden_image(PICTURES[k]))]
        return Prompt.of([*parts, "What are the differences?"])

    return ask


def own_logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits[0].float()


def check_pass(family, embedded: Embedded, own: torch.Tensor, cut: int) -> None:
    """One pass, some rows of it, copies of it, and two parts behind a cache are all the same."""
    with torch.no_grad():
        logits, nothing = family.decode(embedded)
        torch.testing.assert_close(logits, own, atol=TOLERANCE, rtol=0)
        assert nothing is None
        rows = [0, len(embedded) - 1]
        torch.testing.assert_close(family.decode(embedded, keep=rows)[0], own[rows], atol=TOLERANCE, rtol=0)
        copies = family.decode_copies(embedded, 3, keep=rows)[0]
        torch.testing.assert_close(copies, own[rows].expand(3, -1, -1), atol=TOLERANCE, rtol=0)
        if not cut:
            return
        first, cache = family.decode(embedded[:cut], family.new_cache())
        second, _ = family.decode(embedded[cut:], cache)
        torch.testing.assert_close(torch.cat([first, second]), own, atol=TOLERANCE, rtol=0)


# -- this package's own family -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 4])
@pytest.mark.parametrize("name", NVILA)
def test_the_pass_is_the_models_own_forward(name, count, golden_session, question):
    family = golden_session(name).family
    prepared = family.prepare(question(count))
    with torch.no_grad():
        embedded = family.embed(prepared)
    assert len(embedded) == len(prepared.token_map)
    check_pass(family, embedded, own_logits(family.model, prepared.inputs), len(embedded) // 2)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", NVILA)
def test_a_picture_by_itself_is_the_picture_in_the_prompt(name, count, golden_session, question):
    family = golden_session(name).family
    prompt = question(count)
    prepared = family.prepare(prompt)
    with torch.no_grad():
        embedded = family.embed(prepared)
        for k, image in enumerate(prompt.images):
            mine = prepared.token_map.positions(f"image_{k + 1}")
            alone = family.picture_features(image, prepared)
            torch.testing.assert_close(alone, embedded.features[mine], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NVILA)
def test_gradients_reach_the_pixels(name, golden_session, question):
    family = golden_session(name).family
    prepared = family.prepare(question(2))
    pixels = prepared.inputs[family.pixels].clone().requires_grad_()
    prepared.inputs[family.pixels] = pixels
    family.decode(family.embed(prepared), keep=[-1])[0].sum().backward()
    family.model.zero_grad()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()  # of every tile


@pytest.mark.parametrize("name", NVILA)
def test_leaving_a_picture_out_is_masking_its_columns(name, golden_session, question):
    family = golden_session(name).family
    prepared = family.prepare(question(2))
    length = len(prepared.token_map)
    gone = torch.zeros(length, dtype=torch.bool)
    gone[prepared.token_map.positions("image_1")] = True
    with torch.no_grad():
        embedded = family.embed(prepared)
        seen = torch.ones(length, length, dtype=torch.bool).tril() & ~(gone[None] & ~gone[:, None])
        mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        expected = family.model(inputs_embeds=embedded.vectors[None], attention_mask=mask).logits[0, -1]
        without = embedded[~gone]
        assert without.next_position == embedded.next_position
        torch.testing.assert_close(family.decode(without, keep=[-1])[0][0], expected, atol=TOLERANCE, rtol=0)


# -- families of transformers ------------------------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def can_be_cut(embedded: Embedded) -> int:
    """The place nearest to the middle where no block is cut; 0 where there is none."""
    middle = len(embedded) // 2
    places = sorted(range(1, len(embedded)), key=lambda place: abs(place - middle))
    return next((place for place in places if not embedded.has_block_over(place)), 0)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_their_pass_is_their_own_forward(name, count):
    """Positions with three axes, deep features, blocks and prefixes that see themselves."""
    family = session(name).family
    if not count and name in ONE_TURN:
        with pytest.raises(PromptError, match="no question without a picture"):
            family.prepare(prompt(0))
        return
    prepared = family.prepare(prompt(count))
    with torch.no_grad():
        embedded = family.embed(prepared)
    assert len(embedded) == len(prepared.token_map)
    cut = can_be_cut(embedded)
    assert cut or name in ONE_TURN
    check_pass(family, embedded, own_logits(family.model, prepared.inputs), cut)


def test_what_the_seam_carries_is_needed():
    """Without positions, deep features or blocks the numbers are others, so the test above could fail."""
    for name in ("qwen2_5_vl", "qwen3_vl", "gemma3"):
        family = session(name).family
        prepared = family.prepare(prompt(2))
        with torch.no_grad():
            embedded = family.embed(prepared)
            found = family.decode(Embedded(embedded.vectors, torch.arange(len(embedded))))[0]
        assert (found - own_logits(family.model, prepared.inputs)).abs().max() > 100 * TOLERANCE


def test_their_answer_goes_on_where_the_model_would(name):
    """Tokens behind a cache are what the model itself says with its own cache."""
    family = session(name).family
    prepared = family.prepare(prompt(2))
    with torch.no_grad():
        own = family.model.generate(
            **prepared.inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, repetition_penalty=1.0,
            output_logits=True, return_dict_in_generate=True, pad_token_id=0, cache_implementation=None,
        )  # fmt: skip
        embedded = family.embed(prepared)
        logits, cache = family.decode(embedded, family.new_cache(), keep=[len(embedded) - 1])
        for k, expected in enumerate(own.logits):
            torch.testing.assert_close(logits[-1], expected[0].float(), atol=2 * TOLERANCE, rtol=0)
            token = int(own.sequences[0, len(embedded) + k])
            logits, cache = family.decode(family.embed_ids([token], embedded.next_position + k), cache)


def test_a_prompt_asked_between_two_others_leaves_no_state(name):
    """Qwen's model keeps where its last prompt ended, and must not be asked for it."""
    family = session(name).family
    with torch.no_grad():
        embedded = [family.embed(family.prepare(prompt(count))) for count in (2, 1)]
        alone = [family.decode(each)[0] for each in embedded]
        logits, first = family.decode(embedded[0], family.new_cache())
        _, second = family.decode(embedded[1], family.new_cache())
        token = int(logits[-1].argmax())
        rows = [
            family.decode(family.embed_ids([token], each.next_position), cache)[0]
            for each, cache in zip(embedded, (first, second), strict=True)
        ]
        for each, own, row in zip(embedded, alone, rows, strict=True):
            longer = Embedded.cat([each, family.embed_ids([token], each.next_position)])
            torch.testing.assert_close(family.decode(longer)[0][-1], row[0], atol=2 * TOLERANCE, rtol=0)
            torch.testing.assert_close(family.decode(each)[0], own, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("count", [1, 2])
def test_their_picture_by_itself_is_the_picture_in_the_prompt(name, count):
    family = session(name).family
    asked = prompt(count)
    prepared = family.prepare(asked)
    with torch.no_grad():
        embedded = family.embed(prepared)
        known = family.embed(prepared, Reuse())
        torch.testing.assert_close(known.features, embedded.features, atol=TOLERANCE, rtol=0)
        for k, image in enumerate(asked.images):
            mine = prepared.token_map.rows_of(k)
            alone = family.picture_features(image, prepared, k)
            torch.testing.assert_close(alone, embedded.features[mine], atol=TOLERANCE, rtol=0)


def test_replacing_a_picture_replaces_all_that_came_from_it(name):
    family = session(name).family
    asked = prompt(2)
    other = asked.with_pictures(lambda k, each: Picture.of(ImageOps.invert(each.image)) if k == 1 else each)
    prepared = family.prepare(asked)
    rows = prepared.token_map.rows_of(1)
    with torch.no_grad():
        (features,) = family.pictures_features([other.images[1]], prepared, 1)
        replaced = family.embed(prepared).with_features(features, rows)
        own = own_logits(family.model, family.prepare(other).inputs)
        torch.testing.assert_close(family.decode(replaced)[0], own, atol=TOLERANCE, rtol=0)


def test_pictures_that_are_cut_otherwise_are_computed_again(monkeypatch):
    """Settings of a processor that a user changes in place: what was kept of a picture has another number of rows."""
    family = session("qwen2_5_vl").family
    asked, known = prompt(1), Reuse()
    with torch.no_grad():
        before = family.embed(family.prepare(asked), known)
        cutter = family.processor.image_processor
        monkeypatch.setattr(cutter, "size", {**dict(cutter.size), "longest_edge": 28 * 28 * 20})
        prepared = family.prepare(asked)
        after = family.embed(prepared, known)
        assert len(after) < len(before)
        torch.testing.assert_close(after.features, family.embed(prepared).features, atol=TOLERANCE, rtol=0)


def test_gradients_reach_their_pixels(name):
    family = session(name).family
    prepared = family.prepare(prompt(2))
    pixels = prepared.inputs[family.pixels].clone().requires_grad_()
    changed = replace(prepared, inputs={**prepared.inputs, family.pixels: pixels})
    family.decode(family.embed(changed), keep=[-1])[0].sum().backward()
    family.model.zero_grad()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_leaving_their_picture_out_is_masking_its_columns(name):
    """Every other row keeps its place and its block."""
    family = session(name).family
    prepared = family.prepare(prompt(2))
    gone = torch.zeros(len(prepared.token_map), dtype=torch.bool)
    gone[prepared.token_map.positions("image_1")] = True
    with torch.no_grad():
        embedded = family.embed(prepared)
        edges = [
            EdgeBias(
                Span.of(torch.nonzero(gone)[:, 0].tolist()),
                Span(onward=0),
                dict.fromkeys(range(len(family.decoder_layers))),
            )
        ]
        with Editing(family.model, edges):
            expected = family.decode(embedded, keep=[len(embedded) - 1])[0]
        without = embedded[~gone]
        assert without.next_position == embedded.next_position
        found = family.decode(without, keep=[len(without) - 1])[0]
    if family.window is None or family.window >= len(embedded) or name == "paligemma2":  # whose block no window cuts
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    else:  # a window counts columns, so columns must not be missing: see `vila_lab.attribution.coalitions`
        assert (found - expected).abs().max() > 100 * TOLERANCE


# -- the stretch itself --------------------------------------------------------------------------------------------------


def test_text_takes_part_in_what_pictures_need():
    """Text behind a picture: one position for all axes, in no block, nothing deep."""
    picture = Embedded(
        torch.ones(2, 4), torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([0, 0]), (torch.ones(2, 4),)
    )
    text = Embedded(torch.ones(1, 4), torch.tensor([2]))
    whole = Embedded.cat([picture, text])
    assert whole.positions.tolist() == [[0, 0, 2], [0, 1, 2], [1, 0, 2]]
    assert whole.blocks.tolist() == [0, 0, -1]
    assert whole.deep[0].sum(-1).tolist() == [4, 4, 0]
    assert whole.next_position == 3
    assert whole[[2]].positions.tolist() == [[2], [2], [2]]
    assert len(whole[[]]) == 0
    assert whole[torch.tensor([True, False, True])].blocks.tolist() == [0, -1]


def test_features_come_back_as_they_were():
    whole = Embedded(torch.rand(3, 4), torch.arange(3), None, (torch.rand(3, 4), torch.rand(3, 4)))
    again = whole.with_features(whole.features)
    assert torch.equal(again.vectors, whole.vectors)
    assert all(map(torch.equal, again.deep, whole.deep))
    some = whole.with_features(torch.zeros(1, 12), [1])
    assert some.features.abs().sum(-1).gt(0).tolist() == [True, False, True]


def test_pixels_are_made_when_somebody_takes_them(golden_session, golden_image, monkeypatch):
    family = golden_session("nvila-lite").family
    cutting = type(
        family.processor.image_processor
    )  # not the object: undoing would leave it a `cut`, and its copies with it
    cut, made = cutting.cut, []
    monkeypatch.setattr(cutting, "cut", lambda *a, **b: made.append(1) or cut(*a, **b))
    prompt = Prompt.of([golden_image("a_land.png"), golden_image("b_port.png"), "Hi?"])
    prepared = family.prepare(prompt)
    assert made == []
    assert list(prepared.inputs) == ["input_ids", "attention_mask", "pixel_values", "block_sizes"]
    before = prepared.nbytes
    whole = dict(prepared.inputs)
    assert len(made) == 2
    assert prepared.nbytes == before + whole["pixel_values"].nbytes + whole["block_sizes"].nbytes
    other = family.prepare(prompt).inputs
    other["pixel_values"] = torch.zeros(1)
    assert len(other["pixel_values"]) == 1
    assert torch.equal(other["block_sizes"], whole["block_sizes"])
    del other["pixel_values"]
    assert "pixel_values" not in other
    assert "pixel_values" not in family.prepare(Prompt.of("Hi?")).inputs
