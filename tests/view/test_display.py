"""A display: drawn once for each state of its answer, counted and let go of with it, from pictures that were shrunk once."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import vila_lab
from benchmarks.display import photograph
from vila_lab.engine.memory import image_bytes
from vila_lab.errors import CaptureError
from vila_lab.view import Display, compact, payload, pictures


@pytest.fixture
def answer(lab, demo):
    return lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])


def test_a_display_is_drawn_once_until_more_is_known(answer, tmp_path):
    first = answer.display()
    assert answer.to_html(tmp_path / "a.html").read_text(encoding="utf-8") == first.page_text()
    assert answer._repr_mimebundle_() == first.mimebundle()
    assert answer.display() is first
    answer.heatmap(0, method="leave_one_out")
    assert answer.display() is not first
    assert "leave_one_out" in str(answer.display().payload["readings"])


def test_a_display_is_counted_and_goes_with_the_tape(answer):
    before = answer.nbytes
    kept = answer.display().nbytes
    assert answer.nbytes - before == kept > 50_000
    answer.release()
    assert answer.nbytes == image_bytes(answer.images)


def test_each_picture_is_shrunk_once(make_view, monkeypatch):
    shrunk = []

    def counted(image, *options):
        shrunk.append(image)
        return Image.new("RGB", (38, 38), "red")

    monkeypatch.setattr(payload, "shrink", counted)
    view = replace(make_view(4, "words"), images=tuple(Image.new("RGB", (900, 900)) for _ in range(4)))
    Display.of(view)
    assert [id(image) for image in shrunk] == [id(image) for image in view.images]


def test_the_palette_of_a_sheet_keeps_the_end_of_the_scale():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 160, (1200, 1000, 3), dtype=np.uint8)
    pixels[600:640, 500:540] = ends = (255, 240, 60)  # a thousandth of all
    found = np.asarray(Image.open(io.BytesIO(compact(Image.fromarray(pixels)))).convert("RGB"))
    assert np.abs(found[610:630, 510:530].astype(int) - ends).mean() < 3


def test_the_same_pictures_look_the_same_however_large_they_were():
    """A large picture is averaged before it is resampled, by a quick filter: a rounding apart from the finest alone."""
    x, y = np.meshgrid(np.linspace(0, 9, 2000), np.linspace(0, 7, 1500))
    waves = np.stack([np.sin(x * y), np.cos(x + y), np.sin(3 * x)], -1)
    image = Image.fromarray(np.uint8(127 + 120 * waves))
    plain = np.asarray(image.resize((384, 288), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(payload.shrink(image)).astype(int) - plain).mean() < 0.5


@pytest.mark.parametrize(("count", "in_vain"), [(16, 0), (4, 1)])
def test_pictures_are_not_encoded_in_vain(monkeypatch, count, in_vain):
    """Sixteen photographs are too much at every step but the last, known before any is encoded; four, from the first of them."""
    rng = np.random.default_rng(0)
    photographs = [photograph((336, 336), rng) for _ in range(count)]
    encoded, encode = [], pictures.encode

    def counted(image, kind, **options):
        encoded.append(kind)
        return encode(image, kind, **options)

    monkeypatch.setattr(pictures, "encode", counted)
    assert len(pictures.encode_pictures(photographs)) == count
    assert encoded.count("WEBP") == count + in_vain


def test_an_opened_answer_has_the_same_display(answer, tmp_path):
    again = vila_lab.open(answer.save(tmp_path / "a.safetensors"))
    assert again.display().payload == answer.display().payload


def test_an_answer_that_was_released_before_it_was_shown_says_so_in_its_cell():
    answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    answer.release()
    bundle = answer._repr_mimebundle_()
    assert list(bundle) == ["text/plain"]
    assert bundle["text/plain"].startswith("Answer('Google.', 3 tokens, 1 pictures): ")
    assert "were released" in bundle["text/plain"]
    with pytest.raises(CaptureError):
        answer.display()
