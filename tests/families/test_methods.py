"""All thirteen attributions, the evidence and the edits in every family, against the family's own eager attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageOps

import vila_lab
from tests.attribution.conftest import replay_of
from tests.families.checkpoints import ALL_LOAD, BOTH_WAYS, NAMES, ONE_TURN, image, inputs_with, parts, session
from vila_lab.attribution import registry
from vila_lab.errors import NoEffect, OptionError
from vila_lab.families import FAMILIES
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import EdgeBias
from vila_lab.hooks.spans import EVERYWHERE, Span
from vila_lab.upstream import attention_name

pytestmark = ALL_LOAD
CLOSE = 3e-5
WHOLE_TILES = ("llava", "internvl", "aya_vision", "gemma3", "paligemma", "paligemma2")
NO_EDGE = "image_2 -> image_1"

ANSWERS: dict[str, vila_lab.Answer] = {}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def answer(name):
    if name not in ANSWERS:
        ANSWERS[name] = session(name).ask(parts(2), max_new_tokens=3)
    return ANSWERS[name]


@pytest.fixture
def eager(answer, name):
    """The score of the answer's second token with its graph, and every attention matrix, by the model's own forward."""
    replay = replay_of(answer)
    model, ids = replay.model, [token.id for token in answer.tokens]
    before = attention_name(model.config.get_text_config())
    model.set_attn_implementation("eager")
    try:
        output = model(**inputs_with(replay.prepared, ids[:1]), output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    row = replay.prompt_length
    return output.logits[0, row].float().log_softmax(-1)[ids[1]], output.attentions, row


def close(attribution, expected):
    mine = attribution.values[0, : len(expected)]
    assert np.abs(mine - expected).max() < CLOSE * max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 1e-4
    assert not attribution.values[0, len(expected) :].any()


def test_attention_and_rollout_are_those_of_eager(answer, eager):
    _, attentions, row = eager
    whole = [weights.detach()[0].mean(0) for weights in attentions]  # (T, T) each
    close(
        answer.attribute("attention", token=1, sinks=True), torch.stack([each[row] for each in whole]).mean(0).numpy()
    )
    product = torch.eye(len(whole[0]))
    for weights in whole:
        product = (0.5 * weights + 0.5 * torch.eye(len(product))) @ product
    close(answer.attribute("rollout", token=1, sinks=True), product[row].numpy())


def test_gradient_methods_are_those_of_autograd(answer, eager):
    score, attentions, row = eager
    gradients = torch.autograd.grad(score, attentions)
    products = [(a.detach() * g)[0] for a, g in zip(attentions, gradients, strict=True)]  # (H, T, T) each
    close(
        answer.attribute("grad_x_attention", token=1, readers="all"), sum(each.sum((0, 1)) for each in products).numpy()
    )
    relevancy = torch.eye(len(products[0][0]))
    for each in products:
        relevancy = relevancy + each.clamp(min=0).mean(0) @ relevancy
    close(answer.attribute("relevancy", token=1), (relevancy[row] - torch.eye(len(relevancy))[row]).numpy())


def test_input_times_gradient_holds_every_path_from_the_input(answer):
    """Scaling all that goes in changes the score by the sum of it, deep features included."""
    replay = replay_of(answer)
    target = registry.target_of(replay, 0)
    sequence, step = replay.embedded, 1e-3

    def score(factor):
        with torch.no_grad():
            return float(replay.values(target, sequence.with_features(sequence.features * factor)).sum())

    slope = (score(1 + step) - score(1 - step)) / (2 * step)
    found = answer.attribute("input_x_gradient", token=0).values.sum()
    assert found == pytest.approx(slope, abs=2e-2 * max(1, abs(slope)))


@pytest.mark.parametrize("method", [name for name in registry.NAMES if name not in ("occlusion", "phrases")])
def test_a_method_gives_numbers(answer, method):
    found = answer.attribute(method, token=0)
    assert np.isfinite(found.values).all()
    assert np.abs(found.values).max() > 0
    heat = found.heatmap(0, token=0) if method != "shapley" else found.heatmap(1, token=0)
    assert np.isfinite(heat).all()


def test_shares_add_up(answer, name):
    steps = answer.attribute("integrated_gradients", token=0, steps=96)
    is_complete = steps.checks["completeness"] < 0.02 * max(abs(steps.checks["difference"]), 0.05)
    assert is_complete or "experts switch on the way" in steps.note
    assert is_complete or name.endswith("_moe")
    for baseline in ("remove", "blur"):
        fair = answer.attribute("shapley", token=0, baseline=baseline)
        assert fair.checks["completeness"] < 1e-4
        assert fair.feature_values.sum() == pytest.approx(fair.checks["all"] - fair.checks["none"], abs=1e-4)


@pytest.mark.parametrize(
    "options", [{"cells": (2, 2)}, {"by": "tiles"}, {"cells": (1, 2), "baseline": "mean"}], ids=str
)
def test_occlusion_covers_places_of_pictures(answer, options):
    found = answer.attribute("occlusion", token=0, **options)
    assert np.isfinite(found.values).all()
    assert len(found.features) >= 2
    token_map = answer.token_map
    assert np.abs(found.values[0][np.isin(np.arange(len(token_map)), token_map.positions("images"))]).max() > 0


def test_phrases_are_of_the_typed_text(answer):
    found = answer.attribute("phrases", token=0)
    assert {"First image:", "What are the differences?"} & {name.strip() for name in found.features} or len(
        found.features
    ) > 2


def test_leaving_a_picture_out_is_closing_its_columns(answer):
    """Also where layers look through a window, over which a gap would let them see further."""
    replay = replay_of(answer)
    target = registry.target_of(replay, 0)
    layers = dict.fromkeys(range(len(replay.family.decoder_layers)))
    found = answer.attribute("leave_one_out", token=0)
    for picture in range(2):
        hidden = EdgeBias(Span.of(replay.token_map.rows_of(picture).tolist()), EVERYWHERE, layers)
        with torch.no_grad():
            clean = float(replay.values(target).sum())
            with Editing(replay.model, [hidden]):
                closed = float(replay.values(target).sum())
        assert found.feature_values[0, picture] == pytest.approx(clean - closed, abs=CLOSE)


def test_gradients_on_pixels_are_refused_where_pixels_have_no_token(answer, name):
    if name in WHOLE_TILES:
        found = answer.attribute("input_x_gradient", token=0, on="pixels")
        assert np.isfinite(found.values).all()
        assert np.abs(found.values).max() > 0
    else:
        with pytest.raises(OptionError, match="take on='embeddings'"):
            answer.attribute("input_x_gradient", token=0, on="pixels")


def test_evidence_and_the_metric_card(answer):
    card = answer.metric_card("leave_one_out", token=0)
    assert card is not None
    assert answer.evidence(token=0) is not None


# -- edits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["image_1 -> answer", "image_1 -> image_2", "text -> answer", "image_2 -> *"])
def test_a_cut_edge_is_masked_in_the_models_own_attention(answer, name, edge, monkeypatch):
    if edge == "image_1 -> image_2" and name == "gemma3":
        pytest.skip("the tiny checkpoint's window lies between its pictures")
    lab = session(name)
    with lab.knockout(edge):
        cut = lab.ask(parts(2), max_new_tokens=2)
    assert cut.edits
    assert cut.tokens[0].logprob != answer.tokens[0].logprob or cut.text != answer.text


def test_an_edge_that_a_decoder_has_not_is_refused(answer, name):
    lab = session(name)
    if name in ONE_TURN:  # everything in the prompt sees everything
        with lab.knockout(NO_EDGE):
            assert lab.ask(parts(2), max_new_tokens=2).edits
        leak = answer.leakage()
        assert float(leak.sel(reader="image_1", source="image_2").max()) > 0
        assert np.isfinite(answer.leakage(causal=True).sel(reader="image_1", source="image_2"))
        return
    with lab.knockout(NO_EDGE), pytest.raises(NoEffect, match=r"image_1 stands before image_2"):
        lab.ask(parts(2), max_new_tokens=2)
    assert not answer.leakage().sel(reader="image_1", source="image_2").any()


def test_rows_of_one_block_see_each_other(name):
    if name not in BOTH_WAYS:
        pytest.skip("everything is causal")
    token_map = session(name).family.prepare(vila_lab.Prompt.of(parts(2))).token_map
    first, second = token_map.positions("image_1"), token_map.positions("image_2")
    assert token_map.share_block(first[:1], first[1:])
    assert token_map.share_block(first, second) == (name in ONE_TURN)


def test_flow_patching_and_order(answer, name):
    flow = answer.flow(token=0)
    assert np.isfinite(flow.table.to_numpy()).all()
    assert np.abs(flow.everywhere.to_numpy()).max() > 0
    order = session(name).order_test(parts(2), max_new_tokens=2)
    assert order is not None


# -- around it -----------------------------------------------------------------------------------------------------------


def test_an_answer_is_saved_and_opened(answer, name, tmp_path):
    answer.save(tmp_path / "answer.vila")
    again = vila_lab.open(tmp_path / "answer.vila")
    np.testing.assert_array_equal(again.ledger().to_numpy(), answer.ledger().to_numpy())
    np.testing.assert_array_equal(again.token_map.block, answer.token_map.block)
    np.testing.assert_array_equal(again.heatmap(0), answer.heatmap(0))
    bound = again.bind(session(name))
    found, expected = (each.attribute("leave_one_out", token=0).values for each in (bound, answer))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    page = tmp_path / "page.html"
    answer.to_html(page)
    assert page.stat().st_size > 1000


def test_questions_side_by_side_are_the_questions_alone(name):
    lab = session(name)
    asked = [parts(2), parts(1), [image("c_sq"), "What is it?"]]
    for answer, prompt in zip(lab.ask_many(asked, max_new_tokens=3), asked, strict=True):
        alone = lab.ask(prompt, max_new_tokens=3)
        assert answer.tokens[0].logprob == pytest.approx(alone.tokens[0].logprob, abs=1e-4)
        np.testing.assert_allclose(answer.attention().values[0], alone.attention().values[0], atol=6e-4)


def test_every_family_is_tried():
    assert set(NAMES) == set(FAMILIES) - {"nvila"}


def test_states_of_another_answer_are_patched_in(answer, name):
    lab = session(name)
    asked = parts(2)
    asked[1], asked[3] = (ImageOps.invert(picture) for picture in answer.images)
    other = lab.ask(asked, max_new_tokens=3)
    with lab.patch(other, "images", layers=[0]):
        patched = lab.ask(parts(2), max_new_tokens=2)
    assert patched.edits
    assert patched.tokens[0].logprob != answer.tokens[0].logprob
    if other.tokens[0].id != answer.tokens[0].id:
        scan = lab.patch_scan(answer, other, layers=[0, 1], positions=["images", "text"])
        assert np.isfinite(scan.values).all()


def test_what_all_heads_carry_is_all_that_changes(answer, name):
    """Behind the pictures nothing else differs; in batches, behind a cache, whatever the family's cache is."""
    lab = session(name)
    asked = parts(2)
    asked[1], asked[3] = (ImageOps.invert(picture) for picture in answer.images)
    other = lab.ask(asked, max_new_tokens=3)
    if other.text == answer.text:
        pytest.skip("this tiny model says the same of both")
    every = [(layer, head) for layer in range(lab.shape.layers) for head in range(lab.shape.heads)]
    found = lab.patch_heads(answer, other, sets=[every, every[:1], every])
    assert found.to_numpy()[[0, 2]] == pytest.approx(1, abs=1e-2)
    assert np.isfinite(found.values).all()


def test_attention_is_redirected(answer, name):
    last = len(session(name).family.decoder_layers) - 1  # which has no window in any of them but PaliGemma 2
    found = session(name).redirect(answer, image=0, strength=4.0, heads=[(last, 0), (last, 1)])
    assert found.share_after != found.share_before


def test_the_viewer_shows_it(answer):
    pytest.importorskip("anywidget")
    assert answer.explore(attributions=[answer.attribute("leave_one_out", token=0)]) is not None
