"""Several kinds of evidence in one table."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vila_lab.attribution.registry import attribute, target_of
from vila_lab.errors import CaptureError, OptionError
from vila_lab.evidence.agreement import METHODS, STEPS, evidence, kendall
from vila_lab.evidence.effect import effect


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2], [1, 2, 3], 2 / np.sqrt(2 * 3)),
    ],
    ids=["same", "opposite", "one swap", "tie"],
)
def test_kendall_by_hand(a, b, tau):
    assert kendall(a, b) == pytest.approx(tau)
    assert kendall(b, a) == pytest.approx(tau)


@pytest.mark.parametrize(("a", "b"), [([1], [2]), ([1, 1, 1], [1, 2, 3])], ids=["one", "all tied"])
def test_what_ranks_nothing_agrees_with_nothing(a, b):
    assert np.isnan(kendall(a, b))


def test_the_table_holds_what_the_methods_say(answer):
    found = answer.evidence(token=1)
    assert list(found.shares.index) == list(METHODS)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    for name in METHODS:
        options = {"steps": STEPS} if name == "integrated_gradients" else {}
        np.testing.assert_allclose(found.shares.loc[name], answer.attribute(name, 1, **options).shares(), atol=1e-6)
    assert "not causal evidence" in repr(found)
    assert "leave_one_out" in found.note
    assert found._repr_html_().startswith("<div>")


@pytest.fixture
def positions(monkeypatch, lab):
    """How many positions were put through the decoder since the list was emptied."""
    counted: list[int] = []
    decode = type(lab.family).decode

    def counting(family, embedded, *rest, **options):
        counted.append(len(embedded))
        return decode(family, embedded, *rest, **options)

    monkeypatch.setattr(type(lab.family), "decode", counting)
    return counted


def test_what_methods_share_is_computed_once(lab, demo, positions):
    """The same numbers as each by itself, and fewer positions through the decoder."""
    answer = lab.ask([*(demo / f"{name}.png" for name in "gman"), "What is in image 2?"])
    replay, target = answer.replay, target_of(answer.replay)
    assert len(target.rows) > 1
    positions.clear()
    found = evidence(replay)
    together = sum(positions)
    alone, shares = {}, {}
    for name in METHODS:
        positions.clear()
        each = attribute(replay, name, **({"steps": STEPS} if name == "integrated_gradients" else {}))
        alone[name], shares[name] = sum(positions), each.shares()
        np.testing.assert_allclose(found.scores.loc[name], each.total()[found.scores.columns], atol=1e-4)
    positions.clear()
    lost = effect(replay, target).lost.sum(1)
    alone["effect"] = sum(positions)
    np.testing.assert_allclose(found.effect, lost, atol=1e-4)
    assert alone["leave_one_out"] > 4 * replay.prompt_length / 2
    assert together <= sum(alone.values()) - alone["leave_one_out"]
    positions.clear()
    attribute(replay, "leave_one_out")
    assert sum(positions) == alone["leave_one_out"]  # nothing is remembered behind the call


def test_the_causal_evidence_names_the_picture_asked_about(microsoft):
    found = microsoft.evidence()
    assert found.shares.loc["leave_one_out"].idxmax() == found.shares.loc["shapley"].idxmax() == "image_2"
    assert found.tau.loc["leave_one_out", "shapley"] == 1
    assert found.verdict.startswith("rests on picture 2")
    assert found.agree


def test_effect_and_probability_are_the_models_own(microsoft):
    found = microsoft.evidence()
    said = [token for token in microsoft.tokens if not token.stop]
    np.testing.assert_allclose(found.probabilities, [token.probability for token in said], atol=1e-5)
    assert list(found.probabilities.index) == [token.text for token in said]
    assert found.probability == pytest.approx(np.prod([token.probability for token in said]), abs=1e-5)
    alone = microsoft.attribute("leave_one_out", baseline="grey").per_image().iloc[: len(said)].sum()
    np.testing.assert_allclose(found.effect[["image_1", "image_2"]], alone, atol=1e-5)
    together = microsoft.attribute("shapley", baseline="grey").per_image().iloc[: len(said)].sum().sum()
    assert found.effect["all"] == pytest.approx(together, abs=1e-4)


@pytest.mark.parametrize("colour", ["black", "yellow", (127, 127, 127), (30, 90, 200)])
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_about_blank_pictures_hardly_rests_on_them(lab, colour, count):
    blank = Image.new("RGB", (200, 160), colour)
    found = lab.ask([*[blank] * count, "What is in image 1?"]).evidence(methods=["leave_one_out"])
    assert found.verdict.startswith("hardly rests on any picture"), found.verdict
    assert "all methods" not in repr(found)


@pytest.mark.parametrize("images", ["gm", "gg", "gman"])
def test_an_answer_about_a_numbered_picture_rests_on_it(lab, demo, images):
    found = lab.ask([*(demo / f"{name}.png" for name in images), "What is in image 2?"]).evidence()
    assert found.verdict.startswith("rests on picture 2: ")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_answer_about_noise_hardly_rests_on_it(lab, count):
    rng = np.random.default_rng(1)
    noise = [Image.fromarray(rng.integers(0, 256, (200, 160, 3), dtype=np.uint8)) for _ in range(count)]
    found = lab.ask([*noise, f"What is in image {count}?"]).evidence(methods=["leave_one_out"])
    assert found.probability > 0.9  # the model is sure of it
    assert found.effect.max() > 5  # and says something else of grey
    assert found.verdict.startswith("hardly rests on any picture"), found.verdict
    assert "but with noise there hardly anything" in found.verdict


def test_noise_in_place_of_a_large_picture_is_not_shrunk_to_grey(lab):
    """A picture of noise gives the same features however large it is, so that one of noise loses nothing to noise."""
    rng = np.random.default_rng(1)
    grains = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    large = grains.resize((3200, 2400), Image.Resampling.NEAREST)
    found = lab.ask([large, "What is in image 1?"]).evidence(methods=["leave_one_out"])
    assert found.probability > 0.9
    assert found.effect.max() > 5
    assert found.weight < 0.5


def test_an_answer_that_either_picture_would_do_for_rests_on_both(lab, demo):
    question = "Are image 1 and image 2 the same or different?"
    found = lab.ask([demo / "g.png", demo / "m.png", question]).evidence()
    assert found.verdict.startswith("rests on several pictures: by itself none loses more than ")


def test_a_method_for_which_nothing_speaks_says_nothing(lab, demo):
    answer = lab.ask([demo / "m.png", demo / "a.png", "Which image shows Apple?"])
    found = answer.evidence(methods=["grad_x_attention", "leave_one_out"])
    assert (answer.attribute("grad_x_attention").total().filter(like="image") <= 0).all()  # what the rest is about
    assert found.shares.loc["grad_x_attention"].isna().all()
    assert np.isnan(found.tau.loc["grad_x_attention", "leave_one_out"])
    assert found.agree
    assert "says nothing" in repr(found)
    assert "says nothing" in found._repr_html_()


def test_the_verdict_is_shown_with_the_answer(lab, demo):
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])
    before = answer.display()
    found = answer.evidence()
    assert found.verdict in answer._repr_mimebundle_()["text/plain"]
    assert answer.display() is not before
    answer.evidence(token=0)  # of one token: not the answer's
    assert found.verdict in answer._repr_mimebundle_()["text/plain"]


def test_the_display_says_how_sure_the_model_was(microsoft):
    least = min(token.probability for token in microsoft.tokens if not token.stop)
    assert f"{least:.2g}" in microsoft._repr_mimebundle_()["text/plain"]
    assert "Probability of the answer" in microsoft._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize(
    ("methods", "said"),
    [([], "list of names"), ("shapley", "list of names"), (["shaply"], "shapley"), (["shapley"] * 2, "twice")],
)
def test_bad_methods(microsoft, methods, said):
    with pytest.raises(OptionError, match=said):
        microsoft.evidence(methods=methods)


def test_bad_input(answer, tiny, tmp_path):
    import vila_lab

    with pytest.raises(OptionError, match="there is no token 9"):
        answer.evidence(token=9)
    with pytest.raises(OptionError, match="no picture"):
        tiny.ask("Hello", max_new_tokens=1).evidence()
    with pytest.raises(CaptureError, match="ask again"):
        vila_lab.open(answer.save(tmp_path / "a.vila")).evidence()
