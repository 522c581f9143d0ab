"""An attribution in a cell: pictures, bars and what the scores are, without a script, whatever a model said."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace

import pytest
from PIL import Image

import vila_lab
from tests.inside import head_of
from vila_lab.view import scored


@pytest.fixture(scope="module")
def answer():
    folder = vila_lab.demo_images()
    return vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])


def bars_in(html: str) -> list[str]:
    return re.findall(r"<code>(.*?)</code>", html)


def test_a_cell_has_pictures_bars_and_its_honesty_line(answer):
    found = answer.attribute("leave_one_out")
    bundle = found._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    html = bundle["text/html"]
    assert html.count("<img ") == 2
    assert f"{found.total()['image_2']:+.3g}" in html
    assert "leave_one_out: log-probability, signed, baseline remove; 3 forwards, 0 backwards." in html
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width > 500


def test_it_needs_no_script_and_no_style(answer):
    html = answer.attribute("leave_one_out")._repr_mimebundle_()["text/html"]
    assert not re.search(r"<script|<style|style=|class=|bgcolor|https?:", html)


def test_its_repr_stays_one_short_line(answer):
    found = answer.attribute("leave_one_out")
    assert found._repr_mimebundle_()["text/plain"] == repr(found)
    assert "\n" not in repr(found)
    assert len(repr(found)) < 150


def test_the_longest_bar_is_the_picture_that_counts_most_and_signs_look_different(answer):
    found = answer.attribute("leave_one_out")
    first, second, *_ = bars_in(scored.html(found))
    scores = found.total()
    assert (len(second) > len(first)) == (abs(scores["image_2"]) > abs(scores["image_1"]))
    against = replace(found, values=-found.values)
    assert set(bars_in(scored.html(against))[1]) == {scored.AGAINST}
    assert scored.AGAINST not in second


def test_the_map_is_that_of_the_picture(answer):
    found = answer.attribute("attention", sinks=True)
    addresses = re.findall(r'src="data:image/webp;base64,([^"]+)"', scored.html(found))
    assert len(addresses) == 2
    flat = replace(found, values=found.values * 0)
    same = re.findall(r'src="data:image/webp;base64,([^"]+)"', scored.html(flat))
    assert addresses[1] != same[1]


def test_what_a_model_said_never_becomes_markup(answer):
    found = replace(
        answer.attribute("leave_one_out"),
        target="<script>alert(1)</script>\udc80",
        contrast='"<b>',
        note="<img src=x> $x^2$",
    )
    html = found._repr_mimebundle_()["text/html"]
    assert "<script" not in html
    assert "<img src=x>" not in html
    html.encode()


def test_a_word_by_itself_a_contrast_and_options_stand_in_the_heading(answer):
    found = answer.attribute("shapley", "Microsoft", contrast="Google", samples=2)
    assert scored.heading(found) == "shapley, samples=2 of 'Microsoft' rather than 'Google'"


def test_a_prompt_without_pictures_has_its_bar():
    found = vila_lab.load().ask("What is a cat?", max_new_tokens=2).attribute("phrases")
    bundle = found._repr_mimebundle_()
    assert bars_in(bundle["text/html"]) != [""]
    assert "image/png" in bundle


def test_scores_that_are_no_numbers_are_dashes(answer):
    found = answer.attribute("leave_one_out")
    bundle = replace(found, values=found.values * float("nan"))._repr_mimebundle_()
    assert "<td>–</td>" in bundle["text/html"]
    assert "image/png" in bundle


def test_without_matplotlib_numbers_and_bars_stay(answer, monkeypatch):
    found = answer.attribute("leave_one_out")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    bundle = found._repr_mimebundle_()
    assert "image/png" not in bundle
    assert bars_in(bundle["text/html"])[1]


@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_plot_is_a_page_wide_with_its_title_inside_and_letters_that_stay_letters(count):
    pictures = [Image.new("RGB", (60 + 20 * (k % 3), 60), (20 * k, 90, 120)) for k in range(count)]
    answer = vila_lab.load().ask([*pictures, "What is in image 1?"], max_new_tokens=2)
    figure = answer.attribute("integrated_gradients", steps=2).plot()
    figure.canvas.draw()
    assert len(figure.axes) == count
    assert figure.get_figwidth() <= 11
    title = head_of(figure).get_window_extent()
    assert figure.bbox.x0 <= title.x0
    assert title.x1 <= figure.bbox.x1
    assert title.y1 <= figure.bbox.y1 + 1
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf")
    assert b"/Type3" not in buffer.getvalue()
