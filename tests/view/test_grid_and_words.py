"""Thumbnails of heads and tinted words: the numbers of the answer, on one scale, and every word in its place."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from vila_lab.engine import record
from vila_lab.errors import OptionError
from vila_lab.view import head_grid, word_weights, words
from vila_lab.view.lettering import font_family, inches


@pytest.fixture(scope="module")
def answer(lab, demo):
    return lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])


def heights(ax):
    """Of the bars, by picture and place."""
    return np.array([[path.get_extents().height for path in bars.get_paths()] for bars in ax.collections[1:]])


def test_a_thumbnail_shows_how_a_head_splits_its_attention():
    shares = np.random.default_rng(0).random((3, 2, 4))
    ax = head_grid(shares, [f"image_{k + 1}" for k in range(4)])
    found = heights(ax).T.reshape(3, 2, 4)
    assert found / found.max() == pytest.approx(shares / shares.max())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"picture {k + 1}" for k in range(4)]
    twice = heights(head_grid(shares, ["a", "b", "c", "d"], vmax=2 * shares.max())).T.reshape(3, 2, 4)
    assert 2 * twice == pytest.approx(found)


def test_a_head_without_a_number_is_hatched():
    shares = np.ones((2, 2, 2))
    shares[1, 0] = np.nan
    ax = head_grid(shares, ["image_1", "image_2"])
    assert ax.collections[-1].get_hatch()
    assert len(ax.collections[-1].get_paths()) == 1


def test_the_grid_of_an_answer_is_its_attention(answer):
    shares = answer.attention().to_numpy()[:1].astype(np.float64).mean(0)
    shares[..., answer.sinks] = 0
    shares = shares @ answer.token_map.indicator(["image_1", "image_2"])
    found = heights(answer.plot("grid", token=0)).T.reshape(shares.shape)
    assert found / found.max() == pytest.approx(shares / shares.max(), abs=1e-6)


def test_shares_of_heads_are_the_same_in_small_pieces(answer, monkeypatch):
    groups = answer.token_map.indicator(["image_1", "image_2"])
    at_once = answer.record.head_shares(groups, [0, 1])
    monkeypatch.setattr(record, "ROWS_OF_BYTES", 1)
    assert answer.record.head_shares(groups, [0, 1]) == pytest.approx(at_once)


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(OptionError, match="there is no head 7 in layer 0 to outline: there are 1 layers of 2"):
        head_grid(np.ones((1, 2, 1)), ["image_1"], outline=[(0, 7)])


def placed(ax):
    """Left end, foot and text of everything that is written."""
    return [(*text.get_position(), text.get_text(), text.get_fontsize()) for text in ax.texts]


@pytest.mark.parametrize("text", ["a few words that go on and on ", "很多很多的中文字"])
def test_long_texts_wrap_inside_the_figure_and_no_word_covers_another(text):
    pieces = [f" {piece}" for piece in text.split()] if " " in text else list(text)
    pieces = [0, *pieces * 30]
    ax = word_weights(pieces, np.linspace(0, 0.1, len(pieces)), title="words")
    width = ax.get_window_extent().width / ax.figure.dpi
    lines: dict[float, float] = {}
    for x, y, written, points in placed(ax):
        if points == words.POINTS:
            assert x >= lines.get(y, 0.0) - 1e-6
            lines[y] = x + inches(written, points)
    assert len(lines) > 2
    assert max(lines.values()) <= width
    assert max(lines) < ax.get_ylim()[0]


def test_the_measure_of_a_text_is_that_of_the_figure():
    ax = Figure(figsize=(9, 2)).subplots()
    for text in ("What is in image 2?", "图像4是 iPhone" if len(font_family()) > 1 else "iPhone"):
        artist = ax.text(0, 0, text, fontsize=20, family=list(font_family()))
        assert inches(text, 20) == pytest.approx(artist.get_window_extent().width / ax.figure.dpi, rel=0.03)


def test_words_of_an_answer_are_what_its_token_read(answer):
    ax = answer.plot("words", token=1)
    weights = answer.mean_attention()[1].astype(np.float64)
    weights[answer.sinks] = 0
    seen = weights @ answer.token_map.indicator(["image_1", "image_2"])
    assert [text.get_text() for text in ax.texts[:4]] == ["1", f"{100 * seen[0]:.1f} %", "2", f"{100 * seen[1]:.1f} %"]
    texts = [text.get_text() for text in ax.texts]
    assert texts[4:9] == ["What", "is", "in", "image", "2"]
    assert "Microsoft" in texts
    (framed,) = [patch for patch in ax.patches if patch.get_linewidth() > 1]
    at = [text.get_text() for text in ax.texts if text.get_position()[0] == pytest.approx(framed.get_x() + words.PAD)]
    assert answer.tokens[1].text.strip() in at
    assert "not why it" in " ".join(ax.get_title(loc="left").split())


@pytest.mark.parametrize("options", [{"layer": -1}, {"head": 0}, {"layer": 2, "head": 1}, {"token": "Microsoft"}])
def test_words_of_a_layer_a_head_or_a_word(answer, options):
    title = answer.plot("words", **options).get_title(loc="left")
    assert all(f"{name} {value}" in title for name, value in options.items() if name != "token")


def test_of_a_very_long_text_the_least_is_left_out_and_counted():
    count = 3 * words.MOST
    numbers = np.full(count, 1e-4)
    numbers[[5, 900]] = 0.2
    ax = word_weights([f" w{k}" for k in range(count)], numbers, marked=[1000])
    texts = [text.get_text() for text in ax.texts]
    assert {"w5", "w900", "w1000"} <= set(texts)
    left = [text for text in texts if text.startswith("[…")]
    assert sum(int(text.split()[0][2:]) for text in left) == count - words.MOST


def test_words_and_numbers_must_fit():
    with pytest.raises(OptionError, match="weights has 2 numbers for 1 words"):
        word_weights(["a"], [0.1, 0.2])
