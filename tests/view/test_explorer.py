"""The live widget from Python's side: its traits say what was chosen, refuse what is not there, and keep in step."""

from __future__ import annotations

import base64
import io
import json
import queue
import re
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import vila_lab
from tests.inside import script_of
from vila_lab.errors import MissingExtra, OptionError
from vila_lab.view import explorer
from vila_lab.view.computing import Computing
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
        ("selected_region", [0, "a", 0, 1, 1], "names no place"),
        ("selected_region", [0, float("nan"), 0, 1, 1], "names no place"),
        ("selected_region", [0, 9, 9, 1, 1], "names no place"),
        ("selected_region", [0, 9999, 0, 99999, 1], "names no place"),
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
    live = widget.payload["live"]
    assert (live["layers"], live["heads"]) == (6, answers[0].attention(layer=0).sizes["head"])
    assert set(live["methods"]) == set(vila_lab.methods().index) - {"attention"}


def test_without_anywidget_the_message_holds_the_pip_line(answers, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorer.widget_class.cache_clear()
    try:
        with pytest.raises(MissingExtra, match=r"pip install 'anywidget>=0\.9\.13'"):
            answers[0].explore()
    finally:
        explorer.widget_class.cache_clear()


# ---- a method that is not there yet ----


@pytest.fixture
def fresh():
    folder = vila_lab.demo_images()
    return vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])


@pytest.fixture
def heard(fresh):
    """An explorer, and a queue of what it tells the browser."""
    widget, told = fresh.explore(), queue.Queue()
    widget.send = told.put
    yield widget, told
    widget.close()


def last(told: queue.Queue) -> dict:
    """What ends an errand."""
    while "progress" in (message := told.get(timeout=60)):
        pass
    return message


def test_a_method_is_computed_when_the_browser_asks_and_stays_with_the_answer(fresh, heard):
    widget, told = heard
    widget.answer_browser(widget, {"id": "a", "method": "leave_one_out"}, [])
    message = last(told)
    assert (message["id"], message["reading"]["name"]) == ("a", "leave_one_out")
    (found,) = fresh.attributions
    assert fresh.attribute("leave_one_out") is found
    assert widget.payload["readings"][-1]["name"] == "leave_one_out"
    assert f"{found.cost.forwards} forwards" in message["reading"]["method"]


def test_methods_that_are_there_from_the_start_are_asked_for_by_name(fresh):
    widget = fresh.explore(attributions=["leave_one_out"])
    assert "leave_one_out" in {one["name"] for one in widget.payload["readings"]}


def test_progress_is_told_while_it_is_computed(heard):
    widget, told = heard
    widget.answer_browser(widget, {"id": "a", "method": "occlusion"}, [])
    first = told.get(timeout=60)
    assert first["id"] == "a"
    done, total, what = first["progress"]
    assert 0 <= done < total
    assert what


def test_a_method_is_given_up_within_a_pass_and_the_model_is_free(fresh, heard, monkeypatch):
    widget, told = heard
    family, passes, begun = vila_lab.load().family, [], threading.Event()
    plain = family.decode_copies

    def slow(*given, **options):
        passes.append(1)
        begun.set()
        time.sleep(0.1)
        return plain(*given, **options)

    monkeypatch.setattr(family, "decode_copies", slow)
    widget.answer_browser(widget, {"id": "a", "method": "occlusion"}, [])
    assert begun.wait(30)
    widget.answer_browser(widget, {"cancel": "a"}, [])
    assert np.isfinite(fresh.attribute("leave_one_out", 0).values).all()  # waits for its turn
    count = len(passes)
    time.sleep(0.5)
    assert len(passes) == count
    assert [found.method for found in fresh.attributions] == ["leave_one_out"]
    assert not fresh.replay.lock.locked()
    assert all("progress" in message for message in list(told.queue))


@pytest.mark.parametrize(
    ("method", "words"), [("magic", "unknown method 'magic'"), ("leave_one_out", "no picture, so there is none")]
)
def test_what_goes_wrong_is_said_in_the_widget(method, words):
    answer, told = vila_lab.load().ask("What is a cat?", max_new_tokens=2), queue.Queue()
    widget = answer.explore()
    widget.send = told.put
    widget.answer_browser(widget, {"id": "a", "method": method}, [])
    assert words in last(told)["error"]


def test_a_fault_of_ours_is_said_in_the_widget_too():
    heard: queue.Queue = queue.Queue()
    Computing(lambda: 1 / 0, lambda *told: None, lambda *ended: heard.put(ended))
    assert heard.get(timeout=10) == (None, "ZeroDivisionError: division by zero")


def test_without_a_model_no_method_is_offered(fresh, tmp_path):
    again = vila_lab.open(fresh.save(tmp_path / "a.vila"))
    assert again.explore().payload["live"]["methods"] == []


# ---- what stays when the kernel is gone ----


def payload_of(html: str) -> dict:
    return json.loads(re.search(r"^const payload = (.*);$", html, re.M)[1])


def test_its_cell_is_html_and_a_picture_and_no_widget(answers):
    widget = answers[0].explore()
    bundle, _ = widget._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert "Microsoft" in bundle["text/plain"]
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width > 600
    assert '<img alt="' in bundle["text/html"].partition("<script")[0]
    assert payload_of(bundle["text/html"])["explorer"]["key"] == widget.key
    assert payload_of(bundle["text/html"])["tokens"] == widget.payload["tokens"]


def test_its_cell_shows_the_present_state(answers):
    widget = answers[0].explore()
    first = widget._repr_mimebundle_()[0]
    widget.selected_token, widget.layer, widget.head = 1, 2, 1
    now = widget._repr_mimebundle_()[0]
    chosen = payload_of(now["text/html"])["explorer"]
    assert (chosen["tokens"], chosen["layer"], chosen["head"]) == ([1], 2, 1)
    assert payload_of(now["text/html"])["readings"][-1]["heads"] == "head 1"
    assert "layer 2 of 0 to 5, head 1 only" in now["text/plain"]
    assert now["image/png"] != first["image/png"]


@pytest.mark.parametrize("place", ["colab", "vscode"])
def test_where_only_views_are_live_there_is_one_beside_the_html(answers, monkeypatch, place):
    if place == "colab":
        monkeypatch.setitem(sys.modules, "google.colab", object())
        monkeypatch.setattr("anywidget.widget.in_colab", lambda: False)
    else:
        monkeypatch.setenv("VSCODE_PID", "1")
    bundle, _ = answers[0].explore()._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png"} <= set(bundle)


def test_its_repr_is_short_and_stable(answers):
    assert repr(answers[0].explore()) == repr(answers[0].explore()) == "Explorer('What is in image 2?')"


@pytest.mark.slow
def test_an_executed_notebook_holds_it_and_its_page_is_not_blank(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    source = (
        "import vila_lab\nanswer = vila_lab.load().ask([vila_lab.demo_images() / 'g.png', 'What is in image 1?'])\n"
        "widget = answer.explore()\nwidget.layer = 3\nwidget"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "image/png", "text/plain"}
    page = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(notebook)[0]
    assert "widget-view+json" not in page
    assert '<img alt="' in page
