"""What can be asked about an answer: weights equal to eager, shares that sum to one, heatmaps that keep them, files."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import vila_lab
from tests.conftest import CHECKPOINTS
from vila_lab.engine.memory import image_bytes
from vila_lab.errors import CaptureError, OptionError, PictureError
from vila_lab.prompt import Prompt
from vila_lab.tokens import Spelling
from vila_lab.upstream import attention_name

QUESTION = "What are the differences?"


@pytest.fixture(params=CHECKPOINTS)
def answer(request, golden_session, golden_image):
    images = ["a_land.png"] if request.param == "nvila-dynamic_s2" else ["a_land.png", "d_wide.png"]
    return golden_session(request.param).ask([*(golden_image(name) for name in images), QUESTION], max_new_tokens=5)


def test_weights_are_those_of_eager_attention(answer, golden_session):
    lab = golden_session(answer.model.rsplit("/", 1)[-1])
    parts = [answer.images[part] if isinstance(part, int) else part for part in answer.parts]
    prepared = lab.family.prepare(Prompt.of(parts))
    ids = torch.tensor([[token.id for token in answer.tokens]])
    inputs = dict(prepared.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    before = attention_name(lab.model.config)
    lab.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found = lab.model(**inputs, output_attentions=True).attentions
    finally:
        lab.model.set_attn_implementation(before)
    eager = (
        torch.stack(found)[:, 0, :, len(prepared.token_map) - 1 : -1].permute(2, 0, 1, 3).numpy()
    )  # (token, layer, head, T)
    mine = answer.attention()
    assert mine.dims == ("token", "layer", "head", "position")
    assert len(found) == mine.sizes["layer"]
    assert np.abs(mine.to_numpy() - eager).max() < 1e-5


def test_rows_sum_to_one_and_look_only_back(answer):
    weights = answer.attention().to_numpy()
    assert np.abs(weights.sum(-1) - 1).max() < 1e-5
    for k, token in enumerate(answer.tokens):
        assert (weights[k, ..., token.position :] == 0).all()


@pytest.mark.parametrize(("layer", "head"), [(None, 1), (-1, None), (0, 2)])
def test_one_layer_or_head_is_a_slice_of_all(answer, layer, head):
    chosen = answer.attention(layer, head)
    whole = answer.attention()
    if layer is not None:
        whole = whole.isel(layer=[layer])
    if head is not None:
        whole = whole.isel(head=[head])
    np.testing.assert_allclose(chosen.to_numpy(), whole.to_numpy(), atol=1e-6)
    assert chosen.layer.to_numpy().tolist() == whole.layer.to_numpy().tolist()


def test_ledger_rows_sum_to_one(answer):
    ledger = answer.ledger()
    assert list(ledger.columns) == [*(f"image_{k + 1}" for k in range(len(answer.images))), "prompt", "answer", "sink"]
    assert len(ledger) == len(answer.tokens)
    np.testing.assert_allclose(ledger.sum(axis=1), 1, atol=1e-9)
    assert (ledger.to_numpy() >= 0).all()
    assert ledger.answer.iloc[0] == 0  # nothing was said before the first token


@pytest.mark.parametrize("token", [None, 0, -1])
def test_a_heatmap_sums_to_the_pictures_share(answer, token):
    ledger = answer.ledger()
    said = [k for k, t in enumerate(answer.tokens) if not t.stop]
    for image in range(len(answer.images)):
        share = ledger[f"image_{image + 1}"]
        expected = share.iloc[said].mean() if token is None else share.iloc[token]
        heat = answer.heatmap(image, token)
        assert heat.sum() == pytest.approx(expected, abs=1e-5)
        assert heat.shape == answer.token_map.grid(image)


def test_head_sets_are_shown_alike_once_saved(tmp_path):
    folder = vila_lab.demo_images()
    answer = vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert {name: tuple(pairs) for name, pairs in opened.head_sets.items()} == vila_lab.load().head_sets != {}
    assert opened._repr_mimebundle_()["text/html"] == answer._repr_mimebundle_()["text/html"]


def test_saved_and_opened_it_answers_the_same(answer, tmp_path):
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.text == answer.text
    assert opened.tokens == answer.tokens
    assert opened.parts == answer.parts
    assert [np.array_equal(a, b) for a, b in zip(opened.images, answer.images, strict=True)] == [True] * len(
        answer.images
    )
    np.testing.assert_array_equal(opened.attention().to_numpy(), answer.attention().to_numpy())
    np.testing.assert_allclose(opened.ledger(), answer.ledger(), atol=1e-7)
    assert opened._repr_mimebundle_()["text/html"] == answer._repr_mimebundle_()["text/html"]


def test_released_it_keeps_what_was_computed(answer, tmp_path):
    ledger = answer.ledger()
    answer.release()
    assert answer.nbytes == image_bytes(answer.images)  # the pictures stay
    np.testing.assert_array_equal(answer.ledger(), ledger)
    assert vila_lab.open(answer.save(tmp_path / "a.vila")).ledger().equals(ledger)
    with pytest.raises(CaptureError, match="ask again"):
        answer.attention(layer=0)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.attention(layer=3), "there is no layer 3: this answer has 3"),
        (lambda a: a.attention(head=9), "there is no head 9"),
        (lambda a: a.heatmap(5), "there is no picture 5"),
        (lambda a: a.heatmap(0, token=77), "there is no token 77"),
        (lambda a: a.heatmap(0, method="magic"), "known: attention"),
    ],
    ids=["layer", "head", "picture", "token", "method"],
)
def test_a_wrong_question_gets_one_sentence(answer, ask, message):
    with pytest.raises(OptionError, match=message):
        ask(answer)


@pytest.mark.parametrize("content", [b"", b"not a saved answer at all", b"\x00" * 64])
def test_opening_something_else_says_so(tmp_path, content):
    path = tmp_path / "x.vila"
    path.write_bytes(content)
    with pytest.raises(PictureError, match="not a saved answer"):
        vila_lab.open(path)
    with pytest.raises(FileNotFoundError, match=r"answer\.save"):
        vila_lab.open(tmp_path / "none.vila")


def test_an_answer_without_pictures(golden_session):
    answer = golden_session("nvila-lite").ask("Hello", max_new_tokens=3)
    assert list(answer.ledger().columns) == ["prompt", "answer", "sink"]
    assert "text/html" in answer._repr_mimebundle_()


def test_repr_is_short_and_stable(answer):
    assert repr(answer) == repr(answer)
    assert len(repr(answer)) < 200


def test_the_display_has_no_widget_and_a_still_picture(answer):
    bundle = answer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}


def test_text_of_tokens_that_hold_parts_of_characters():
    ids = list("猫 and 😀!".encode())
    spelling = Spelling(lambda some: bytes(some).decode(errors="replace"))
    texts = [spelling.add(each) for each in ids]
    assert "".join(texts) == "猫 and 😀!"
    assert texts[:3] == ["", "", "猫"]


def test_tokens_print_legibly(answer):
    shown = repr(answer.tokens)
    assert all(f"Token({token.text!r}, " in shown and f"position {token.position}" in shown for token in answer.tokens)
    assert not re.search(r"\d\.\d{4}|alternatives", shown)
    assert len(shown) < 100 * len(answer.tokens)
