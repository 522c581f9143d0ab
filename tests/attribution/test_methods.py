"""What holds for every method of the registry: labels, sums, sameness, and that nothing is left behind."""

from __future__ import annotations

import pickle
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch

import vila_lab
from tests.attribution.conftest import replay_of, state_of
from vila_lab import progress
from vila_lab.attribution import Attribution
from vila_lab.attribution.registry import NAMES, find
from vila_lab.engine.replay import Replay
from vila_lab.errors import OptionError, PictureError

FEW = {"integrated_gradients": {"steps": 3}, "occlusion": {"cells": (2, 1)}}
CONTRASTED = [name for name in NAMES if find(name).METHOD.contrast]
SIGNED = [name for name in CONTRASTED if find(name).METHOD.signed]


@pytest.fixture(params=NAMES)
def method(request) -> str:
    return request.param


def test_the_registry_describes_every_method():
    table = vila_lab.methods()
    assert tuple(table.index) == NAMES
    assert not table.isna().any().any()
    for name in NAMES:
        about = find(name).METHOD
        assert about.name == name
        assert about.sentence.endswith(".")


def test_the_table_of_methods_prints_whole_and_is_a_table():
    table = vila_lab.methods()
    for shown in (repr(table), table._repr_html_()):
        words = " ".join(unescape(shown).split())
        assert all(sentence in words for sentence in table["measures"])
        assert not re.search(r"\.\.\.|…", words)
    assert max(map(len, repr(table).splitlines())) <= 100
    again = pickle.loads(pickle.dumps(table))
    assert again.equals(table)
    assert type(again) is type(table[["cost"]]) is pd.DataFrame


def test_a_row_per_token_and_a_column_per_picture(two, method):
    found = two.attribute(method, **FEW.get(method, {}))
    assert isinstance(found, vila_lab.Attribution)
    assert found.scores.dims == ("token", "position")
    assert found.scores.shape == (len(two.tokens), len(two.token_map))
    table = found.per_image()
    assert list(table.columns) == ["image_1", "image_2", *(["prompt"] if found.covers_prompt else [])]
    assert table.index.get_level_values("text").tolist() == [token.text for token in two.tokens]
    assert np.isfinite(found.values).all()
    assert found.signed or found.values.min() >= 0
    assert np.abs(found.values).max() > 0


def test_heatmaps_sum_to_the_tables(answer, method):
    found = answer.attribute(method, [0, 2], **FEW.get(method, {}))
    for image in range(len(answer.images)):
        column = f"image_{image + 1}"
        assert found.heatmap(image).sum() == pytest.approx(found.total()[column], abs=1e-6)
        assert found.heatmap(image, 2).sum() == pytest.approx(found.per_image()[column].iloc[1], abs=1e-6)
        np.testing.assert_array_equal(found.heatmap(image, -1), found.heatmap(image, 2))
    with pytest.raises(OptionError, match="token 1 was not scored; scored: 0, 2"):
        found.heatmap(0, 1)


def test_the_same_question_has_the_same_answer(two, method):
    first, second = (two.attribute(method, 1, **FEW.get(method, {})) for _ in range(2))
    np.testing.assert_allclose(first.values, second.values, rtol=1e-4, atol=1e-5)
    assert repr(first) == repr(second)
    assert len(repr(first)) < 200


def test_nothing_is_left_behind(two, method):
    model = replay_of(two).model
    before = state_of(model)
    two.attribute(method, 0, **FEW.get(method, {}))
    assert state_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("layer", [0, -1])
def test_nothing_is_left_behind_by_a_run_that_breaks(two, method, error, layer):
    replay = replay_of(two)
    before = state_of(replay.model)

    def fail(module, inputs):
        raise error

    handle = replay.family.decoder_layers[layer].register_forward_pre_hook(fail)
    try:
        with pytest.raises(type(error)):
            two.attribute(method, 0, **FEW.get(method, {}))
    finally:
        handle.remove()
    assert state_of(replay.model) == before
    assert not replay.lock.locked()


