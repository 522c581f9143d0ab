"""The viewer on paper and on a phone, and what it says of the model, its confidence and its sinks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vila_lab.view.html import live, static, whole_page
from vila_lab.view.payload import pack, to_json

pytestmark = pytest.mark.browser

PHONE = {"width": 375, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
INSIDE = """(node) => { const box = node.getBoundingClientRect();
  return box.top >= -1 && box.bottom <= innerHeight + 1 && box.left >= -1 && box.right <= innerWidth + 1; }"""


def page_of(view, **more):
    """A page whose payload holds more than the view."""
    identity, script = live("mount", to_json(pack(view) | more))
    return whole_page("t", static(identity, "words", None), script)


# ---- a phone ----


def phone(open_page, content):
    sheet = open_page(content, **PHONE)
    sheet.set_viewport_size({"width": 375, "height": 667})
    return sheet


def read_most(view, token):
    return int(np.argmax(view.ledger[token, : len(view.images)]))


@pytest.mark.parametrize("pictures", [1, 4, 8])
@pytest.mark.parametrize("scrolled", [False, True])
def test_the_token_and_the_picture_it_moves_to_are_seen_together(make_view, open_page, pictures, scrolled):
    view = make_view(pictures, "words")
    sheet = phone(open_page, view)
    for token in (1, 8, 4):
        if scrolled:
            sheet.locator("figure").first.evaluate("figure => figure.scrollIntoView({ block: 'start' })")
        sheet.locator(".chip").nth(token).tap()
        sheet.wait_for_timeout(100)
        assert sheet.locator(".chip.pinned").last.evaluate(INSIDE)
        assert sheet.locator(".stack").nth(read_most(view, token)).evaluate(INSIDE)
        sheet.locator(".chip").nth(token).tap()


def test_a_long_answer_scrolls_in_its_own_bar(make_view, open_page):
    view = make_view(4, tuple(f" word{k}" for k in range(200)), title="word " * 300)
    sheet = phone(open_page, view)
    sheet.locator(".chip").nth(150).scroll_into_view_if_needed()
    sheet.locator(".chip").nth(150).tap()
    sheet.wait_for_timeout(100)
    assert sheet.locator(".chip.pinned").evaluate(INSIDE)
    assert sheet.locator(".stack").nth(read_most(view, 150)).evaluate(INSIDE)


def test_pictures_are_swiped_and_a_tap_still_selects(make_view, open_page):
    sheet = phone(open_page, make_view(4, "words"))
    gallery = sheet.locator(".pictures")
    assert (
        gallery.evaluate("one => one.scrollWidth > one.clientWidth && getComputedStyle(one).scrollSnapType")
        == "x mandatory"
    )
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 375
    sheet.locator(".stack").first.tap()
    assert sheet.locator(".region").count() == 1


def test_what_is_touched_is_large_enough(make_view, with_layers, open_page):
    sheet = phone(open_page, with_layers(make_view(3, ("a", ".", " b"))))
    targets = sheet.locator("button, select, input, .chip")
    sizes = [target.bounding_box() for target in targets.all() if target.is_visible()]
    assert len(sizes) > 12
    assert min(min(box["width"], box["height"]) for box in sizes) >= 24


def test_a_wide_window_shows_all_pictures_at_once(make_view, open_page):
    sheet = open_page(make_view(4, "words"), width=800)
    gallery = sheet.locator(".pictures")
    assert gallery.evaluate("one => one.scrollWidth <= one.clientWidth + 1")
    assert sheet.locator(".answer").evaluate("one => getComputedStyle(one).position") == "static"


# ---- paper ----


def on_paper(sheet, width=718):
    """As it lies on a page of A4."""
    sheet.set_viewport_size({"width": width, "height": 1000})
    sheet.emulate_media(media="print", color_scheme="dark")
    return sheet


@pytest.mark.parametrize("width", [718, 420])
def test_paper_shows_whole_pictures_in_their_colours_and_no_controls(make_view, with_layers, open_page, width):
    sheet = on_paper(open_page(with_layers(make_view(8, "many")), scheme="dark"), width)
    for selector in ("button", "select", "input", ".save", "output"):
        assert [one for one in sheet.locator(selector).all() if one.is_visible()] == [], selector
    assert "per cell" in sheet.locator(".scale").inner_text()  # the scale stays
    style = lambda selector, name: sheet.locator(selector).first.evaluate(f"one => getComputedStyle(one).{name}")  # noqa: E731
    for selector in (".chip > span", ".badge", ".stack img"):
        assert style(selector, "printColorAdjust") == "exact", selector
    assert style("figure", "breakInside") == "avoid"
    assert style(".view", "backgroundColor") == "rgb(255, 255, 255)"
    gallery = sheet.locator(".pictures").bounding_box()
    for figure in sheet.locator("figure").all():
        box = figure.bounding_box()
        assert box["x"] >= gallery["x"] - 1
        assert box["x"] + box["width"] <= gallery["x"] + gallery["width"] + 1
        assert box["height"] < 900


def test_paper_cuts_off_no_text(make_view, open_page):
    tokens = tuple(f" word{k}" for k in range(400))
    sheet = on_paper(open_page(make_view(1, tokens, title="question " * 1500)))
    for selector in (".prompt", ".tokens"):
        assert sheet.locator(selector).evaluate("one => one.scrollHeight <= one.clientHeight + 1"), selector


def test_a_pdf_of_many_pictures_has_several_pages(make_view, open_page, tmp_path):
    sheet = open_page(make_view(12, "many"), scheme="dark")
    sheet.pdf(path=tmp_path / "answer.pdf", format="A4")
    assert (tmp_path / "answer.pdf").read_bytes().count(b"/Type /Page\n") >= 2


# ---- the model, its confidence, its sinks ----


def test_the_model_and_the_sink_are_named(make_view, open_page):
    note = "positions that draw attention whatever is asked <b>"
    sheet = open_page(page_of(make_view(2, "words"), model="embedded & small", sink_note=note))
    footer = sheet.locator("footer").inner_text()
    assert "Model: embedded & small" in footer
    assert f"Sink: {note}" in footer
    assert sheet.locator(".legend li").last.get_attribute("title") == note


def test_confidence_is_on_every_token_and_in_the_line_below(make_view, open_page):
    view = make_view(2, ("a", "b", "c"))
    sheet = open_page(page_of(view, probabilities=[0.5, 0.25, 0.0001], verdict="rests on picture 2"))
    chips = sheet.locator(".chip")
    shares = [chip.locator("i").bounding_box()["width"] / chip.bounding_box()["width"] for chip in chips.all()]
    assert shares == pytest.approx([0.5, 0.25, 0], abs=0.02)
    assert [chip.get_attribute("title") for chip in chips.all()] == [
        "probability 50.0 %",
        "probability 25.0 %",
        "probability below 0.1 %",
    ]
    assert chips.first.get_attribute("aria-label").endswith("; probability 50.0 %")
    assert "below 0.1 %, all tokens in a row" in sheet.locator(".sure").inner_text()
    chips.nth(1).click()
    assert sheet.locator(".sure").inner_text().endswith(": 25.0 %")
    chips.nth(0).click()
    assert sheet.locator(".sure").inner_text().endswith(": A 25.0 % · B 50.0 %")
    assert sheet.locator(".verdict").inner_text() == "Verdict: rests on picture 2"


def test_what_is_not_told_is_not_drawn(make_view, open_page):
    sheet = open_page(replace(make_view(2, "words"), notes=()))
    assert sheet.locator(".chip i, .sure, .verdict").count() == 0
    assert "Model" not in sheet.locator("footer").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_with_everything_told(make_view, open_page, contrast_in, scheme):
    view = make_view(3, "words")
    more = {"probabilities": [0.9] * len(view.tokens), "verdict": "rests on picture 1", "model": "m", "sink_note": "s"}
    found = open_page(page_of(view, **more), scheme=scheme).evaluate(contrast_in)
    assert found[0][0] >= 4.5, found[:5]
