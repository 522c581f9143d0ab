"""What a picture's notes say of its reading: all that was changed or left out, and nothing where nothing was."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import vila_lab
from vila_lab.cli import main
from vila_lab.errors import OptionError
from vila_lab.prompt import Picture

RGB = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
QUESTION = "What is in image 1?"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def png_of_16_bits(channels: int) -> bytes:
    """By hand: Pillow writes none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    row = b"\0" + np.full(3 * channels, 0xFFFF, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", 3, 2, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(2 * row)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(RGB, kind, exif=exif)


def palette(transparent: bool) -> bytes:
    image = RGB.quantize(4)
    return encoded(image, "PNG", transparency=0) if transparent else encoded(image, "PNG")


def animation() -> bytes:
    return encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180), RGB], lossless=True)


READ: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "png": (encoded(RGB, "PNG"), ()),
    "jpeg": (encoded(RGB, "JPEG"), ()),
    "grey": (encoded(RGB.convert("L"), "PNG"), ()),
    "palette": (palette(transparent=False), ()),
    "opaque alpha": (encoded(RGB.convert("RGBA"), "PNG"), ()),
    "sRGB profile": (encoded(RGB, "PNG", icc_profile=profile("sRGB")), ()),
    "other profile": (
        encoded(RGB, "JPEG", icc_profile=profile("LAB")),
        ("colour profile ignored (Lab identity built-in)",),
    ),
    "damaged profile": (encoded(RGB, "PNG", icc_profile=b"nonsense"), ("colour profile ignored",)),
    "cmyk": (encoded(RGB.convert("CMYK"), "JPEG"), ("CMYK converted to RGB",)),
    "16 bits": (png_of_16_bits(3), ("16 bits per colour read as 8",)),
    "16 bits and alpha": (png_of_16_bits(4), ("16 bits per colour read as 8",)),
    "16 bits of grey and alpha": (png_of_16_bits(2), ("16 bits per colour read as 8",)),
    "16 bits of grey": (png_of_16_bits(1), ("values 65535..65535 clipped to 0..255",)),
    "16 bits in ppm": (b"P6 2 2 65535\n" + bytes(24), ("16 bits per colour read as 8",)),
    "8 bits in ppm": (b"P6 2 2 255\n" + bytes(12), ()),
    "turned jpeg": (turned("JPEG"), ("EXIF rotation ignored (orientation 6)",)),
    "turned tiff": (turned("TIFF"), ("EXIF rotation applied by the reader of TIFF (orientation 6)",)),
    "transparent colour": (palette(transparent=True), ("transparency dropped",)),
    "animation": (animation(), ("first frame of 3",)),
    "wide pixels": (encoded(RGB, "PNG", dpi=(200, 100)), ("pixels that are not square read as square",)),
    "square pixels": (encoded(RGB, "JPEG", dpi=(72, 72)), ()),
}


@pytest.mark.parametrize("case", READ)
def test_the_notes_are_what_was_changed_or_left_out(case):
    data, notes = READ[case]
    assert Picture.of(data).notes == notes


def test_a_file_turned_by_its_reader_is_not_turned_again():
    assert np.array_equal(Picture.of(turned("TIFF"), apply_exif=True).image, RGB.transpose(Image.Transpose.ROTATE_270))


def test_a_profile_that_changes_colours_is_told_with_the_answer(lab):
    answer = lab.ask([READ["other profile"][0], QUESTION], max_new_tokens=1)
    assert "picture 1: colour profile ignored (Lab identity built-in)" in answer.notes


# -- transparency put on a colour ----------------------------------------------------------------------------------


def half() -> Image.Image:
    """Black, of which the left half is transparent."""
    alpha = np.zeros((2, 4), np.uint8)
    alpha[:, 2:] = 255
    image = Image.new("RGBA", (4, 2), "black")
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("background", ["white", "#fff", (255, 255, 255)], ids=str)
@pytest.mark.parametrize("kind", ["image", "file", "array", "palette"])
def test_what_is_transparent_shows_the_background(kind, background):
    source: Any = {
        "image": half(),
        "file": encoded(half(), "PNG"),
        "array": np.asarray(half()),
        "palette": encoded(half(), "GIF", transparency=0),
    }[kind]
    picture = Picture.of(source, background=background)
    assert np.asarray(picture.image)[0, :, 0].tolist() == [255, 255, 0, 0]
    words = background if isinstance(background, str) else "rgb(255, 255, 255)"
    assert picture.notes == (f"transparency put on {words}",)


def test_an_opaque_picture_has_no_background():
    picture = Picture.of(RGB, background="red")
    assert np.array_equal(picture.image, RGB)
    assert picture.notes == ()


@pytest.mark.parametrize("background", ["whit", (1, 2), (0, 0, 256), 7, "", (1.0, 0, 0)], ids=str)
def test_what_is_no_colour_is_one_sentence(background, lab):
    message = r"background must be a colour, such as 'white', '#ffffff' or \(255, 255, 255\), not "
    with pytest.raises(
        OptionError, match=message + (r"'whit' \(did you mean 'white'\?\)" if background == "whit" else "")
    ):
        lab.ask([half(), QUESTION], background=background)


def test_an_answer_says_on_what_its_pictures_were_put_and_keeps_it(lab, tmp_path):
    answer = lab.ask([half(), QUESTION], background="white", max_new_tokens=1)
    assert answer.notes[0] == "picture 1: transparency put on white"
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.notes == answer.notes
    assert opened.images[0].getpixel((0, 0)) == (255, 255, 255)
    chat = lab.chat()
    assert chat.ask([half(), QUESTION], background="white", max_new_tokens=1).notes[0] == answer.notes[0]


def test_frames_of_a_folder_are_put_on_it_too(tmp_path):
    for number in range(2):
        half().save(tmp_path / f"{number}.png")
    for picture in vila_lab.Video(tmp_path, 2).pictures(background="white"):
        assert picture.image.getpixel((0, 0)) == (255, 255, 255)


def test_the_command_line_puts_pictures_on_a_colour_and_turns_them(tmp_path, capsys):
    half().save(tmp_path / "half.png")
    (tmp_path / "turned.jpg").write_bytes(turned("JPEG"))
    media = [str(tmp_path / "half.png"), str(tmp_path / "turned.jpg")]
    asked = ["infer", "--media", *media, "--text", QUESTION, "--max-new-tokens", "1"]
    assert main([*asked, "--background", "white", "--apply-exif"]) == 0
    said = capsys.readouterr().err
    assert "note: picture 1: transparency put on white" in said
    assert "note: picture 2: EXIF rotation applied (orientation 6)" in said
    assert main([*asked, "--background", "whit"]) == 2
    assert "(did you mean 'white'?)" in capsys.readouterr().err


def test_a_service_reads_it_so_too(lab):
    from vila_lab.serve.reading import Bounds, prompt_of

    url = f"data:image/png;base64,{base64.b64encode(encoded(half(), 'PNG')).decode()}"
    said = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]}
    ]
    (picture,) = prompt_of(said, Bounds(positions=1000), background="white").pictures
    assert picture.notes == ("transparency put on white",)
