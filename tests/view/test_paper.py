"""Figures for a journal: letters that stay letters, in TrueType, whatever font they need; and what happens without one."""

from __future__ import annotations

import io
import re
import warnings
import zlib

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_pdf import PdfPages

from vila_lab.view import lettering
from vila_lab.view.lettering import MissingFontWarning, drawable, font_family, write_title
from vila_lab.view.style import new_axes

TRUETYPE = b"\x00\x01\x00\x00"
CHINESE = "图像4是苹果"


def titled(text=CHINESE):
    ax = new_axes(4, 2)
    write_title(ax, text)
    return ax.figure


def saved(figure, kind):
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def streams(pdf):
    """What the streams of a PDF hold, deflated or not."""
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    return [zlib.decompress(each) if each[:1] == b"\x78" else each for each in found]


needs_chinese = pytest.mark.skipif(len(font_family()) < 2, reason="no Chinese font is installed")


@pytest.mark.parametrize("text", ["Which picture?", pytest.param(CHINESE, marks=needs_chinese)])
def test_letters_of_a_pdf_are_truetype_throughout(text):
    pdf = saved(titled(text), "pdf")
    assert b"/Type3" not in pdf
    assert b"/FontFile3" not in pdf
    fonts = [each for each in streams(pdf) if each[:4] in (TRUETYPE, b"OTTO")]
    assert len(fonts) == pdf.count(b"/FontFile2 ") == (2 if text == CHINESE else 1)
    assert all(each[:4] == TRUETYPE for each in fonts)  # PostScript outlines under the name of TrueType are left blank


@needs_chinese
def test_chinese_in_a_pdf_can_be_searched():
    maps = b"".join(
        each for each in streams(saved(titled(), "pdf")) if b"beginbfchar" in each or b"beginbfrange" in each
    )
    assert all(f"{ord(c):04x}".encode() in maps.lower() for c in "图像是苹果")


@needs_chinese
def test_text_of_an_svg_is_text():
    svg = saved(titled(), "svg").decode()
    assert CHINESE in svg
    assert "Noto Sans CJK" in svg or font_family()[1] in svg


def test_saving_changes_no_setting_and_no_font(tmp_path):
    figure, before = titled(), dict(matplotlib.rcParams)
    listed = list(font_manager.fontManager.ttflist)
    families = [text.get_fontfamily() for text in figure.findobj(matplotlib.text.Text)]
    figure.savefig(tmp_path / "a.pdf")
    figure.savefig(str(tmp_path / "a.eps"))
    with pytest.raises(OSError, match="there is no folder"):
        figure.savefig(tmp_path / "nowhere" / "a.pdf")
    assert dict(matplotlib.rcParams) == before
    assert font_manager.fontManager.ttflist == listed
    assert [text.get_fontfamily() for text in figure.findobj(matplotlib.text.Text)] == families


def test_several_figures_make_one_pdf(tmp_path):
    with PdfPages(tmp_path / "a.pdf") as pages:
        for text in ("图像", "苹果", "plain"):
            pages.savefig(titled(text))
    assert (tmp_path / "a.pdf").read_bytes().count(b"/Type /Page /Parent") == 3


@needs_chinese
def test_a_font_that_was_installed_later_is_found(fonts, monkeypatch):
    entries = font_manager.fontManager.ttflist
    new = {entry.fname for entry in entries if entry.name in lettering.CJK_FONTS}
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [one for one in entries if one.fname not in new])
    assert font_family()[1] in lettering.CJK_FONTS
    assert drawable(CHINESE) == CHINESE
    saved(titled(), "png")  # and no glyph warning, which would be an error


def test_without_a_font_one_warning_says_what_to_install(fonts, monkeypatch):
    monkeypatch.setattr(lettering, "CJK_FONTS", ())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert drawable("是 it") == "▯ it"
        saved(titled(), "png")
        drawable(CHINESE)
        assert drawable("🦖") == "▯"  # no package is known for every character
    assert [one.category for one in said] == [MissingFontWarning]
    assert "fonts-noto-cjk" in str(said[0].message)
