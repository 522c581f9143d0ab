"""Answers side by side: named by what differs, aligned, in step in the browser, and clear about unlike questions."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

import vila_lab
from vila_lab.errors import CaptureError, OptionError
from vila_lab.view.compare import Comparison


@pytest.fixture(scope="module")
def answers():
    folder = vila_lab.demo_images()
    lab = vila_lab.load()
    g, m = folder / "g.png", folder / "m.png"
    return lab.ask([g, m, "What is in image 2?"]), lab.ask([m, g, "What is in image 2?"]), lab.ask([g, "What is this?"])


def views(make_view, *tokens, **options):
    made = [make_view(2, one, **options) for one in tokens]
    return Comparison("ABC"[: len(made)], made, [[0, 1]] * len(made))


def test_two_orders_are_named_by_their_order(answers):
    found = vila_lab.compare(answers[0], answers[1])
    assert found.labels == ("order 1, 2", "order 2, 1")
    assert found.notes[0].startswith("The same pictures in another order")
    assert found.pictures == ((0, 1), (1, 0))


def test_names_of_ones_own(answers):
    assert vila_lab.compare(before=answers[0], after=answers[1]).labels == ("before", "after")
    assert vila_lab.compare(answers[0], other=answers[0]).labels == ("embedded", "other")


def test_the_same_answer_twice_gets_letters_and_is_said_to_be_the_same(answers):
    found = vila_lab.compare(answers[0], answers[0])
    assert found.labels == ("answer A", "answer B")
    assert found.notes == ("The answers are word for word the same.",)


def test_edits_name_the_answers(answers, monkeypatch):
    monkeypatch.setattr(answers[1].record, "edits", ("image 2 → answer cut",))
    assert vila_lab.compare(answers[0], answers[1]).labels == ("without an edit", "image 2 → answer cut")


def test_unlike_questions_and_pictures_are_said(answers):
    notes = " ".join(vila_lab.compare(answers[0], answers[2]).notes)
    assert "The questions differ" in notes
    assert "The pictures differ" in notes


@pytest.mark.parametrize(("given", "words"), [(1, "at least two answers"), (0, "at least two answers")])
def test_too_few_answers(answers, given, words):
    with pytest.raises(OptionError, match=words):
        vila_lab.compare(*answers[:given])


def test_what_is_no_answer_is_named(answers):
    with pytest.raises(OptionError, match="argument 2 of 2 is str"):
        vila_lab.compare(answers[0], "answer")
    with pytest.raises(OptionError, match="argument 2 of 2 is Attribution"):
        vila_lab.compare(answers[0], answers[0].attribute("attention"))


def test_the_display_has_three_lives(answers, tmp_path):
    found = vila_lab.compare(answers[0], answers[1])
    bundle = found._repr_mimebundle_()
    assert list(bundle) == ["text/html", "text/plain", "image/png"]
    assert answers[0].text in bundle["text/plain"]
    assert answers[1].text in bundle["text/plain"]
    assert bundle == vila_lab.compare(answers[0], answers[1])._repr_mimebundle_()
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).height > 600
    assert found.to_html(tmp_path / "both.html").read_text(encoding="utf-8").count("<script") == 1


@pytest.mark.browser
def test_a_selection_in_one_is_made_in_all(make_view, open_page, tmp_path):
    both = views(make_view, ("a", " red", " cat"), ("a", " blue", " cat", "."))
    both.to_html(tmp_path / "both.html")
    sheet = open_page(
        (tmp_path / "both.html").read_text(encoding="utf-8"), wait="section:nth-child(2) .chip", width=1400
    )
    parts = [sheet.locator(".columns > section").nth(k) for k in range(2)]
    assert [part.locator("h3").first.inner_text() for part in parts] == ["A", "B"]
    assert [part.locator(".chip.changed bdi").all_inner_texts() for part in parts] == [["red"], ["blue", "."]]
    parts[0].locator(".chip").nth(1).click()
    assert parts[1].locator(".chip.pinned bdi").inner_text() == "blue"
    parts[1].locator(".chip").nth(3).click()  # it has no counterpart
    assert parts[0].locator(".chip.pinned bdi").all_inner_texts() == ["red"]
    parts[1].locator(".stack").first.focus()
    sheet.keyboard.press("Enter")
    assert parts[0].locator(".region").count() == 1
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 1400


@pytest.mark.browser
def test_a_region_follows_its_picture_into_another_order(make_view, open_page, tmp_path):
    view = make_view(2, ("a",), shape="square")
    both = Comparison(("A", "B"), (view, replace(view, images=view.images[::-1])), ((0, 1), (1, 0)))
    both.to_html(tmp_path / "both.html")
    sheet = open_page(
        (tmp_path / "both.html").read_text(encoding="utf-8"), wait="section:nth-child(2) .chip", width=360
    )
    parts = [sheet.locator(".columns > section").nth(k) for k in range(2)]
    parts[0].locator(".stack").first.focus()
    sheet.keyboard.press("Enter")
    assert parts[1].locator("figure").nth(1).locator(".region").count() == 1
    assert parts[1].locator("figure").nth(0).locator(".region").count() == 0
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.fixture(scope="module")
def alike():
    folder = vila_lab.demo_images()
    lab = vila_lab.load()
    g, m = folder / "g.png", folder / "m.png"
    return [lab.ask([*pictures, "What is in image 2?"]) for pictures in ([g, m], [m, g])]


def names_in(payload):
    return {one["name"] for one in (payload, *payload["readings"])}


def test_methods_are_taken_by_name_and_computed_for_every_answer(alike, tmp_path):
    found = vila_lab.compare(*alike, attributions=["leave_one_out"])
    assert all("leave_one_out" in names_in(one["payload"]) for one in found.payload["answers"])
    assert [one.method for one in alike[1].attributions] == ["leave_one_out"]
    page = vila_lab.compare(*alike).to_html(tmp_path / "both.html", attributions=["occlusion"])
    assert page.read_text(encoding="utf-8").count('"name":"occlusion"') == 2


def test_a_result_is_shown_with_the_answers_it_fits(alike, answers):
    folder = vila_lab.demo_images()
    other = vila_lab.load().ask([folder / "g.png", "What is this?"])
    result = other.experiment("attribute", method="phrases")
    found = vila_lab.compare(other, answers[0], attributions=[result])
    assert ["phrases" in names_in(one["payload"]) for one in found.payload["answers"]] == [True, False]
    with pytest.raises(CaptureError, match="phrases attribution was computed on none of these"):
        vila_lab.compare(*alike, attributions=[result])


def test_one_result_by_itself_is_taken_as_everywhere(alike):
    found = alike[0].experiment("attribute", method="rollout")
    assert (
        vila_lab.compare(*alike, attributions=found).payload == vila_lab.compare(*alike, attributions=[found]).payload
    )


@pytest.mark.parametrize("given", [None, 3, [3]])
def test_what_is_no_attribution_is_said(alike, given):
    for call in (vila_lab.compare, lambda one, other, **options: one.display(**options)):
        with pytest.raises(OptionError, match="attributions= takes names of methods and results of attribute, not"):
            call(*alike, attributions=given)


def test_a_comparison_of_views_has_no_more_methods(make_view, tmp_path):
    with pytest.raises(OptionError, match="is of views"):
        views(make_view, ("a",), ("b",)).to_html(tmp_path / "both.html", attributions=["rollout"])


def test_an_unknown_method_and_scale_are_named(alike):
    with pytest.raises(OptionError, match="did you mean 'leave_one_out'"):
        vila_lab.compare(*alike, attributions=["leave_one_ot"])
    with pytest.raises(OptionError, match=r"unknown scale 'share' \(did you mean 'shared'\?\); known: own, shared"):
        vila_lab.compare(*alike, scale="share")


def test_one_scale_for_all_answers(alike, tmp_path):
    own = vila_lab.compare(*alike, attributions=["leave_one_out"]).payload["answers"]
    shared = vila_lab.compare(*alike, attributions=["leave_one_out"], scale="shared")
    packed = [one["payload"] for one in shared.payload["answers"]]
    assert "top" not in own[0]["payload"]
    for readings in zip(*([payload, *payload["readings"]] for payload in packed), strict=True):
        assert {one["name"] for one in readings} == {readings[0]["name"]}
        assert [one["top"] for one in readings] == [max(one["scale"] for one in readings)] * 2
        assert [one["totalTop"] for one in readings] == [max(one["totalScale"] for one in readings)] * 2
    assert [view.top for view in shared.views] == [
        max(total.max() for view in shared.views for total in view.total)
    ] * 2


@pytest.mark.browser
def test_on_a_shared_scale_the_same_colour_is_the_same_number(make_view, open_page, tmp_path):
    strong = make_view(1, ("a", " cat"))
    weak = replace(strong, heatmaps=[heat / 4 for heat in strong.heatmaps], total=[total / 4 for total in strong.total])
    for scale, is_same in (("own", True), ("shared", False)):
        both = Comparison(("A", "B"), (strong, weak), ((0,), (0,)), scale=scale)
        sheet = open_page(both.page_text(), wait="section:nth-child(2) .chip", width=1400)
        pixels = [
            sheet.locator(".columns > section")
            .nth(k)
            .locator("canvas")
            .evaluate(
                "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].join()"
            )
            for k in range(2)
        ]
        assert (pixels[0] == pixels[1]) == is_same
        words = sheet.locator(".scale", has_text="one scale for all answers")
        assert words.count() == (0 if scale == "own" else 2)


PARTS = ("h3", ".edits", ".answer", ".read", ".controls", ".pictures", ".scale", "footer")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1000, 1500, 2000])
def test_columns_stay_aligned_whatever_their_answers_hold(make_view, with_layers, open_page, width):
    short = with_layers(make_view(2, ("a",), title="Short?"))
    long = replace(make_view(4, "many", title="A much longer question, " * 12), edits=("image 1 → answer cut",))
    sheet = open_page(
        Comparison(("A", "B"), (short, long), ((0, 1), (0, 1, 2, 3))).page_text(),
        wait="section:nth-child(2) .chip",
        width=width,
    )
    parts = [sheet.locator(".columns > section").nth(k) for k in range(2)]
    for name in PARTS:
        tops = [part.locator(name).first.bounding_box()["y"] for part in parts if part.locator(name).first.is_visible()]
        assert max(tops) - min(tops) < 1, name
    assert parts[0].locator(".answer").bounding_box()["y"] > parts[1].locator(".edits").bounding_box()["y"]
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width
