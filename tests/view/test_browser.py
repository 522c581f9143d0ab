"""The viewer in a real chromium, from an offline page: it paints, it obeys the keys, it asks nobody."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vila_lab.view import fragment, page_text
from vila_lab.view.html import viewer_source
from vila_lab.view.overlay import STRONGEST_CELL
from vila_lab.view.payload import pack, percent, to_json

pytestmark = pytest.mark.browser

ALPHA = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 3)"
STATE = "list => [...list.children].filter(c => c.matches('.chip')).map(c => [c.classList.contains('now'), c.ariaSelected === 'true', c.tabIndex === 0])"


def now(sheet):
    """The index of the token shown, of the one pinned and of the one in the tab order; None for none."""
    return [
        next((k for k, on in enumerate(column) if on), None)
        for column in zip(*sheet.locator(".tokens").evaluate(STATE), strict=True)
    ]


@pytest.mark.parametrize(
    ("pictures", "tokens"), [(1, "one"), (8, "many"), (4, "chinese"), (4, "arabic"), (4, "hostile")]
)
def test_everything_shows_and_nothing_is_asked(make_view, open_page, pictures, tokens):
    view = make_view(pictures, tokens)
    sheet = open_page(view)
    assert sheet.locator(".chip").count() == len(view.tokens)
    assert sheet.locator("canvas").count() == pictures
    assert sheet.locator("footer").inner_text().startswith(f"Drawn: {view.method}")
    assert view.honesty in sheet.locator("footer").inner_text()
    assert sheet.locator(".vila-view").evaluate("host => host.childElementCount") == 0  # the static picture made room
    for k, image in enumerate(view.images):
        box = sheet.locator(".stack").nth(k).bounding_box()
        assert box["width"] / box["height"] == pytest.approx(image.width / image.height, rel=0.02)


def test_hostile_tokens_are_read_as_they_were_written(make_view, open_page):
    view = make_view(1, "hostile", title="</script><script>alert(1)</script>")
    sheet = open_page(view)
    assert sheet.locator(".prompt").inner_text().endswith(view.title)
    assert sheet.locator(".chip bdi").all_inner_texts()[:2] == list(view.tokens[:2])
    assert sheet.locator(".tokens img, .tokens script").count() == 0


@pytest.mark.parametrize(
    ("pictures", "tokens", "words"),
    [(0, "words", "No pictures were part"), (2, "none", "The answer is empty"), (0, "none", "empty")],
)
def test_empty_cases_say_so(make_view, open_page, pictures, tokens, words):
    assert words in open_page(make_view(pictures, tokens)).locator(".view").inner_text()


def test_hover_paints_the_token_and_leaving_paints_all(make_view, open_page):
    view = make_view(2, "words", shape="square")
    sheet = open_page(view)
    canvas = sheet.locator("canvas").first
    before = canvas.evaluate(ALPHA)
    for k in (3, 7):
        sheet.locator(".chip").nth(k).hover()
        top = max(heat[k].max() for heat in view.heatmaps)  # one scale for both pictures
        half_a_level = 0.5 * STRONGEST_CELL * max(heat.max() for heat in view.heatmaps) / top
        strengths = 255 * STRONGEST_CELL * view.heatmaps[0][k].ravel() / top
        np.testing.assert_allclose(canvas.evaluate(ALPHA), strengths, atol=1.01 * half_a_level + 1)
        assert sheet.locator("figcaption b").all_inner_texts() == [percent(share) for share in view.ledger[k, :2]]
        assert sheet.locator(".legend span").all_inner_texts() == [percent(share) for share in view.ledger[k]]
    sheet.mouse.move(5, 790)
    assert canvas.evaluate(ALPHA) == before


def test_half_the_number_is_painted_half_as_strong(make_view, open_page):
    view = make_view(2, "one", shape="square")
    heat = np.zeros((6, 6))
    heat[2, 3] = 0.02
    sheet = open_page(replace(view, heatmaps=(heat[None], heat[None] / 2), total=(heat, heat / 2)))
    first, second = (max(sheet.locator("canvas").nth(k).evaluate(ALPHA)) for k in range(2))
    assert first == pytest.approx(2 * second, abs=1)
    assert first > 200


@pytest.mark.parametrize(("share", "own", "same"), [(1, 1, 1), (1 / 4, 1, 1 / 4), (1 / 100, 1 / 10, 1 / 100)])
def test_a_token_has_its_own_scale_but_one_that_hardly_read_stays_faint(make_view, open_page, share, own, same):
    view = make_view(2, ("a", "b"), shape="square")
    heat = np.full((2, 6, 6), 0.2)
    heat[1] *= share
    sheet = open_page(replace(view, heatmaps=(heat, heat / 2)))
    sheet.locator(".chip").nth(1).click()
    for expected in (own, same):
        first, second = (max(sheet.locator("canvas").nth(k).evaluate(ALPHA)) for k in range(2))
        step = 255 * STRONGEST_CELL / 254 * expected / share  # of one level
        assert first == pytest.approx(255 * STRONGEST_CELL * expected, abs=1 + step)
        assert first == pytest.approx(2 * second, abs=2 + 2 * step)
        sheet.get_by_label("Same scale for all tokens").check()


def test_click_pins_and_releases(make_view, open_page):
    sheet = open_page(make_view(2, "words"))
    chip = sheet.locator(".chip").nth(4)
    chip.click()
    sheet.mouse.move(5, 790)
    sheet.locator(".chip").nth(4).evaluate("chip => chip.blur()")
    assert now(sheet) == [4, 4, 4]
    assert sheet.locator("[aria-live]").inner_text().startswith("Token 5 of 14, in: picture 1")
    sheet.get_by_role("button", name="All tokens").click()
    assert now(sheet) == [None, None, 4]
    assert sheet.locator("[aria-live]").inner_text().startswith("All answer tokens:")
    chip.click()
    chip.click()
    assert now(sheet)[1] is None


def test_hover_does_not_speak(make_view, open_page):
    sheet = open_page(make_view(2, "words"))
    sheet.locator(".chip").nth(4).hover()
    assert sheet.locator("[aria-live]").inner_text() == ""


def test_keys_move_pin_and_release(make_view, open_page):
    view = make_view(2, "words")
    sheet = open_page(view)
    sheet.evaluate(
        "() => { window.leaked = []; document.addEventListener('keydown', (event) => window.leaked.push(event.key)); }"
    )
    sheet.locator(".chip").first.focus()
    seen = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowUp"):
        sheet.keyboard.press(key)
        seen.append(now(sheet)[0])
    assert seen == [1, 2, 1, 13, 13, 0, 0]
    sheet.keyboard.press("ArrowRight")
    sheet.keyboard.press("Enter")
    assert now(sheet) == [1, 1, 1]
    sheet.keyboard.press("ArrowRight")
    assert now(sheet) == [2, 1, 2]
    sheet.keyboard.press("Escape")
    assert now(sheet)[1] is None
    assert sheet.evaluate("window.leaked") == []
    sheet.keyboard.press("x")
    assert sheet.evaluate("window.leaked") == ["x"]


def test_arrows_follow_the_writing_direction(make_view, open_page):
    sheet = open_page(make_view(1, "arabic"))
    sheet.locator(".chip").first.focus()
    sheet.keyboard.press("ArrowLeft")
    assert now(sheet)[0] == 1
    boxes = [sheet.locator(".chip").nth(k).bounding_box()["x"] for k in range(3)]
    assert boxes == sorted(boxes, reverse=True)


def test_a_tap_pins(make_view, open_page):
    sheet = open_page(make_view(2, "words"), width=360, has_touch=True)
    sheet.locator(".chip").nth(2).tap()
    assert now(sheet)[:2] == [2, 2]


def test_pointing_at_a_cell_tells_its_number(make_view, open_page):
    view = make_view(1, "words", shape="wide", cells=(2, 5))
    sheet = open_page(view)
    box = sheet.locator("canvas").bounding_box()
    sheet.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.75 * box["height"])
    text = sheet.locator(".scale output").inner_text()
    assert text.startswith("Picture 1, row 2, column 4: about ")
    assert float(text.rpartition(" ")[2]) == pytest.approx(view.total[0][1, 3], abs=view.total[0].max() / 254)


def test_missing_cells_are_hatched(make_view, open_page):
    view = make_view(1, "one", shape="square")
    heat = np.full((6, 6), 0.02)
    heat[:, 3:] = np.nan
    sheet = open_page(replace(view, heatmaps=(heat[None],), total=(heat,)))
    colours = "(c, x) => new Set(new Uint32Array(c.getContext('2d').getImageData(x, 0, 120, 240).data.buffer)).size"
    assert [sheet.locator("canvas").evaluate(colours, x) for x in (0, 120)] == [1, 2]
    assert "no number" in sheet.locator(".scale").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(make_view, open_page, contrast_in, scheme):
    sheet = open_page(make_view(8, "many"), scheme=scheme)
    sheet.locator(".chip").nth(4).click()
    found = sheet.evaluate(contrast_in)
    assert len(found) > 100
    assert found[0][0] >= 4.5, found[:5]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_in_the_notebooks_own_theme(make_view, open_page, contrast_in, theme):
    ink, ground = {"light": ("rgba(0, 0, 0, 0.87)", "white"), "dark": ("rgba(255, 255, 255, 0.87)", "#111111")}[theme]
    variables = f"--jp-content-font-color0: {ink}; --jp-layout-color0: {ground}; background: {ground}"
    other = {"light": "dark", "dark": "light"}[theme]  # the system's choice must not shine through
    text = f'<!doctype html><meta charset="utf-8"><body style="{variables}">{fragment(make_view(8, "many"))}'
    found = open_page(text, scheme=other).evaluate(contrast_in)
    assert found[0][0] >= 4.5, found[:5]


@pytest.mark.parametrize(("width", "pictures"), [(360, 1), (360, 4), (360, 8), (1000, 8), (1900, 1), (1900, 4)])
def test_it_fits_the_width(make_view, open_page, width, pictures):
    tokens = tuple(f" word{k}" for k in range(512)) if pictures == 1 else "words"
    title = "Donaudampfschifffahrtsgesellschaftskapitän" * 4
    sheet = open_page(make_view(pictures, tokens, title=title), width=width)
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width
    assert sheet.locator(".tokens").bounding_box()["width"] <= width


def test_the_same_answer_twice_in_one_page(make_view, open_page):
    view = make_view(2, "words")
    sheet = open_page(f'<!doctype html><meta charset="utf-8"><body>{fragment(view)}{fragment(view)}')
    sheet.wait_for_function("document.querySelectorAll('.vila-view img').length === 0")
    assert sheet.locator(".view").count() == 2


@pytest.mark.parametrize("width", [375, 1000, 1900])
def test_without_scripts_the_static_picture_stays_and_fits_the_window(make_view, open_page, width):
    view = make_view(2, "words")
    sheet = open_page(view, wait="img", java_script_enabled=False, width=width)
    assert view.title in sheet.locator("img").get_attribute("alt")
    box = sheet.locator("img").bounding_box()
    assert box["width"] == min(width, sheet.locator("img").evaluate("img => img.naturalWidth"))
    assert box["height"] > 0.4 * box["width"]
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "bright"), [("light", True), ("dark", False)])
def test_without_scripts_it_follows_the_theme(make_view, open_page, scheme, bright):
    sheet = open_page(make_view(1, "words"), wait="img", java_script_enabled=False, scheme=scheme)
    pixels = np.asarray(Image.open(io.BytesIO(sheet.screenshot())).convert("L"))
    assert (np.median(pixels) > 240) == bright
    assert (pixels > 240).mean() > 0.5 if bright else (pixels > 240).mean() < 0.02


def test_a_module_host_can_mount_select_and_destroy(make_view, open_page):
    """What a widget does: import the module, mount, follow the selection, and leave nothing behind."""
    view = make_view(2, "words")
    module = base64.b64encode(viewer_source().encode()).decode()
    text = f"""<!doctype html><meta charset="utf-8"><body><div class="vila-view"></div><script type="module">
      const {{ mount }} = await import("data:text/javascript;base64,{module}");
      window.seen = [];
      window.view = await mount(document.querySelector("div"), {to_json(pack(view))}, {{ onSelect: (index) => window.seen.push(index) }});
    </script>"""
    sheet = open_page(text)
    sheet.locator(".chip").nth(3).click()
    sheet.evaluate("view.select(5)")
    assert now(sheet)[1] == 5
    assert sheet.evaluate("seen") == [3, 5]
    sheet.evaluate("view.destroy()")
    assert sheet.locator(".view").count() == 0


def test_a_changed_script_does_not_run(browser, make_view, tmp_path):
    """The page's policy allows its one script by hash: with a letter more, the static picture stays."""
    changed = tmp_path / "changed.html"
    changed.write_text(
        page_text(make_view(1, "one")).replace("</script>", "window.ran = true;</script>"), encoding="utf-8"
    )
    sheet = browser.new_page()
    sheet.goto(changed.as_uri())
    sheet.wait_for_timeout(300)
    assert sheet.evaluate("window.ran") is None
    assert sheet.locator("img").is_visible()
    sheet.close()


def test_sanitised_html_shows_the_picture_and_says_the_answer(make_view, open_page):
    """What GitHub and an untrusted notebook do: scripts, styles and ids are stripped."""
    view = make_view(2, "words")
    text = re.sub(
        r"<script.*?</script>|<style.*?</style>| (?:id|class|style)=\"[^\"]*\"", "", fragment(view), flags=re.S
    )
    sheet = open_page(f'<!doctype html><meta charset="utf-8"><body>{text}', wait="img")
    assert sheet.locator("img").bounding_box()["height"] > 200
    assert view.text in sheet.locator("img").get_attribute("alt")
