"""Every kind of picture is read as the reference reads it, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import socket
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vila_lab.errors import PictureError, PictureNotFound, PromptError, VilaLabError
from vila_lab.inputs import sources
from vila_lab.picture import Picture

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 4), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header states a size that its few bytes of data do not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def one_sentence(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 300


# --- what is read, and how


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        pytest.param(Image.fromarray(NOISE[..., :3]), ".png", id="RGB"),
        pytest.param(Image.fromarray(NOISE), ".png", id="RGBA"),
        pytest.param(Image.fromarray(NOISE[..., :2].copy(), "LA"), ".png", id="LA"),
        pytest.param(Image.fromarray(NOISE[..., 0].copy()), ".png", id="gray"),
        pytest.param(Image.fromarray(NOISE[..., :3]).quantize(16), ".png", id="palette"),
        pytest.param(Image.fromarray(NOISE).quantize(16), ".webp", id="webp"),
        pytest.param(Image.fromarray(NOISE[..., 0] > 127), ".bmp", id="bilevel"),
        pytest.param(Image.fromarray(NOISE[..., :3]).convert("CMYK"), ".jpg", id="CMYK"),
        pytest.param(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), ".png", id="16-bit"),
        pytest.param(Image.fromarray(NOISE[..., 0].astype(np.int32) * 9 - 300), ".tiff", id="32-bit"),
        pytest.param(Image.fromarray(NOISE[..., 0].astype(np.float32)), ".tif", id="float"),
        pytest.param(Image.fromarray(NOISE[:1, :1, :3]), ".png", id="1x1"),
        pytest.param(Image.fromarray(np.tile(NOISE[:10, :, :3], (1, 625, 1))), ".png", id="20000x10"),
    ],
)
def test_pixels_are_those_of_a_plain_conversion(image: Image.Image, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    image.save(path)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
        from_memory = Picture.of(opened)
    from_file = Picture.of(path)
    assert from_file.image.mode == from_memory.image.mode == "RGB"
    assert from_file.source == str(path)
    assert np.array_equal(np.asarray(from_file.image), expected)
    assert np.array_equal(np.asarray(from_memory.image), expected)


def test_a_picture_does_not_change_with_its_original() -> None:
    array = NOISE[..., :3].copy()
    image = Image.fromarray(array)
    pictures = [Picture.of(array), Picture.of(image)]
    before = [np.asarray(picture.image).copy() for picture in pictures]
    array[:] = 0
    image.paste((0, 0, 0), (0, 0, *image.size))
    assert all(np.array_equal(np.asarray(picture.image), old) for picture, old in zip(pictures, before, strict=True))


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays_of_bytes_and_of_fractions_give_the_same_picture(channels: int | None, dtype: type) -> None:
    array = NOISE[..., 0] if channels is None else NOISE[..., :channels]
    given = array if dtype is np.uint8 else (array / 255).astype(dtype)
    expected = np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("RGB"))
    assert np.array_equal(np.asarray(Picture.of(given).image), expected)


@pytest.mark.parametrize("given", [NOISE[::2, ::-1, :3], np.asfortranarray(NOISE[..., :3])], ids=["strided", "fortran"])
def test_arrays_in_any_memory_order(given: np.ndarray) -> None:
    assert np.array_equal(np.asarray(Picture.of(given).image), given)


def test_a_data_address_is_a_picture() -> None:
    image = Image.fromarray(NOISE[..., :3])
    address = "data:image/png;base64," + base64.b64encode(encoded(image)).decode()
    picture = Picture.of(address)
    assert np.array_equal(np.asarray(picture.image), np.asarray(image))
    assert len(picture.source) <= 80


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Picture.of("~/a.png").image.size == (3, 2)


def test_a_picture_passes_through() -> None:
    picture = Picture.of(NOISE)
    assert Picture.of(picture) is picture


# --- notes


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_it_says_so(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (60 * k, 0, 255 - 60 * k)) for k in range(4)]
    path = tmp_path / f"moving.{kind.lower()}"
    frames[0].save(
        path, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    picture = Picture.of(path)
    assert picture.notes == ("first frame of 4",)
    assert picture.image.getpixel((0, 0)) == (0, 0, 255)


def test_of_an_opened_animation_the_current_frame_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    Image.new("L", (4, 4), 0).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 200)])
    with Image.open(path) as opened:
        opened.seek(1)
        assert Picture.of(opened).notes == ("frame 2 of 2",)
        assert opened.tell() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_ignored_with_a_note_and_applied_on_request(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(NOISE[..., :3]).save(path, exif=exif)
    ignored, applied = Picture.of(path), Picture.of(path, apply_exif=True)
    assert ignored.image.size == (32, 24)
    assert applied.image.size == ((24, 32) if orientation >= 5 else (32, 24))
    if orientation == 1:
        assert ignored.notes == applied.notes == ()
        assert ignored.image == applied.image
    else:
        assert ignored.notes == (f"EXIF rotation ignored (orientation {orientation})",)
        assert applied.notes == (f"EXIF rotation applied (orientation {orientation})",)
        assert np.asarray(ignored.image).tobytes() != np.asarray(applied.image).tobytes()
        assert Picture.of(applied.image, apply_exif=True).notes == ()


@pytest.mark.parametrize(
    ("image", "note"),
    [
        pytest.param(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "transparency dropped", id="RGBA"),
        pytest.param(Image.new("RGBA", (2, 2), (9, 9, 9, 255)), None, id="opaque"),
        pytest.param(Image.new("LA", (2, 2), (9, 100)), "transparency dropped", id="LA"),
        pytest.param(Image.fromarray(np.uint16([[0, 4095]])), "values 0..4095 clipped to 0..255", id="16-bit"),
        pytest.param(Image.fromarray(np.uint16([[0, 255]])), None, id="16-bit, few values"),
        pytest.param(Image.fromarray(np.int32([[-3, 9]])), "values -3..9 clipped to 0..255", id="negative"),
        pytest.param(Image.fromarray(np.float32([[0.1, 0.5]])), "values 0..1 read as 0..255, nearly black", id="0..1"),
    ],
)
def test_what_the_conversion_loses_is_noted(image: Image.Image, note: str | None) -> None:
    assert Picture.of(image).notes == (() if note is None else (note,))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    Image.new("P", (4, 4)).save(path, transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Picture.of(path).notes == ("transparency dropped",)


# --- what is refused


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    image = Image.fromarray(NOISE[..., :3])
    half = {kind: encoded(image, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")}
    return {
        "zero bytes": (b"", "is empty"),
        "a text": (b"What is in the picture?", "not an image"),
        "a web page": (b"<!doctype html><html></html>", "not an image"),
        **{f"half a {kind}": (data[: len(data) // 2], "damaged or incomplete") for kind, data in half.items()},
        "a header alone": (encoded(image)[:60], "damaged or incomplete"),
        "2.5 gigapixels": (png_claiming(50_000, 50_000), f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"),
        "0.1 gigapixels": (png_claiming(50_000, 2_000), "damaged or incomplete"),  # allowed, but they are not there
        "a PDF": (b"%PDF-1.7\n", "not an image but a PDF"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image but a PostScript"),
        "an SVG": (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image but an SVG"),
        "a video": (b"\0\0\0\x18ftypmp42\0\0\0\0", "not an image but a video"),
        "an office document": (b"PK\x03\x04" + bytes(60), "not an image but an archive"),
    }


@pytest.mark.parametrize("name", bad_files(Path()))
def test_a_file_that_is_no_whole_picture_is_refused(name: str, tmp_path: Path) -> None:
    data, words = bad_files(tmp_path)[name]
    path = tmp_path / "b.png"
    path.write_bytes(data)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PictureError, match=words) as caught:
        Picture.of(path)
    assert str(path) in str(caught.value)
    assert one_sentence(caught.value) or len(str(path)) > 150
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is a directory"):
        Picture.of(tmp_path)


@pytest.mark.parametrize("name", ["no.png", "no/such/folder.png"])
def test_a_missing_file_names_itself_and_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PictureNotFound, match="there is no file") as caught:
        Picture.of(name)
    assert name in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0.png", "~nobody-of-this-name/a.png"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises((PictureError, PictureNotFound)) as caught:
        Picture.of(name)
    assert one_sentence(caught.value)


def test_a_closed_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    with Image.open(path) as opened:
        pass
    with pytest.raises(PictureError, match="was closed"):
        Picture.of(opened)
    whole = Image.new("RGB", (3, 2))
    whole.close()
    with pytest.raises(PictureError, match="was closed"):
        Picture.of(whole)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        pytest.param(np.zeros((2, 8, 8, 3), dtype=np.uint8), "is no picture", id="batch"),
        pytest.param(np.zeros(8, dtype=np.uint8), "is no picture", id="line"),
        pytest.param(np.zeros((8, 8, 2), dtype=np.uint8), "is no picture", id="two channels"),
        pytest.param(np.zeros((0, 8, 3), dtype=np.uint8), "has no pixels", id="empty"),
        pytest.param(np.full((8, 8), 256, dtype=np.int64), r"int64 must lie in 0\.\.255", id="large integers"),
        pytest.param(np.full((8, 8), -1, dtype=np.int32), r"lies in -1\.\.-1", id="negative integers"),
        pytest.param(np.full((8, 8), 1.02), r"lies in 1\.02\.\.1\.02", id="more than a hair"),
        pytest.param(np.full((8, 8), np.inf), "infinite", id="infinite"),
        pytest.param(np.zeros((8, 8), dtype=complex), "complex128", id="complex"),
        pytest.param(np.full((8, 8), None), "object", id="objects"),
        pytest.param(torch.zeros(2, 3, 8, 8), "one picture at a time", id="a batch of tensors"),
        pytest.param(torch.full((3, 8, 8), torch.nan, dtype=torch.bfloat16), "NaN in 192", id="bfloat16 NaN"),
        pytest.param(torch.zeros(3, 8, 8, device="meta"), "on meta", id="meta"),
        pytest.param(torch.zeros(8, 8).to_sparse(), "dense", id="sparse"),
        pytest.param(np.full((8, 8), 255.0), r"lies in 255\.\.255", id="0..255 floats"),
        pytest.param(np.full((8, 8), -0.1), "must lie in 0..1", id="negative floats"),
        pytest.param(np.full((8, 8), np.nan), "holds NaN", id="NaN"),
        pytest.param(np.array([["a"]]), "is no picture", id="strings"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(PictureError, match=words) as caught:
        Picture.of(array)
    assert one_sentence(caught.value)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(PictureError, match="0x5 and has no pixels"):
        Picture.of(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("value", [3, None, {}, object()], ids=["number", "nothing", "table", "object"])
def test_another_type_is_refused(value: object) -> None:
    with pytest.raises(PromptError, match="is no picture"):
        Picture.of(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["data:image/png,abc", "data:image/png;base64,@@@", "data:image/png;base64,QUJD"])
def test_a_data_address_without_a_picture_is_refused(address: str) -> None:
    with pytest.raises(PictureError) as caught:
        Picture.of(address)
    assert one_sentence(caught.value)


# --- the web


class _Pictures(BaseHTTPRequestHandler):
    body = encoded(Image.fromarray(NOISE[..., :3]))
    released = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            self.released.wait(10)
            return
        if self.path.startswith("/drip-headers"):
            return self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 60_000)
        if self.path.startswith("/again"):
            self.send_response(302)
            self.send_header("Location", f"/again{len(self.path)}{'x' * (len(self.path) - 5)}")
            return self.end_headers()
        if self.path.startswith("/error"):
            return self.send_error(int(self.path[-3:]))
        self.send_response(200)
        self.end_headers()
        if self.path.startswith("/drip"):
            return self.drip(self.body)
        if self.path.startswith("/endless"):
            return self.drip(bytes(10**8), pause=0, size=10**5)
        self.wfile.write(b"<html>sign in</html>" if self.path.startswith("/page") else self.body)
        return None

    def drip(self, data: bytes, pause: float = 0.05, size: int = 1) -> None:
        with contextlib.suppress(OSError):  # the other side has hung up
            for start in range(0, len(data), size):
                self.wfile.write(data[start : start + size])
                self.wfile.flush()
                if self.released.wait(pause):
                    return

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    _Pictures.released.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pictures) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        _Pictures.released.set()
        web.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("path", ["/a.png", "/图像.png?size=2", "/with%20space"])
def test_a_web_address_is_a_picture(server: str, path: str) -> None:
    picture = Picture.of(server + path)
    assert np.array_equal(np.asarray(picture.image), NOISE[..., :3])
    assert picture.source == server + path


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/error404", PictureNotFound, "answers 404"),
        ("/error500", PictureError, "answers 500"),
        ("/page", PictureError, "not an image"),
        ("/slow", PictureError, "cannot be fetched"),
    ],
)
def test_a_web_address_without_a_picture_is_refused(
    server: str, path: str, kind: type[VilaLabError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_SILENCE", 0.2 if path == "/slow" else 10.0)
    with pytest.raises(kind, match=words) as caught:
        Picture.of(server + path)
    assert server + path in str(caught.value)
    assert one_sentence(caught.value)


def test_a_web_picture_has_a_size_limit(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", len(_Pictures.body))
    assert Picture.of(server + "/a.png").image.size == (32, 24)
    monkeypatch.setattr(sources, "MOST_BYTES", len(_Pictures.body) - 1)
    with pytest.raises(PictureError, match="larger than"):
        Picture.of(server + "/a.png")


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/again", "/endless"])
def test_a_server_that_never_comes_to_an_end_is_given_up(
    server: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_SECONDS", 0.5)
    monkeypatch.setattr(sources, "MOST_BYTES", 10**6)
    start = time.monotonic()
    with pytest.raises(PictureError) as caught:
        Picture.of(server + path)
    assert time.monotonic() - start < 5
    assert one_sentence(caught.value)
    deadline = time.monotonic() + 5
    while any(thread.name == "vila_lab fetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline  # nothing goes on in the background
        time.sleep(0.02)


def test_the_limit_for_an_address_is_well_below_a_minute() -> None:
    assert sources.URL_SECONDS <= 45


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.png", "http://[/a.png", "http://127.0.0.1:x/a.png"])
def test_an_address_that_nobody_answers_is_refused(address: str) -> None:
    with pytest.raises(PictureError, match="cannot be fetched") as caught:
        Picture.of(address)
    assert one_sentence(caught.value)


# --- whatever holds a picture


RGB = NOISE[..., :3]


@pytest.mark.parametrize(
    "value",
    [
        RGB.transpose(2, 0, 1).copy(),
        RGB[None],
        RGB.astype(np.int32),
        RGB.astype(np.int64),
        RGB.astype(np.uint16),
        RGB / 255,
        np.float32(RGB / 255) * np.float32(1.0000001),
        torch.from_numpy(RGB.copy()),
        torch.from_numpy(RGB.transpose(2, 0, 1).copy()),
        torch.from_numpy(RGB.transpose(2, 0, 1).copy())[None],
        torch.from_numpy(RGB.transpose(2, 0, 1) / 255).requires_grad_(),
        torch.from_numpy(RGB.astype(np.int32)),
    ],
    ids=lambda value: f"{value.dtype}-{'x'.join(map(str, value.shape))}-{type(value).__name__}",
)
def test_an_array_or_tensor_in_any_plain_form_is_the_same_picture(value: Any) -> None:
    assert np.array_equal(np.asarray(Picture.of(value).image), RGB)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_as_near_as_they_can_be(dtype: torch.dtype) -> None:
    picture = Picture.of(torch.from_numpy(RGB.transpose(2, 0, 1) / 255).to(dtype))
    assert np.abs(np.asarray(picture.image).astype(int) - RGB).max() <= (1 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1), (1, 24, 32)])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32, np.int32])
def test_one_channel_is_grey(shape: tuple[int, ...], dtype: type) -> None:
    mask = NOISE[..., 0] > 127
    value = mask if dtype == np.bool_ else mask * (1.0 if dtype == np.float32 else 255)
    picture = Picture.of(np.asarray(value).astype(dtype).reshape(shape))
    assert np.array_equal(np.asarray(picture.image)[..., 0], mask * np.uint8(255))


def test_sixteen_bits_are_scaled_with_a_note() -> None:
    picture = Picture.of(NOISE[..., :3].astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(picture.image), RGB)
    assert picture.notes == ("16-bit values scaled to 8 bits",)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_are_a_picture(wrap: Any) -> None:
    assert np.array_equal(np.asarray(Picture.of(wrap(encoded(Image.fromarray(RGB)))).image), RGB)


def test_an_open_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")  # stands at its end now
    assert np.array_equal(np.asarray(Picture.of(buffer).image), RGB)
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    with path.open("rb") as file:
        assert Picture.of(file).source == str(path)


def test_an_open_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with path.open("rb") as closed:
        pass
    with pytest.raises(PictureError, match="is closed"):
        Picture.of(closed)
    with path.open(encoding="latin-1") as text, pytest.raises(PictureError, match="as text"):
        Picture.of(text)  # type: ignore[arg-type]
    with path.open("ab") as writing, pytest.raises(PictureError, match="cannot be read"):
        Picture.of(writing)


@pytest.mark.parametrize(
    "label", ["image/png", "DATA:text/plain", "application/octet-stream", "", "image/png;name=a b.png"]
)
def test_a_data_address_of_any_label(label: str) -> None:
    body = base64.b64encode(encoded(Image.fromarray(RGB))).decode()
    head = label if label.lower().startswith("data:") else f"data:{label}"
    for text in (body, body.rstrip("="), body.replace("+", "%2B"), body[:40] + "\n" + body[40:]):
        assert np.array_equal(np.asarray(Picture.of(f"{head};base64,{text}").image), RGB)


# --- side notes never refuse


CASES = {
    "a damaged EXIF chunk": lambda data: (
        data.replace(b"eXIf", b"eXIf")[:-12] + png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff") + data[-12:]
    ),
    "EXIF that is text": lambda data: data[:-12] + png_chunk(b"tEXt", b"Raw profile type exif\0nonsense") + data[-12:],
    "EXIF that is hex nonsense": lambda data: (
        data[:-12] + png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 8\nzzzzzzzz") + data[-12:]
    ),
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("apply_exif", [False, True])
def test_what_only_a_note_needs_never_refuses(case: str, apply_exif: bool) -> None:
    data = CASES[case](encoded(Image.fromarray(RGB)))
    assert np.array_equal(np.asarray(Picture.of(data, apply_exif=apply_exif).image), RGB)


@pytest.mark.parametrize("cut", [0.55, 0.75, 0.95])
def test_later_frames_that_are_cut_off_do_not_refuse_the_first(cut: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)] * 4)
    data = buffer.getvalue()
    assert np.array_equal(np.asarray(Picture.of(data[: int(len(data) * cut)]).image), RGB)


# --- pipes, devices, and where reading fails


def test_a_pipe_is_read(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, encoded(Image.fromarray(RGB)))
    os.close(write)
    try:
        assert np.array_equal(np.asarray(Picture.of(f"/dev/fd/{read}").image), RGB)
    finally:
        os.close(read)


def test_a_fifo_with_a_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(encoded(Image.fromarray(RGB)),))
    writer.start()
    assert np.array_equal(np.asarray(Picture.of(path).image), RGB)
    writer.join(5)


def test_a_fifo_without_a_writer_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.PIPE_SILENCE < 1
    assert sources.PIPE_SECONDS <= 2.5
    monkeypatch.setattr(sources, "PIPE_SECONDS", 0.2)
    monkeypatch.setattr(sources, "PIPE_SILENCE", 0.1)
    os.mkfifo(tmp_path / "a.png")
    start = time.monotonic()
    with pytest.raises(PictureError, match="is a pipe"):
        Picture.of(tmp_path / "a.png")
    read, write = os.pipe()
    os.write(write, b"\x89PNG")
    with os.fdopen(read, "rb") as file, pytest.raises(PictureError, match="is a pipe"):
        Picture.of(file)
    os.close(write)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/random"])
def test_a_device_is_refused(name: str) -> None:
    with pytest.raises(PictureError, match="is a device"):
        Picture.of(name)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.png")
        with pytest.raises(PictureError, match="is a socket"):
            Picture.of("a.png")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_a_read_error_is_named_as_one() -> None:
    with pytest.raises(PictureError, match=r"/proc/self/mem cannot be read \(Input/output error\)"):
        Picture.of("/proc/self/mem")


# --- HEIF and size


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.mark.parametrize("name", ["a.heic", "A.HEIF", "photo.hif", "named.jpg"])
def test_heif_names_what_it_needs(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(HEIC)
    with pytest.raises(PictureError, match="pillow-heif") as caught:
        Picture.of(path)
    assert one_sentence(caught.value)


def test_a_jpeg_named_heic_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    Image.fromarray(RGB).save(path, "JPEG")
    assert Picture.of(path).image.size == (32, 24)


@pytest.mark.parametrize("form", ["file", "bytes", "array", "tensor", "PIL"])
@pytest.mark.parametrize(
    ("limit", "allowed"), [(500, True), (384, True), (380, False)]
)  # 768 pixels; twice the limit holds
def test_one_limit_of_pixels_for_every_kind_of_source(
    form: str, limit: int, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    value: Any = {
        "file": path,
        "bytes": path.read_bytes(),
        "array": RGB,
        "tensor": torch.from_numpy(RGB.copy()),
        "PIL": Image.fromarray(RGB),
    }[form]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if allowed:
        assert Picture.of(value).image.size == (32, 24)
        return
    with pytest.raises(PictureError, match="has more than 760 pixels"):
        Picture.of(value)


def test_a_picture_is_told_by_what_it_shows() -> None:
    """Neither by its name nor by the object; what was drawn on is another."""
    one, other = (Picture.of(np.full((4, 6, 3), 9, np.uint8)) for _ in range(2))
    turned = Picture.of(np.full((6, 4, 3), 9, np.uint8))
    assert one.digest == other.digest != turned.digest
    assert replace(one, source="elsewhere", notes=("a note",)).digest == one.digest
    before = one.digest
    ImageDraw.Draw(one.image).point((0, 0), fill="red")
    assert one.digest != before
    assert other.digest == before
