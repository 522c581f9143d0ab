"""The live widget from Python's side: its traits say what was chosen, refuse what is not there, and keep in step."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import vila_lab
from tests.inside import script_of
from vila_lab.errors import MissingExtra, OptionError
from vila_lab.view import explorer
from vila_lab.view.html import viewer_source

pytest.importorskip("anywidget", reason="anywidget is not installed")


@pytest.fixture(scope="module")
def answers():
    folder = vila_lab.demo_images()
    lab = vila_lab.load()
    g, m = folder / "g.png", folder / "m.png"
    return lab.ask([g, m, "What is in image 2?"]), lab.ask([m, g, "What is in image 2?"]), lab.ask([g, "What is this?"])


def test_traits_can_be_set_read_and_observed(answers):
    widget = answers[0].explore()
    heard = []
    widget.observe(lambda change: heard.append((change["name"], change["new"])), names=list(explorer.CHOICES))
    widget.selected_token, widget.layer, widget.selected_region = 1, 3, [1, 0, 0, 10.5, 20]
    assert heard == [("selected_token", 1), ("layer", 3), ("selected_region", [1, 0, 0, 10.5, 20])]
    widget.selected_token = None
    assert widget.selected_token is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("selected_token", 99, "no selected_token 99: this answer has"),
        ("layer", -1, "no layer -1: this answer has 6"),
        ("head", 40, "no head 40"),
        ("selected_region", [7, 0, 0, 1, 1], "names no place"),
        ("selected_region", [0, 1], "names no place"),
    ],
)
def test_what_is_not_there_is_refused(answers, name, value, words):
    widget = answers[0].explore()
    with pytest.raises(OptionError, match=words):
        setattr(widget, name, value)
    assert getattr(widget, name) is None


def test_synchronised_explorers_follow_each_other_as_far_as_they_can(answers):
    one = answers[0].explore()
    one.layer = 2
    two = answers[1].explore(sync=one)
    three = answers[2].explore(sync=[two])
    assert (two.layer, three.layer) == (2, 2)
    three.selected_token = 1
    assert (one.selected_token, two.selected_token) == (1, 1)
    one.selected_region = [1, 0, 0, 10, 10]
    assert two.selected_region == [1, 0, 0, 10, 10]
    assert three.selected_region is None  # its answer has one picture


def test_only_an_explorer_can_be_synchronised(answers):
    with pytest.raises(OptionError, match="sync must be what explore"):
        answers[0].explore(sync="other")


def test_a_head_is_computed_when_the_browser_asks(answers):
    widget = answers[0].explore()
    sent = []
    widget.send = sent.append
    widget.answer_browser(widget, {"id": "a", "layer": 2, "head": 1, "sinks": False}, [])
    widget.answer_browser(widget, {"id": "b", "layer": 2, "head": 99, "sinks": False}, [])
    assert sent[0]["id"] == "a"
    assert (sent[0]["reading"]["layer"], sent[0]["reading"]["heads"]) == (2, "head 1")
    exact = answers[0].attention(layer=2, head=1).to_numpy()[:, 0, 0]
    assert np.isclose(sent[0]["reading"]["scale"], peak_of(answers[0], exact), rtol=1e-3)
    assert "there is no head 99" in sent[1]["error"]


def peak_of(answer, weights):
    kept = weights[[k for k, token in enumerate(answer.tokens) if not token.stop]].astype(float)
    kept[:, answer.sinks] = 0
    return max(answer.token_map.heatmap(kept, k).max() for k in range(len(answer.images)))


def test_the_widget_is_the_same_viewer(answers):
    widget = answers[0].explore()
    assert script_of(widget).startswith(viewer_source())
    assert "export default" in script_of(widget)
    assert widget.payload["live"] == {"layers": 6, "heads": answers[0].attention(layer=0).sizes["head"]}


def test_without_anywidget_the_message_holds_the_pip_line(answers, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorer.widget_class.cache_clear()
    try:
        with pytest.raises(MissingExtra, match=r"pip install 'anywidget>=0\.9\.13'"):
            answers[0].explore()
    finally:
        explorer.widget_class.cache_clear()