def test_it_works_where_gradients_are_switched_off(two, method):
    with torch.no_grad():
        inside = two.attribute(method, 0, **FEW.get(method, {})).values
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(inside, two.attribute(method, 0, **FEW.get(method, {})).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", SIGNED)
def test_swapping_word_and_contrast_turns_the_sign(two, method):
    options = FEW.get(method, {})
    this, that = "A", "the differences"
    one = two.attribute(method, this, that, at=1, **options)
    other = two.attribute(method, that, this, at=1, **options)
    np.testing.assert_allclose(one.per_image(), -other.per_image().to_numpy(), atol=1e-5)
    assert one.per_image().abs().to_numpy().max() > 1e-4


@pytest.mark.parametrize("method", sorted(set(NAMES) - set(CONTRASTED)))
def test_methods_without_a_contrast_say_which_have_one(two, method):
    with pytest.raises(OptionError, match=f"{method} takes no contrast; those that do: grad_x_attention"):
        two.attribute(method, 0, "other")


def test_saved_and_opened_it_is_the_same(two, method, tmp_path):
    found = two.attribute(method, **FEW.get(method, {}))
    opened = Attribution.open(found.save(tmp_path / "a.attribution"))
    assert repr(opened) == repr(found)
    assert opened.cost == found.cost
    assert opened.note == found.note
    assert opened.scores.identical(found.scores)
    assert opened.per_image().equals(found.per_image())
    np.testing.assert_array_equal(opened.heatmap(1), found.heatmap(1))
    for name, extra in found.extras.items():
        assert opened.extras[name].equals(extra)
    if found.features:
        assert opened.per_feature().equals(found.per_feature())
        assert opened.standard_error().equals(found.standard_error())


def test_the_answers_heatmap_is_the_methods(two, method, monkeypatch):
    if method in ("attention", "integrated_gradients"):
        pytest.skip("the answer's own map; thirty steps for each of four tokens")
    heat = two.heatmap(0, 1, method=method)
    afresh = two.experiment("attribute", method=method, token=1)
    np.testing.assert_allclose(heat, afresh.heatmap(0), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(Replay, "decode", None)
    np.testing.assert_array_equal(two.heatmap(0, 1, method=method), heat)  # nothing is computed twice


def test_totals_leave_out_the_token_that_ended_the_answer(microsoft):
    found = microsoft.attribute("leave_one_out")
    assert found.stop == (False, False, True)
    assert found.total().equals(found.per_image().iloc[:2].sum())
    shares = microsoft.attribute("attention")
    assert shares.total().equals(shares.per_image().iloc[:2].mean())


@pytest.mark.parametrize(
    "token", [[], np.array([0, 1]), 0.0, True, {"a": 1}], ids=["none", "array", "float", "bool", "dict"]
)
def test_what_points_at_no_token_is_said(two, token):
    with pytest.raises(OptionError, match="token"):
        two.attribute("leave_one_out").heatmap(0, token)


def test_a_plot_shows_every_picture_on_one_scale(two):
    figure = two.attribute("leave_one_out", 0).plot()
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["picture 1", "picture 2"]
    assert "log-probability, signed, baseline remove" in figure.get_suptitle().replace("\n", " ")
    assert len(two.attribute("attention").plot(image=1).axes) == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.attribute("magic"), "unknown method 'magic'; known: attention, attention_value"),
        (lambda a: a.attribute("relevancy", 99), "there is no token 99: this answer has 4"),
        (lambda a: a.attribute("relevancy", "elephant"), "'elephant' is not in the answer"),
        (lambda a: a.attribute("relevancy", 0, " "), "has no tokens"),
        (lambda a: a.attribute("relevancy", steps=3), "relevancy has no option 'steps'; it has at, score"),
        (lambda a: a.attribute("shapley", sample=3), r"'sample' \(did you mean 'samples'\?\)"),
        (lambda a: a.attribute("attention").per_feature(), "leaves nothing out"),
        (lambda a: a.attribute("attention").heatmap(7), "there is no picture 7"),
    ],
    ids=["method", "token", "word", "contrast", "option", "misspelt", "features", "picture"],
)
def test_a_wrong_question_gets_one_sentence(two, ask, message):
    with pytest.raises(OptionError, match=message):
        ask(two)


@pytest.mark.parametrize("content", [b"", b"no attribution", b"\x00" * 64])
def test_opening_something_else_says_so(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(PictureError, match="not a saved attribution"):
        Attribution.open(path)
    with pytest.raises(FileNotFoundError, match="no saved attribution"):
        Attribution.open(tmp_path / "none")


def test_opening_an_answer_as_an_attribution_says_so(two, tmp_path):
    with pytest.raises(PictureError, match="not a saved attribution"):
        Attribution.open(two.save(tmp_path / "a.vila"))


def test_an_attribution_does_not_stop_a_question(two, golden_session, golden_image):
    """The lock is the session's own: a question waits for the method, not for ever."""
    assert replay_of(two).lock is golden_session("nvila-lite").engine.lock
    two.attribute("relevancy", 0)
    assert golden_session("nvila-lite").ask([golden_image("a_land.png"), "What?"], max_new_tokens=1).tokens


@pytest.fixture
def bars(monkeypatch):
    """Bars show, also where the tests themselves are run without them."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def test_a_bar_appears_only_for_what_takes_long(two, capsys, monkeypatch, bars):
    two.experiment("attribute", method="leave_one_out")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    two.experiment("attribute", method="leave_one_out")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "variants" in captured.err
    monkeypatch.setenv("TQDM_DISABLE", "1")
    two.experiment("attribute", method="leave_one_out")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("method", [name for name in NAMES if find(name).METHOD.cost != "1 forward"])
def test_what_can_take_long_has_a_bar(two, method, capsys, monkeypatch, bars):
    """Whatever runs the model more than once, or back through it once per token."""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    two.experiment("attribute", method=method, **FEW.get(method, {}))
    assert "/s]" in capsys.readouterr().err
