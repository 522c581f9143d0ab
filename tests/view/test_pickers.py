"""What the reader chooses in the viewer: two tokens, layers, methods, scales, cells, regions; and input that is odd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vila_lab.view import page_text
from vila_lab.view.overlay import STRONGEST_CELL
from vila_lab.view.payload import percent

pytestmark = pytest.mark.browser

PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


def alphas(sheet, picture=0):
    return np.array(sheet.locator("canvas").nth(picture).evaluate(PIXELS)).reshape(-1, 4)[:, 3]


def pin(sheet, *tokens):
    for token in tokens:
        sheet.locator(".chip").nth(token).click()
    sheet.mouse.move(2, 2)
    sheet.locator(".chip").nth(tokens[-1]).evaluate("chip => chip.blur()")


def drawn(sheet):
    return sheet.locator("footer p").first.inner_text().removeprefix("Drawn: ")


# ---- two tokens ----


def test_two_pins_stand_side_by_side_and_a_third_takes_the_place_of_the_second(make_view, open_page):
    view = make_view(2, "words", shape="square")
    sheet = open_page(view)
    pin(sheet, 3, 7)
    assert sheet.locator(".pictures canvas").count() == 4
    expected = [f"A {percent(view.ledger[3, k])} · B {percent(view.ledger[7, k])}" for k in range(2)]
    assert sheet.locator("figcaption b").all_inner_texts() == expected
    pin(sheet, 5)
    assert sheet.locator(".chip.pinned").evaluate_all("chips => chips.map(c => c.dataset.pin)") == ["A", "B"]
    assert f"B {percent(view.ledger[5, 0])}" in sheet.locator("figcaption b").first.inner_text()
    pin(sheet, 3)
    assert sheet.locator(".pictures canvas").count() == 2
    assert sheet.locator("[aria-selected=true]").count() == 1


def test_the_difference_is_signed_with_zero_unpainted(make_view, open_page):
    view = make_view(2, ("a", "b"), shape="square")
    heat = np.zeros((2, 6, 6))
    heat[0, 1, 2], heat[1, 4, 4] = 0.2, 0.1
    view = replace(view, heatmaps=(heat, heat / 2), total=(heat.mean(0), heat.mean(0) / 2))
    sheet = open_page(view)
    pin(sheet, 0, 1)
    sheet.get_by_label("Two tokens").select_option("difference")
    pixels = np.array(sheet.locator("canvas").first.evaluate(PIXELS)).reshape(6, 6, 4)
    assert (pixels[..., 3] > 0).sum() == 2
    red, blue = pixels[1, 2].astype(int), pixels[4, 4].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert red[3] == pytest.approx(2 * blue[3], abs=3)
    assert sheet.locator("figcaption b").first.inner_text() == percent_difference(view, 0)
    assert sheet.locator(".scale").inner_text().startswith("-0.2")


def percent_difference(view, picture):
    a, b = (round(float(view.ledger[k, picture]), 3) for k in range(2))
    return f"{'+' if a > b else ''}{100 * (a - b):.1f} %"


# ---- layers, heads, methods ----


def test_the_layer_slider_draws_each_layer_and_says_which(make_view, with_layers, open_page):
    view = with_layers(make_view(2, "words", shape="square"))
    sheet = open_page(view)
    slider = sheet.get_by_label("Layer", exact=True)
    first = alphas(sheet)
    for layer in (0, 3):
        slider.fill(str(layer + 1))
        sheet.locator("footer", has_text=f"layer {layer}").wait_for()
        reading = next(one for one in view.readings if one.layer == layer)
        assert slider.get_attribute("aria-valuetext") == f"layer {layer}"
        strengths = 255 * STRONGEST_CELL * reading.total[0].ravel() / max(total.max() for total in reading.total)
        np.testing.assert_allclose(alphas(sheet), strengths, atol=2)
        assert sheet.locator("figcaption b").first.inner_text() == percent(reading.total_numbers[0])
    slider.fill("0")
    sheet.locator("footer", has_text="mean over 6 layers").wait_for()
    assert (alphas(sheet) == first).all()


def test_play_goes_through_the_layers_and_stops(make_view, with_layers, open_page):
    sheet = open_page(with_layers(make_view(1, "words"), layers=2))
    sheet.get_by_role("button", name="Play").click()
    seen = set()
    for _ in range(30):
        seen.add(drawn(sheet))
        sheet.wait_for_timeout(100)
    assert len(seen) >= 2
    assert "layer 1" in drawn(sheet)
    assert sheet.get_by_role("button", name="Play").inner_text() == "▶"


def test_with_reduced_motion_play_takes_one_step(make_view, with_layers, open_page):
    sheet = open_page(with_layers(make_view(1, "words"), layers=3), reduced_motion="reduce")
    sheet.get_by_role("button", name="Play").click()
    sheet.wait_for_timeout(1200)
    assert "layer 0" in drawn(sheet)


def test_heads_sinks_and_methods_are_named_where_they_are_drawn(make_view, with_layers, open_page):
    view = with_layers(make_view(2, "words"))
    sheet = open_page(view)
    sheet.get_by_label("Heads").select_option("routing heads (1.0)")
    sheet.wait_for_timeout(100)
    assert "heads routing heads (1.0)" in drawn(sheet)
    sheet.get_by_label("Count sinks in").check()
    sheet.wait_for_timeout(100)
    assert "sinks True" in drawn(sheet)
    sheet.get_by_label("Method").select_option("leave_one_out")
    sheet.wait_for_timeout(100)
    assert drawn(sheet).startswith("leave_one_out, log-probability, signed")
    footer = sheet.locator("footer").inner_text()
    assert "A picture's score is spread evenly" in footer
    assert "Metric card: 'red': deletion AUC 0.20 (flat map 0.50)" in footer
    assert sheet.get_by_label("Heads").is_hidden()


def test_a_signed_method_shows_signed_numbers_and_tokens_without_one(make_view, with_layers, open_page):
    view = with_layers(make_view(2, "words", shape="square"))
    sheet = open_page(view)
    sheet.get_by_label("Method").select_option("leave_one_out")
    sheet.wait_for_timeout(100)
    scores = view.readings[-1].numbers
    pin(sheet, 2)
    shown = sheet.locator(".legend span").all_inner_texts()
    assert float(shown[0]) == pytest.approx(scores[2, 0], abs=0.01)
    assert shown[-1] == "–"
    sheet.locator(".chip").last.hover()
    assert set(sheet.locator(".legend span").all_inner_texts()) == {"–"}
    assert "no number" in sheet.locator(".scale").inner_text()


def test_without_a_choice_there_is_no_picker(make_view, open_page):
    sheet = open_page(make_view(1, "words"))
    for name in ("Method", "Heads", "Scale", "Two tokens", "Count sinks in"):
        assert sheet.get_by_label(name, exact=True).is_hidden(), name
    assert sheet.get_by_role("button", name="Play").is_hidden()


# ---- how cells are drawn ----


def test_a_scale_per_picture_says_so(make_view, open_page):
    view = make_view(2, "one", shape="square")
    heat = np.zeros((6, 6))
    heat[2, 3] = 0.02
    sheet = open_page(replace(view, heatmaps=(heat[None], heat[None] / 2), total=(heat, heat / 2)))
    assert alphas(sheet, 0).max() == pytest.approx(2 * alphas(sheet, 1).max(), abs=2)
    sheet.get_by_label("Scale", exact=True).select_option("own")
    assert alphas(sheet, 0).max() == alphas(sheet, 1).max()
    assert "a scale per picture" in sheet.locator(".scale").inner_text()


def test_the_threshold_hides_what_is_below_it(make_view, open_page):
    sheet = open_page(make_view(1, "words", shape="square"))
    before = alphas(sheet)
    sheet.get_by_label("Hide below").fill("50")
    after = alphas(sheet)
    kept = before >= before.max() / 2
    assert (after[kept] == before[kept]).all()
    assert (after[before < 0.49 * before.max()] == 0).all()
    assert "50 % of the scale" in sheet.locator(".scale").inner_text()


def test_cells_are_crisp_unless_smooth_is_asked_for(make_view, open_page):
    sheet = open_page(make_view(1, "words"))
    style = "canvas => getComputedStyle(canvas).imageRendering"
    assert sheet.locator("canvas").evaluate(style) == "pixelated"
    sheet.get_by_label("Smooth").check()
    assert sheet.locator("canvas").evaluate(style) == "auto"


def test_tiles_and_known_boxes_are_outlined_where_they_lie(make_view, open_page):
    view = make_view(2, "words", shape="square")  # 240 pixels wide and high
    tiles = ((0, 0, 120, 240), (120, 0, 240, 240))
    sheet = open_page(replace(view, tiles=((), tiles), boxes=(((60, 120, 120, 240),), ())))
    assert sheet.locator(".tile").count() == 2
    picture, box = sheet.locator(".stack").first.bounding_box(), sheet.locator(".box").bounding_box()
    assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(0.25, abs=0.01)
    assert (box["y"] - picture["y"]) / picture["height"] == pytest.approx(0.5, abs=0.01)
    assert box["width"] / picture["width"] == pytest.approx(0.25, abs=0.01)
    sheet.get_by_label("Tiles and known boxes").uncheck()
    assert sheet.locator(".box").is_hidden()


# ---- the question's words and regions of pictures ----


def test_the_words_that_a_token_read_are_tinted(make_view, open_page):
    view = make_view(1, ("a", "b"))
    view = replace(view, words=(0, "What", " is", " it?"), word_shares=np.array([[0.1, 0.0, 0.3], [0.0, 0.2, 0.0]]))
    sheet = open_page(view)
    strengths = "words => words.map(w => Number(w.dataset.strength))"
    pin(sheet, 0)
    assert sheet.locator(".word").evaluate_all(strengths) == [10, 0, 30]
    sheet.locator(".word").nth(2).hover()
    assert sheet.locator(".word").nth(2).get_attribute("title") == "30.0 %"
    sheet.locator(".chip").nth(1).hover()
    assert sheet.locator(".word").evaluate_all(strengths) == [0, 30, 0]
    assert sheet.locator(".prompt").inner_text().endswith("What is it?")


def test_dragging_over_a_picture_finds_the_tokens_that_read_it(make_view, open_page):
    view = make_view(2, ("a", "b", "c"), shape="square")
    heat = np.zeros((3, 6, 6))
    heat[1, 2:4, 1:3] = 0.05
    heat[2, 5, 5] = 0.254  # a level is 0.001
    sheet = open_page(replace(view, heatmaps=(heat, 0 * heat), total=(heat.mean(0), 0 * heat.mean(0))))
    box = sheet.locator(".stack").first.bounding_box()
    at = lambda col, row: (box["x"] + (col + 0.5) * box["width"] / 6, box["y"] + (row + 0.5) * box["height"] / 6)  # noqa: E731
    sheet.mouse.move(*at(1, 2))
    sheet.mouse.down()
    sheet.mouse.move(*at(2, 3), steps=3)
    sheet.mouse.up()
    words = "Region of picture 1, pixels 40, 80, 120, 160: all tokens 6.7 %; most “b” 20.0 %, “a” 0.0 %, “c” 0.0 %"
    assert sheet.locator(".where").inner_text() == words
    assert sheet.locator("[aria-live]").inner_text() == words
    tints = sheet.locator(".chip > span").evaluate_all("ones => ones.map(one => one.style.background)")
    assert "0.4" in tints[1]
    assert "0)" in tints[2]
    sheet.get_by_role("button", name="All tokens").click()
    assert sheet.locator(".where").is_hidden()
    assert sheet.locator(".region").count() == 0


def test_a_region_can_be_selected_with_the_keys(make_view, open_page):
    view = make_view(1, "words", shape="square")
    sheet = open_page(view)
    sheet.evaluate(
        "() => { window.leaked = []; document.addEventListener('keydown', (event) => window.leaked.push(event.key)); }"
    )
    sheet.locator(".stack").focus()
    for key in ("ArrowDown", "ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown"):
        sheet.keyboard.press(key)
    assert sheet.locator(".where").inner_text().startswith("Region of picture 1, pixels 40, 40, 120, 120: ")
    assert sheet.locator(".scale output").inner_text().startswith("Picture 1, row 3, column 3: about ")
    expected = view.total[0][1:3, 1:3].sum()
    shown = float(sheet.locator(".where").inner_text().partition("all tokens ")[2].partition(" %")[0]) / 100
    assert shown == pytest.approx(expected, abs=0.002)
    sheet.keyboard.press("Escape")
    assert sheet.locator(".region").count() == 0
    sheet.keyboard.press("Enter")
    assert sheet.locator(".where").inner_text().startswith("Region of picture 1, pixels 80, 80, 120, 120: ")
    assert sheet.evaluate("window.leaked").count("ArrowRight") == 0


def test_pointing_outlines_the_cell(make_view, open_page):
    sheet = open_page(make_view(1, "words", shape="square"))
    box = sheet.locator(".stack").bounding_box()
    sheet.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.1 * box["height"])
    cell = sheet.locator(".cell").bounding_box()
    assert cell["width"] == pytest.approx(box["width"] / 6, abs=1)
    assert cell["x"] == pytest.approx(box["x"] + box["width"] * 4 / 6, abs=1)
    sheet.mouse.move(2, 2)
    assert sheet.locator(".cell").count() == 0


# ---- bars ----

PARTS = """bar => [...bar.querySelectorAll('rect')].filter(r => r.style.display !== 'none').map(r => [r.getAttribute('fill'),
  parseFloat(r.getAttribute('width')), parseFloat(r.getAttribute('height'))])"""


def test_the_parts_of_a_bar_are_told_apart_by_texture_and_number(make_view, open_page):
    view = make_view(12, ("a",))
    sheet = open_page(view)
    parts = sheet.locator(".read .bar").evaluate(PARTS)
    assert [width for _, width, _ in parts] == pytest.approx([100 * share for share in view.ledger[0]], abs=0.06)
    assert [fill for fill, _, _ in parts[:12]] == [f"url(#picture{k})" for k in range(12)]
    chip = sheet.locator(".chip .bar").evaluate(PARTS)
    assert [height for _, _, height in chip] == [width for _, width, _ in parts]
    looks = sheet.locator("pattern[id^=picture]").evaluate_all(
        "all => all.map(one => [one.children[0].getAttribute('fill'), one.children[1].getAttribute('d')].join())"
    )
    assert len(set(looks)) == 12
    assert len({look.partition(",")[2] for look in looks[:8]}) == 8  # by texture alone
    numbers = sheet.locator(".read .bar text").evaluate_all(
        "all => all.filter(one => one.style.display !== 'none').map(one => one.textContent)"
    )
    assert [number for number in numbers if number] == [str(k + 1) for k in range(12) if view.ledger[0, k] >= 0.05]


def test_a_bar_without_numbers_is_hatched(make_view, with_layers, open_page):
    sheet = open_page(with_layers(make_view(2, "words", shape="square")))
    sheet.get_by_label("Method").select_option("leave_one_out")
    sheet.wait_for_timeout(100)
    sheet.locator(".chip").last.hover()
    for bar in (sheet.locator(".read .bar"), sheet.locator(".chip .bar").last):
        assert [fill for fill, wide, high in bar.evaluate(PARTS) if wide and high] == ["url(#missing)"]


# ---- odd input ----


def shown_in(view, size):
    return replace(view, images=(Image.new("RGB", size, "teal"),))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 1), "(1 × 1 pixel) is drawn enlarged"),
        ((8000, 6000), "(8000 × 6000 pixels) is drawn scaled down"),
        ((8000, 1), "scaled down and thicker than it is"),
        ((1, 8000), "scaled down and thicker than it is"),
    ],
)
def test_pictures_of_extreme_sizes_are_drawn_and_said(make_view, open_page, size, words):
    sheet = open_page(shown_in(make_view(1, "words"), size))
    box = sheet.locator(".stack").bounding_box()
    assert box["width"] >= 5
    assert 5 <= box["height"] <= 700
    assert words in sheet.locator("footer").inner_text()
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 1000


def test_an_answer_without_any_number_says_so(make_view, open_page):
    view = make_view(2, "words")
    lost = replace(
        view,
        heatmaps=tuple(np.full_like(heat, np.nan) for heat in view.heatmaps),
        total=tuple(np.full_like(total, np.nan) for total in view.total),
        ledger=np.full_like(view.ledger, np.nan),
    )
    sheet = open_page(lost)
    footer = sheet.locator("footer").inner_text()
    assert "Hatched cells have no number." in footer
    assert "14 tokens of 14 without captured shares." in footer
    sheet.locator(".chip").nth(3).click()
    assert set(sheet.locator(".legend span").all_inner_texts()) == {"–"}


def test_a_huge_question_scrolls_in_its_own_box(make_view, open_page):
    title = "".join(f"word{k} " for k in range(20_000))
    sheet = open_page(make_view(1, "words", title=title), width=360)
    assert sheet.locator(".prompt").bounding_box()["height"] < 300
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(("pictures", "tokens"), [(16, 512), (1, 512), (16, 1)])
def test_many_pictures_and_tokens_fit(make_view, with_layers, open_page, pictures, tokens):
    view = with_layers(make_view(pictures, tuple(f" w{k}" for k in range(tokens))), layers=1)
    for width in (360, 2000):
        sheet = open_page(view, width=width)
        assert sheet.locator(".chip").count() == tokens
        assert sheet.locator("canvas").count() == pictures
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width


def test_edits_stand_in_front(make_view, open_page):
    edit = "image 2 → answer cut <img src=x onerror=alert(1)>"
    sheet = open_page(replace(make_view(2, "words"), edits=(edit,)))
    assert sheet.locator(".edits").inner_text() == f"Edited while answering: {edit}"


# ---- size ----


def test_a_page_with_all_layers_is_within_its_budget(make_view, with_layers):
    view = make_view(8, "many", cells=(24, 24))
    assert len(page_text(view).encode()) <= 430_000
    assert len(page_text(with_layers(view, layers=28)).encode()) <= 1_500_000


def test_hovering_costs_less_than_a_frame(make_view, open_page):
    """Measured by benchmarks/viewer.py: 2 ms of script, painted with the next frame; the bound leaves room for a busy machine."""
    sheet = open_page(make_view(8, "many", cells=(24, 24)))
    times = sheet.evaluate(
        """() => {
          const chips = [...document.querySelector('.vila-view').shadowRoot.querySelectorAll('.chip')];
          return Array.from({ length: 100 }, (_, k) => {
            const start = performance.now();
            chips[(k * 7) % chips.length].dispatchEvent(new PointerEvent('pointerover', { bubbles: true, pointerType: 'mouse' }));
            return performance.now() - start;
          });
        }"""
    )
    assert float(np.median(times)) < 16
