"""The overview, its ledger and its heatmaps: stacked shares, one scale, no glyph warning, no global state."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vila_lab.errors import MissingExtra
from vila_lab.view import canvas, heatmap_overlay, ledger, lettering, overlay, png, render, style
from vila_lab.view.html import viewer_source, viewer_style


@pytest.fixture
def written(monkeypatch):
    """The lines of text that are written on sheets."""
    lines: list[str] = []
    write = canvas.Canvas.text
    monkeypatch.setattr(
        canvas.Canvas,
        "text",
        lambda self, left, top, text, **how: lines.append(text) or write(self, left, top, text, **how),
    )
    return lines


@pytest.mark.parametrize(
    ("pictures", "tokens"),
    [(0, "none"), (0, "words"), (1, "one"), (1, "none"), (4, "chinese"), (4, "arabic"), (4, "hostile"), (8, "many")],
)
def test_every_overview_renders_without_a_warning(make_view, pictures, tokens):
    picture = Image.open(io.BytesIO(png(make_view(pictures, tokens))))
    assert picture.width == round(9.4 * canvas.DPI)
    assert picture.info.keys() <= {"dpi"}


def test_bars_of_a_token_sum_to_one(make_view):
    view = make_view(3, "words")
    ax = ledger(view)
    shares = np.array([[path.get_extents().height for path in bars.get_paths()] for bars in ax.collections]).T
    np.testing.assert_allclose(shares, view.ledger, atol=1e-12)
    assert [bars.get_label() for bars in ax.collections] == [
        "picture 1",
        "picture 2",
        "picture 3",
        "prompt",
        "answer",
        "sink",
    ]


def test_ledger_draws_a_slice_and_what_was_not_captured(make_view):
    view = make_view(2, "words")
    rows = view.ledger.copy()
    rows[4] = np.nan
    ax = ledger(replace(view, ledger=rows), start=3, stop=7)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["is", "in", "picture", "two"]
    assert ax.collections[-1].get_label() == "not captured"


def test_the_parts_of_a_bar_are_told_apart_by_texture_too(make_view):
    view = make_view(3, "words")
    parts = ledger(view).collections
    assert [part.get_hatch() for part in parts] == [*style.HATCHES[:3], None, None, None]
    assert len(set(style.HATCHES)) == 8
    ninth = style.column_look([f"image_{k + 1}" for k in range(9)], 8)
    first = style.column_look(["image_1"], 0)
    assert ninth["facecolor"] == first["facecolor"]
    assert ninth["hatch"] != first["hatch"]


def test_half_the_number_is_painted_half_as_strong():
    strengths = overlay.cell_colours(np.array([0.0, 0.5, 1.0]), top=1.0, signed=False)[:, 3]
    assert strengths[1] * 2 == pytest.approx(strengths[2])
    assert strengths[0] == 0
    signed = overlay.cell_colours(np.array([-1.0, 0.0, 0.5]), top=1.0, signed=True)[:, 3]
    assert signed[1] == 0
    assert signed[0] == pytest.approx(2 * signed[2])


@pytest.mark.parametrize("size", [(240, 240), (480, 160), (130, 390)])
def test_overlay_lies_over_the_whole_picture_in_its_own_shape(size):
    ax = heatmap_overlay(Image.new("RGB", size, "teal"), np.arange(12.0).reshape(3, 4))
    photo, cells = ax.images
    assert photo.get_extent() == cells.get_extent() == [0, size[0], size[1], 0]
    assert cells.get_array().shape[:2] == (3, 4)
    assert ax.get_aspect() == 1


def test_overlay_and_ledger_draw_where_they_are_told(make_view):
    from matplotlib.figure import Figure

    first, second = Figure().subplots(1, 2)
    view = make_view(1, "words")
    assert heatmap_overlay(view.images[0], view.total[0], first) is first
    assert ledger(view, second) is second


def test_missing_cells_are_hatched():
    heat = np.ones((3, 4))
    heat[1, 2] = np.nan
    (patch,) = heatmap_overlay(Image.new("RGB", (40, 30)), heat).patches
    assert patch.get_bbox().bounds == (20, 10, 10, 10)
    assert patch.get_hatch()


def test_pictures_of_an_overview_share_one_scale(make_view, monkeypatch):
    """Half the number is half the opacity, whichever picture it is in."""
    drawn = []
    monkeypatch.setattr(canvas.Canvas, "picture", lambda self, image, place: drawn.append(np.asarray(image, float)))
    grey = Image.new("RGB", (240, 240), (0, 0, 0))
    view = replace(make_view(2, "one", shape="square"), images=(grey, grey))
    render(replace(view, total=(np.full((6, 6), 0.02), np.full((6, 6), 0.01))))
    strong, faint = drawn[:2]
    colours = overlay.cell_colours(np.array([0.02, 0.01]), 0.02, False)
    np.testing.assert_allclose(strong[0, 0], 255 * colours[0, :3] * colours[0, 3], atol=1)
    np.testing.assert_allclose(faint[0, 0], 255 * colours[1, :3] * colours[1, 3], atol=1)


@pytest.mark.parametrize("signed", [False, True])
def test_pixels_of_an_overlay_are_those_of_its_figure(signed):
    """The sheet's own drawing beside matplotlib's, cell by cell."""
    heat = np.linspace(-1.0 if signed else 0.0, 1.0, 12).reshape(3, 4)
    photo = Image.new("RGB", (80, 60), (200, 120, 40))
    ax = heatmap_overlay(photo, heat, vmax=1.0, signed=signed)
    ax.figure.set_size_inches(0.8, 0.6)
    ax.figure.set_dpi(100)
    ax.figure.canvas.draw()
    figure = np.asarray(ax.figure.canvas.buffer_rgba(), float)[5::20, 5::20, :3]
    pixels = np.asarray(overlay.painted(photo, heat, 1.0, signed, photo.size), float)[5::20, 5::20]
    np.testing.assert_allclose(pixels, figure, atol=2)


@pytest.mark.parametrize("texture", style.HATCHES)
def test_every_texture_is_seen_and_unlike_the_others(texture):
    def drawn(texture: str) -> np.ndarray:
        sheet = canvas.Canvas(1.0, 1.0)
        sheet.boxes([(0, 0, 1, 1)], "#56b4e9", texture)
        return np.asarray(sheet.finish().light, int)

    lines = (drawn(texture) != drawn("")).any(-1)
    assert 0.05 < lines.mean() < 0.5
    assert all((drawn(other) != drawn(texture)).any(-1).mean() > 0.05 for other in style.HATCHES if other != texture)


def test_bars_of_a_sheet_are_as_high_as_their_shares(make_view, monkeypatch):
    parts = []
    monkeypatch.setattr(canvas.Canvas, "boxes", lambda self, places, *look: parts.append((places, look)))
    view = make_view(2, "words")
    rows = view.ledger.copy()
    rows[4] = np.nan
    render(replace(view, ledger=rows))
    bars = [places for places, _ in parts if len(places) == len(view.tokens) - 1]
    assert len(bars) == len(view.columns)
    high = np.array([[bottom - top for _, top, _, bottom in places] for places in bars]).T
    np.testing.assert_allclose(high / 1.05, np.delete(rows, 4, 0), atol=1e-9)
    assert any(look == (None, "////", 0.6) and len(places) == 1 for places, look in parts)  # the one not captured


def test_without_a_chinese_font_tokens_stand_as_numbers(make_view, fonts, written, monkeypatch):
    monkeypatch.setattr(lettering, "CJK_FONTS", ())
    view = make_view(1, "chinese", title="图片里有什么？")
    with pytest.warns(lettering.MissingFontWarning, match="fonts-noto-cjk"):
        assert [text.get_text() for text in ledger(view).get_xticklabels()] == [f"#{k + 1}" for k in range(8)]
    png(view)
    assert "Tokens in a script without an installed font stand as their numbers (#1, #2, ...)." in written
    png(view)  # and neither a glyph warning nor a second one, which would be an error


def test_method_and_honesty_stand_in_the_overview(make_view, written):
    view = make_view(2, "words")
    render(view)
    text = " ".join(written)
    assert f"Drawn: {view.method}" in text
    assert view.honesty in text
    assert view.notes[0] in text


def test_what_a_long_answer_leaves_out_is_said(make_view, written):
    tokens = tuple(f" w{k}" for k in range(200))
    render(make_view(1, tokens))
    assert "The bars show the first 128 of 200 tokens." in written


def test_pyplot_is_never_touched(make_view, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would now fail
    png(make_view(2, "words"))


def test_the_same_view_gives_the_same_png(make_view):
    assert png(make_view(2, "words")) == png(make_view(2, "words"))


def test_png_is_exact_where_small_and_near_where_not(make_view):
    view = make_view(4, "words")
    rng = np.random.default_rng(0)
    noise = tuple(Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)) for _ in range(4))
    for one, bytes_, error in ((view, 90_000, 0.0), (replace(view, images=noise), 250_000, 2.0)):
        data, drawn = png(one), np.asarray(render(one).light).astype(int)
        found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert len(data) < bytes_  # measured 63 kB and 235 kB
        assert np.abs(found - drawn).mean() <= error  # of 255; measured 0 and 1.8
        paper = found[(drawn == 255).all(-1)]
        assert (paper == 255).all(
            -1
        ).mean() > 0.995  # measured 1 and 0.9988: paper stays paper but along a picture's edge


def test_without_matplotlib_the_way_out_is_named(make_view, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="pip install matplotlib"):
        png(make_view(1, "one"))


def test_page_and_figure_have_the_same_colours():
    source = viewer_source()
    for name, colours in (("PICTURE_COLOURS", style.PICTURE_COLOURS), ("BLUE_RED", style.BLUE_RED)):
        (line,) = [line for line in source.splitlines() if line.startswith(f"const {name}")]
        assert tuple(f"#{colour}" for colour in re.findall(r"\b[0-9a-f]{6}\b", line)) == colours
    assert f"const STRONGEST_CELL = {overlay.STRONGEST_CELL};" in source
    assert f"brightness(calc(1 - {1 - overlay.DIMMED:.1g} * var(--overlay)))".replace("0.", ".") in viewer_style()


def test_a_photograph_keeps_its_colours_under_the_cells():
    """The colourfulness of a picture of soft colours, where little was read: four fifths of its own, as its brightness is."""
    photo = Image.fromarray(np.random.default_rng(0).integers(40, 220, (32, 32, 3), dtype=np.uint8))
    colourful = lambda pixels: np.ptp(pixels, axis=-1).mean()  # noqa: E731
    own = colourful(np.asarray(photo) / 255)
    assert colourful(overlay.dimmed(photo)) >= 0.79 * own
    cell = overlay.cell_colours(1.0, top=1.0, signed=False)
    assert (1 - cell[3]) * overlay.DIMMED >= 0.15  # and is seen through the strongest cell
