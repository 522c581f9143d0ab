"""Every word is drawn from an answer's own numbers, and whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import vila_lab
from vila_lab.errors import OptionError
from vila_lab.teaching import WORDS, show_word
from vila_lab.teaching.drawings import chance_bars, looks, steps_in_nats

SECOND = Path(__file__).parent.parent / "goldens" / "second"
DOG = 5  # the token of the answer that says it


@pytest.fixture(scope="module")
def answer(lab):
    demo = vila_lab.demo_images()
    return lab.ask([demo / "dog_alone.png", demo / "pizza.png", "What is the difference between image 1 and image 2?"])


def written(ax):
    return [each.get_text() for each in ax.texts]


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


@pytest.mark.parametrize("word", WORDS)
def test_nothing_runs_over_the_edge(answer, word):
    figure = show_word(answer, word, token="dog").figure
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02


@pytest.mark.parametrize("word", WORDS)
def test_another_family_is_drawn_too(word):
    lab = vila_lab.load(str(SECOND), device="cpu", dtype="float32")
    demo = vila_lab.demo_images()
    assert show_word(lab.ask([demo / "pizza.png", demo / "m.png", "What is in image 2?"]), word).figure.axes


def test_chips_are_the_tokens(answer):
    shown = [text.replace("␣", " ") for text in written(show_word(answer, "token"))]
    question = "What is the difference between image 1 and image 2?"
    assert shown[:3] == ["question", "picture 1: 36 tokens", "picture 2: 36 tokens"]
    assert "".join(shown[3 : shown.index("answer")]) == question
    assert shown[shown.index("answer") + 1 :] == [*(token.text for token in answer.tokens[:-1]), "(end)"]


def test_the_grid_has_every_patch_and_frames_every_token(answer):
    ax = show_word(answer, "patch", token="dog")
    assert ax.get_title(loc="left") == "picture 1: 12 × 12 patches, 36 tokens"
    assert len(ax.lines) == 2 * 11
    frames, filled = ax.collections
    assert (len(frames.get_paths()), len(filled.get_paths())) == (36, 1)


def test_a_row_of_attention_is_the_answers(answer):
    drawn = heights(show_word(answer, "attention", token=DOG))
    assert drawn == pytest.approx(answer.mean_attention()[DOG][: len(drawn)])
    assert sum(drawn) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("word", "count"), [("head", 4), ("layer", 6)])
def test_looks_are_the_answers_shares(answer, word, count):
    axes = show_word(answer, word, token=DOG).figure.axes
    assert len(axes) == 2 * count
    shares = np.array([float(re.search(r"([\d.]+) %", ax.get_title())[1]) for ax in axes]).reshape(2, count)
    weights = answer.attention().to_numpy()[DOG] @ answer.token_map.indicator(["image_1", "image_2"])  # (L, H, images)
    layer = re.search(r"layer (\d)", axes[0].figure.get_suptitle())
    expected = weights[int(layer[1])] if layer else weights.mean(1)
    assert shares == pytest.approx(100 * expected.T, abs=0.06)


def test_of_many_layers_some_are_drawn(answer):
    rows = {f"layer {k}": answer.mean_attention()[0] for k in range(48)}
    names = [ax.get_title().split("\n")[0] for ax in looks(answer.images, answer.token_map, rows, "").figure.axes[:8]]
    assert (names[0], names[-1], len(set(names))) == ("layer 0", "layer 47", 8)


def test_bars_are_log_probabilities(answer):
    ax = show_word(answer, "log-probability", token=DOG)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(
        [log for _, _, log in answer.tokens[DOG].alternatives]
    )
    assert ax.get_yticklabels()[0].get_text() == "␣dog"


def test_steps_in_nats_are_what_is_lost(answer):
    ax = show_word(answer, "nat", token=DOG)
    lost = answer.attribute("leave_one_out", token=DOG).total()
    logprob = answer.tokens[DOG].logprob
    points = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert points == pytest.approx([logprob, logprob - lost["image_1"], logprob - lost["image_2"]])
    (said,) = written(ax)
    nats, times = re.fullmatch(r"([\d.]+) nats: ([\d,]+) times less probable", said).groups()
    assert float(nats) == pytest.approx(lost["image_1"], abs=0.05)
    assert int(times.replace(",", "")) == pytest.approx(np.exp(lost["image_1"]), abs=1)


def test_the_impossible_is_drawn_at_the_edge():
    """A log-probability of minus infinity has no place on an axis."""
    ax = steps_in_nats({"with": -0.1, "without": -np.inf}, "")
    assert np.isfinite(ax.get_xlim()).all()
    assert np.isfinite(chance_bars([("a", 0.0), ("b", -np.inf)], "").get_xlim()).all()


def test_a_fall_over_the_edge_is_told_as_it_is():
    said = written(steps_in_nats({"with": -0.1, "without 1": -30.1, "without 2": -np.inf, "without 3": -1.1}, ""))
    assert said == [
        "30.0 nats: more than a million times less probable",
        "impossible",
        "1.0 nats: 3 times less probable",
    ]


def test_a_log_probability_without_others_beside_it_is_no_drawing(lab):
    answer = lab.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"], logprobs=0)
    with pytest.raises(OptionError, match="logprobs=0 kept none"):
        show_word(answer, "log-probability")


def test_a_sink_is_drawn_where_it_stands_out(answer):
    ax = show_word(answer, "sink")
    assert int(np.argmax(heights(ax))) == 0
    assert written(ax) == [f"sink, position 0: {100 * heights(ax)[0]:.1f} %"]


@pytest.mark.parametrize(("word", "token", "message"), [
    ("tokens", 0, r"did you mean 'token'\?.*there are: token, patch"), ("token", 99, "has 15, counted from 0"), ("token", "cat", "'cat' is not in the answer"),
    ("token", 1.5, "token"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_said(answer, word, token, message):
    with pytest.raises(OptionError, match=message):
        show_word(answer, word, token)


def test_words_need_a_picture(lab):
    with pytest.raises(OptionError, match="this question has none"):
        show_word(lab.ask("What is in image 1?"), "patch")
