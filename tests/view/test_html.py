"""The html: deterministic, self-contained, harmless, small, and readable without its script."""

from __future__ import annotations

import base64
import html as htmllib
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vila_lab.view import fragment, mimebundle, page, page_text
from vila_lab.view.html import plain, viewer_source
from vila_lab.view.sheet import render
from vila_lab.view.style import PICTURE_COLOURS


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of everything outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.mark.parametrize(
    ("pictures", "tokens"),
    [(0, "none"), (0, "words"), (1, "one"), (2, "none"), (4, "chinese"), (4, "hostile"), (8, "many")],
)
def test_fragment_is_one_div_with_a_picture_and_one_script(make_view, pictures, tokens):
    view = make_view(pictures, tokens)
    elements = Elements(fragment(view))
    assert [tag for tag, _ in elements.tags] == ["div", "picture", "source", "img", "script"]
    (image,) = elements.named("img")
    (dark,) = elements.named("source")
    assert dark["media"] == "(prefers-color-scheme: dark)"
    assert dark["srcset"].startswith("data:image/webp;base64,")
    assert image["alt"].splitlines()[0].endswith(view.title)
    assert Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).width == int(image["width"])
    assert re.fullmatch(r"vila-[0-9a-f]{16}", elements.named("div")[0]["id"])


@pytest.mark.parametrize("tokens", ["words", "hostile"])
def test_the_same_answer_gives_the_same_html(make_view, tokens):
    assert fragment(make_view(3, tokens)) == fragment(make_view(3, tokens))
    assert page_text(make_view(3, tokens)) == page_text(make_view(3, tokens))


def test_another_answer_has_another_id(make_view):
    ids = {Elements(fragment(make_view(1, tokens))).named("div")[0]["id"] for tokens in ("one", "words", "chinese")}
    assert len(ids) == 3


@pytest.mark.parametrize("tokens", ["words", "hostile"])
def test_nothing_is_fetched_and_a_cell_has_no_style_element(make_view, tokens):
    view = make_view(2, tokens)
    assert "<style" not in fragment(view).lower()
    assert page_text(view).lower().count("<style") == 1  # the page's own, which its policy allows by its hash
    for text in (fragment(view), page_text(view)):
        assert not re.findall(r"https?://(?!www\.w3\.org/)", text)
        for tag, attributes in Elements(text).tags:
            assert "style" not in attributes, tag
            assert not any(name.startswith("on") for name in attributes), tag
            assert attributes.get("src", "data:").startswith("data:"), tag


def test_hostile_text_stays_text(make_view):
    title = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    text = page_text(make_view(2, "hostile", title=title))
    assert text.count("<script") == text.count("</script>") == 1
    assert text.count("<img") == 1
    assert htmllib.escape(title, quote=False) in text  # the title element
    text.encode("utf-8")


def test_page_forbids_everything_but_its_own_script(make_view, tmp_path):
    view = make_view(2, "words")
    assert page(view, tmp_path / "answer.html") == tmp_path / "answer.html"
    text = (tmp_path / "answer.html").read_text(encoding="utf-8")
    elements = Elements(text)
    assert text.startswith("<!doctype html>")
    assert elements.named("html") == [{"lang": "en"}]
    assert f"<title>{view.title}</title>" in text
    (policy,) = [
        meta["content"] for meta in elements.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_long_answer_over_eight_pictures_is_small(make_view):
    view = make_view(8, "many", cells=(24, 24))
    assert len(page_text(view).encode()) <= 430_000  # measured 415 kB, half of it what stands without scripts
    assert len(fragment(view).encode()) <= 430_000


def test_a_usual_answer_is_much_smaller(make_view):
    tokens = tuple(f" w{k}" for k in range(10))
    assert (
        len(page_text(make_view(4, tokens)).encode()) <= 180_000
    )  # measured 174 kB: the viewer 57, what stands without scripts 99


def test_even_noise_stays_within_the_page_budget(make_view):
    from dataclasses import replace

    rng = np.random.default_rng(0)
    view = make_view(8, "many", cells=(24, 24))
    view = replace(view, heatmaps=tuple(rng.random((64, 24, 24)) for _ in range(8)))
    assert len(page_text(view).encode()) <= 495_000  # measured 479 kB


def test_viewer_is_small_and_asks_nobody():
    source = viewer_source()
    assert len(source.encode()) < 50_000  # the payload, and not the source, is most of a page
    assert not re.search(
        r"\bfetch\(|XMLHttpRequest|WebSocket|import\(|^import |innerHTML|outerHTML|insertAdjacent|document\.write|eval\(",
        source,
        re.M,
    )
    assert "</script" not in source


@pytest.mark.parametrize("tokens", ["none", "words", "chinese", "hostile"])
def test_mimebundle_has_three_lives_and_no_widget(make_view, tokens):
    view = make_view(2, tokens)
    bundle = mimebundle(view)
    assert list(bundle) == ["text/html", "text/plain", "image/png"]
    assert bundle["text/html"] == fragment(view)
    assert bundle["text/plain"] == plain(view)
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"


def test_what_stands_where_scripts_are_stripped_is_dark_on_dark_pages(make_view):
    """Light ink on a dark ground, the pictures and the colours of the bars as they were."""
    view = make_view(2, "words")
    both = render(view)
    light, dark = np.asarray(both.light, int), np.asarray(both.dark, int)
    ground = (light == 255).all(-1)
    assert ground.mean() > 0.4
    assert (dark[ground] == 18).all(-1).mean() > 0.99  # the pictures' own white stays
    assert (dark[light.max(-1) < 60].mean(-1) > 190).any()  # ink
    colours = np.ptp(light, axis=-1) > 100
    assert colours.mean() > 0.02
    assert (dark[colours] == light[colours]).all()
    badge = tuple(int(PICTURE_COLOURS[0][k : k + 2], 16) for k in (1, 3, 5))
    assert ((light == badge).all(-1) == (dark == badge).all(-1)).all()


def test_without_matplotlib_the_html_still_works(make_view, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    view = make_view(2, "words")
    bundle = mimebundle(view)
    assert list(bundle) == ["text/html", "text/plain"]
    assert [tag for tag, _ in Elements(bundle["text/html"]).tags] == ["div", "pre", "script"]


def test_plain_text_tells_the_shares(make_view):
    view = make_view(2, ("Yes", "."))
    first, second, third = plain(view).splitlines()
    assert first == f"[1] [2] {view.title}"
    assert second == "Yes."
    assert third.startswith("attention, mean over 6 layers × 4 heads: picture 1 ")
    assert sum(float(number) for number in re.findall(r"([\d.]+) %", third)) == pytest.approx(100, abs=0.3)
