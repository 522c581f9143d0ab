"""The buttons that save: the picture as SVG and PNG, the numbers as CSV; from a page that may ask nobody for anything."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from vila_lab.view import fragment
from vila_lab.view.html import live, static, whole_page
from vila_lab.view.payload import pack, to_json

pytestmark = pytest.mark.browser

SVG = "{http://www.w3.org/2000/svg}"


def saved(sheet, kind, folder):
    with sheet.expect_download() as download:
        sheet.get_by_role("button", name=f"as {kind}").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == f".{kind.lower()}"
    return path


def texts(drawing):
    return [node.text for node in drawing.iter(f"{SVG}text") if node.text]


def raster(drawing, k):
    """The k-th picture inside a drawing."""
    address = list(drawing.iter(f"{SVG}image"))[k].get("href")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize("width", [375, 1000])
def test_the_svg_holds_the_words_as_text_and_the_pictures_inside(make_view, open_page, tmp_path, width):
    view = make_view(3, "words")
    sheet = open_page(view, width=width, scheme="dark")
    sheet.locator(".chip").nth(2).click()
    text = saved(sheet, "SVG", tmp_path).read_text(encoding="utf-8")
    drawing = ElementTree.fromstring(text)
    words = " ".join(texts(drawing))
    assert view.title in re.sub(r"\s+", " ", words)
    assert [word for word in texts(drawing) if word in {token.strip() for token in view.tokens}][:2] == ["The", "red"]
    assert f"Token 3 of {len(view.tokens)}, circle" in words
    assert not re.search(r"foreignObject|https?://(?!www\.w3\.org/)|var\(|color-mix|class=", text)
    assert len(list(drawing.iter(f"{SVG}image"))) == 2 * 3  # a picture and its cells
    for node in drawing.iter(f"{SVG}image"):
        assert float(node.get("x")) + float(node.get("width")) <= float(drawing.get("width")) + 1
    fills = {node.get("fill") for node in drawing.iter(f"{SVG}rect")} - {None, "none"}
    named = {node.get("id") for node in drawing.iter() if node.get("id")}
    assert {fill[5:-1] for fill in fills if fill.startswith("url(#")} <= named
    assert {"url(#picture0)", "url(#picture1)", "url(#picture2)"} <= fills


def test_the_cells_are_saved_as_they_are_drawn(make_view, open_page, tmp_path):
    view = make_view(1, "one", shape="square")
    heat = np.zeros((6, 6))
    heat[2, 3] = 0.5
    sheet = open_page(replace(view, heatmaps=(heat[None],), total=(heat,)))
    drawing = ElementTree.parse(saved(sheet, "SVG", tmp_path)).getroot()
    cells = np.asarray(raster(drawing, 1).convert("RGBA"))
    side = len(cells) // 6
    assert side >= 40  # crisp in programs that would smooth them
    painted = np.argwhere(cells[..., 3] > 100)
    assert painted.min(0).tolist() == [2 * side, 3 * side]
    assert (painted.max(0) + 1).tolist() == [3 * side, 4 * side]
    assert raster(drawing, 0).size == view.images[0].size


@pytest.mark.parametrize("tokens", ["words", "hostile", "arabic", "chinese"])
def test_the_png_shows_the_same(make_view, open_page, tmp_path, tokens):
    view = make_view(2, tokens)
    sheet = open_page(view, scheme="dark")
    drawing = ElementTree.parse(saved(sheet, "SVG", tmp_path)).getroot()
    picture = Image.open(saved(sheet, "PNG", tmp_path)).convert("RGB")
    assert picture.size == tuple(2 * int(drawing.get(side)) for side in ("width", "height"))
    pixels = np.asarray(picture).reshape(-1, 3)
    assert (pixels == 255).all(-1).mean() > 0.3  # as on paper, whatever the screen's theme
    assert len(np.unique(pixels, axis=0)) > 500
    first = next(drawing.iter(f"{SVG}image"))
    left, top, wide, high = (2 * float(first.get(side)) for side in ("x", "y", "width", "height"))
    photo = picture.crop((left, top, left + wide, top + high)).resize(view.images[0].size)
    shown, own = np.asarray(photo, float), np.asarray(view.images[0].convert("RGB"), float)
    assert np.corrcoef(shown.ravel(), own.ravel())[0, 1] > 0.8


def test_the_page_looks_as_before(make_view, open_page, tmp_path):
    sheet = open_page(make_view(2, "words"), width=375)
    before = sheet.screenshot()
    saved(sheet, "SVG", tmp_path)
    sheet.locator(".save button").nth(1).evaluate("button => button.blur()")
    sheet.mouse.move(2, 2)
    sheet.evaluate("window.scrollTo(0, 0)")
    assert sheet.screenshot() == before
    assert sheet.get_by_label("Overlay").is_visible()


def rows_of(path):
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("\ufeff")
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text[1:], newline=""), strict=True))


@pytest.mark.parametrize("tokens", ["none", "words", "hostile", "chinese"])
def test_the_csv_holds_all_tokens_and_columns(make_view, open_page, tmp_path, tokens):
    view = make_view(2, tokens)
    payload = pack(view)
    head, *rows = rows_of(saved(open_page(view), "CSV", tmp_path))
    assert head == ["token", "text", *view.columns]
    assert [row[:2] for row in rows] == [[str(k + 1), token] for k, token in enumerate(payload["tokens"])]
    np.testing.assert_allclose([[float(cell) for cell in row[2:]] for row in rows], payload["ledger"] or [], atol=1e-7)


def test_the_csv_is_of_the_reading_that_is_drawn(make_view, with_layers, open_page, tmp_path):
    view = with_layers(make_view(2, "words", shape="square"))
    sheet = open_page(view)
    sheet.get_by_label("Method").select_option("leave_one_out")
    sheet.locator("footer", has_text="leave_one_out, log-probability").wait_for()
    path = saved(sheet, "CSV", tmp_path)
    assert path.name.startswith("vila_lab_The_red_circle")
    assert path.stem.endswith("leave_one_out")
    _, *rows = rows_of(path)
    scores = view.readings[-1].numbers
    np.testing.assert_allclose([float(row[2]) for row in rows[:-1]], scores[:-1, 0], atol=1e-3)
    assert set(rows[-1][2:]) == {""}  # it scored no last token


def test_confidence_is_saved_too(make_view, open_page, tmp_path):
    view = make_view(1, ("a", "b"))
    payload = pack(view) | {"probabilities": [0.5, 0.25]}
    identity, script = live("mount", to_json(payload))
    head, *rows = rows_of(saved(open_page(whole_page("t", static(identity, "words", None), script)), "CSV", tmp_path))
    assert head[:3] == ["token", "text", "probability"]
    assert [row[2] for row in rows] == ["0.5", "0.25"]


def test_it_saves_from_a_notebooks_cell(make_view, open_page, tmp_path):
    """Without a policy, and in the notebook's own dark colours."""
    variables = "--jp-content-font-color0: #fff; --jp-layout-color0: #111; background: #111"
    text = f'<!doctype html><meta charset="utf-8"><body style="{variables}">{fragment(make_view(2, "words"))}'
    sheet = open_page(text)
    for kind in ("PNG", "SVG", "CSV"):
        assert saved(sheet, kind, tmp_path).stat().st_size > 100
    assert 'fill="rgb(27, 29, 33)"' in next(tmp_path.glob("*.svg")).read_text(encoding="utf-8")
