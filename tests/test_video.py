"""A video is so many pictures: the right frames at the right times, whatever holds them; the rest is one sentence."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

import vila_lab
from vila_lab import wire
from vila_lab.cli import main
from vila_lab.engine import record_bytes
from vila_lab.engine.record import Record
from vila_lab.errors import (
    FileError,
    MissingExtra,
    OptionError,
    PictureError,
    PictureNotFound,
    PromptError,
    VideoError,
    VilaLabError,
)
from vila_lab.inputs import clips, frames
from vila_lab.inputs.frames import Watch, chosen
from vila_lab.picture import Frame, Picture
from vila_lab.prompt import Prompt
from vila_lab.tiny import demo_images
from vila_lab.video import Video
from vila_lab.view import frame_shares
from vila_lab.view.timeline import clips_of

SIZE = (64, 48)
QUESTION = "What happens?"
KINDS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "mov": "mjpeg", "avi": "mpeg4", "ts": "libx264"}


def drawn(number: int) -> Image.Image:
    """A frame that says its number: eight bars, its bits."""
    bars = [255 * (number >> bit & 1) for bit in range(8)]
    return Image.fromarray(np.tile(np.repeat(bars, 8), (48, 1)).astype(np.uint8)).convert("RGB")


def number_of(image: Image.Image) -> int:
    """The number that a frame says, however a codec smears it."""
    bars = np.asarray(image.convert("L"))[24].reshape(8, 8)[:, 2:6].mean(1)
    return int(sum(int(bar > 128) << bit for bit, bar in enumerate(bars)))


def write(
    path: Path,
    count: int,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    cover: bool = False,
    **options: str,
) -> Path:
    """A video of numbered frames, 25 a second, or shown at some milliseconds."""
    rate = 1000 if times else 25
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        if cover:
            stream.disposition = Disposition.attached_pic.value
        for number in range(count):
            frame = av.VideoFrame.from_image(drawn(number))
            frame.pts, frame.time_base = (times[number] if times else number), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), "fltp", "stereo")
        sound.rate, sound.pts = 44100, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def animation(kind: str, count: int, duration: Any = 100) -> bytes:
    buffer = io.BytesIO()
    first, *others = map(drawn, range(count))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    first.save(buffer, kind, save_all=True, append_images=others, duration=duration, **lossless)
    return buffer.getvalue()


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        drawn(number).save(path / f"frame{number}.png")
    return path


def numbers(pictures: Sequence[Picture]) -> list[int]:
    return [number_of(picture.image) for picture in pictures]


def seconds(pictures: Sequence[Picture]) -> list[float]:
    return [picture.frame.seconds for picture in pictures if picture.frame and picture.frame.seconds is not None]


def one_sentence(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 400 and "Traceback" not in str(error)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4", 96)


# --- which frames


@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 30, 96, 100_000])
def test_frames_are_those_of_the_familys_own_rule(count: int, wanted: int) -> None:
    rule = [round(place) for place in np.linspace(0, count - 1, wanted)]
    assert chosen(count, wanted) == sorted(set(rule))
    if wanted <= count:
        assert chosen(count, wanted) == rule
    else:
        assert chosen(count, wanted) == list(range(count))


@pytest.mark.parametrize("short", [512, 0], ids=["from end to end", "by seeking"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_the_same_frames(
    kind: str, short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SHORT", short)
    pictures = Video(write(tmp_path / f"clip.{kind}", 96, KINDS[kind])).pictures()
    assert numbers(pictures) == [0, 14, 27, 41, 54, 68, 81, 95]
    assert [picture.frame.number for picture in pictures] == numbers(pictures)
    np.testing.assert_allclose(seconds(pictures), np.array(numbers(pictures)) / 25, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_seeking_gives_the_same_pixels_and_decodes_less(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    over = Watch.over
    monkeypatch.setattr(Watch, "over", lambda watch, things: (steps.append(1) or each for each in over(watch, things)))
    path = write(tmp_path / f"clip.{kind}", 240, KINDS[kind])
    whole = Video(path, 3).pictures()
    through = len(steps)
    monkeypatch.setattr(clips, "SHORT", 0)
    assert Video(path, 3).pictures() == whole
    assert len(steps) - through < 300 < 480 <= through  # every packet, and some frames or all of them


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_frames_on_request(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(animation(kind, 12, [100] * 6 + [300] * 6))
    pictures = Video(path, 4).pictures()
    assert numbers(pictures) == [0, 4, 7, 11]
    assert seconds(pictures) == pytest.approx([0, 0.4, 0.9, 2.1])
    with Image.open(path) as image:
        for picture in pictures:
            image.seek(number_of(picture.image))
            assert picture.image == image.convert("RGB")
    assert numbers(Prompt.of([path, QUESTION]).pictures) == [0]
    assert Prompt.of([path, QUESTION]).pictures[0].notes == ("first frame of 12",)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "frames", 12)
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_bytes(b"no frame")
    (folder / "sub").mkdir()
    pictures = Video(folder, 4).pictures()
    assert numbers(pictures) == [0, 4, 7, 11]
    assert pictures[1].frame == Frame("frames", 4, 12, None)
    assert pictures[1].notes == ("frame 5 of 12 of frames",)
    assert pictures[1].source == str(folder / "frame4.png")


@pytest.mark.parametrize("asked", [1, 2, 5, 8])
def test_there_are_no_more_pictures_than_frames(asked: int, tmp_path: Path) -> None:
    sources: list[Any] = [write(tmp_path / "a.mp4", 3), animation("GIF", 3), folder_of(tmp_path / "frames", 3)]
    for source in sources:
        assert len(Video(source, asked).pictures()) == min(asked, 3)


def test_what_a_container_says_of_its_frames_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.mkv", 30).read_bytes())
    place = data.index(b"\x44\x89\x88")  # the duration, as eight bytes
    data[place + 3 : place + 11] = struct.pack(">d", 7_200_000.0)
    pictures = Video(bytes(data)).pictures()
    assert numbers(pictures) == chosen(30, 8)
    assert "the file says that it lasts 7200.00 s, and its last frame is at 1.16 s" in pictures[0].notes


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm"])
def test_times_are_those_of_the_frames(kind: str, tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 520, 2000, 2040, 9000, 9001, 9500]
    pictures = Video(write(tmp_path / f"a.{kind}", 10, KINDS[kind], times), 10).pictures()
    assert seconds(pictures) == pytest.approx([time / 1000 for time in times])


def test_notes_say_which_frame_and_when(clip: Path) -> None:
    picture = Video(clip).pictures()[2]
    assert picture.notes == ("frame 28 of 96 of clip.mp4, at 1.08 s",)
    assert picture.frame == Frame("clip.mp4", 27, 96, pytest.approx(1.08))
    assert picture.source == str(clip)


@pytest.mark.parametrize("matrix", ["clockwise", "upside down", "against the clock"])
def test_a_video_that_asks_to_be_turned_is_turned(matrix: str, tmp_path: Path) -> None:
    one = 1 << 16
    values, how = {
        "clockwise": ((0, one, -one, 0), Image.Transpose.ROTATE_270),
        "upside down": ((-one, 0, 0, -one), Image.Transpose.ROTATE_180),
        "against the clock": ((0, -one, one, 0), Image.Transpose.ROTATE_90),
    }[matrix]
    plain = write(tmp_path / "a.mp4", 3).read_bytes()
    data = bytearray(plain)
    a, b, c, d = values
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    upright = Video(bytes(data)).pictures()[1]
    stored = Video(plain).pictures()[1]
    assert number_of(stored.image) == 1
    assert upright.image == stored.image.transpose(how)
    assert upright.notes[-1].startswith("turned by ")
    assert upright.notes[-1].endswith("° clockwise, as the video asks")
    assert not any("turned" in note for note in stored.notes)


# --- what is refused


BROKEN = [
    "zero bytes", "random bytes", "zeros", "a web page", "a playlist", "a list of files", "half an MP4", "a header alone",
    "sound alone", "half a GIF's header", "half a WebP",
]  # fmt: skip


def broken(folder: Path) -> dict[str, tuple[bytes, str]]:
    whole = write(folder / "whole.mp4", 30).read_bytes()
    return {
        "zero bytes": (b"", "is empty"),
        "random bytes": (np.random.default_rng(0).bytes(100_000), "no video that can be read"),
        "zeros": (bytes(2**20), "no video that can be read"),
        "a web page": (b"<!doctype html><html></html>", "no video that can be read"),
        "a playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "no video that can be read"),
        "a list of files": (
            f"ffconcat version 1.0\nfile {folder / 'whole.mp4'}\n".encode(),
            "no video that can be read",
        ),
        "half an MP4": (whole[: len(whole) // 2], "is damaged"),
        "a header alone": (whole[:40], "is damaged"),
        "sound alone": (write_sound(folder / "sound.mp4").read_bytes(), "holds sound and no pictures"),
        "half a GIF's header": (animation("GIF", 3)[:8], "is damaged or incomplete"),
        "half a WebP": (animation("WEBP", 12)[:200], "is damaged or incomplete"),
    }


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_video_is_one_sentence(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = broken(tmp_path)
    assert list(cases) == BROKEN
    data, words = cases[name]
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    capfd.readouterr()
    with pytest.raises(VideoError, match=f"video 1 of 1: {path}.*{words}") as caught:
        Prompt.of([path, QUESTION])
    assert one_sentence(caught.value)
    assert isinstance(caught.value, ValueError)
    assert capfd.readouterr() == ("", "")  # the decoder's own words stay where they are


@pytest.mark.parametrize("short", [512, 0], ids=["from end to end", "by seeking"])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm"])
def test_of_a_video_that_breaks_off_the_beginning_is_read(
    kind: str, short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SHORT", short)
    early = {"movflags": "faststart"} if kind == "mp4" else {}
    data = write(tmp_path / f"a.{kind}", 200, KINDS[kind], **early).read_bytes()
    pictures = Video(data[: len(data) * 7 // 10]).pictures()
    count = pictures[0].frame.count
    assert 60 < count < 200
    assert [picture.frame.number for picture in pictures] == chosen(count, 8)
    # A frame may be there of which those shown before it are not.
    assert numbers(pictures)[:-1] == chosen(count, 8)[:-1]
    assert any("damaged" in note or "lasts 8.00 s" in note for note in pictures[0].notes)


def test_an_animation_that_breaks_off_gives_what_is_there() -> None:
    data = animation("GIF", 20)
    pictures = Video(data[: len(data) // 2], 3).pictures()
    assert numbers(pictures) == chosen(pictures[0].frame.count, 3)
    assert "the animation is damaged: what can be decoded was read" in pictures[0].notes


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_end_in_a_foreign_error(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    kind = ["mp4", "mkv", "webm", "avi", "ts", "gif", "webp"][seed % 7]
    if kind in ("gif", "webp"):
        data = bytearray(animation(kind.upper(), 20))
    else:
        data = bytearray(write(tmp_path / f"a.{kind}", 30, KINDS[kind]).read_bytes())
    for place in random.integers(0 if seed % 2 else len(data) // 8, len(data), 12):
        data[place] ^= int(random.integers(1, 256))
    found: list[Any] = []
    with suppress(VilaLabError):  # a foreign one fails here
        found = list(Video(bytes(data)).pictures())
    assert len(found) <= 8
    assert all(picture.image.mode == "RGB" for picture in found)


@pytest.mark.parametrize(
    "name", ["no.mp4", "no/such/folder/a.webm", "~nobody-of-this-name/a.mkv", "a\0.mp4", "x" * 300 + ".mp4"]
)
def test_a_file_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises((PictureNotFound, PictureError)) as caught:
        Video(name).pictures()
    assert one_sentence(caught.value)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "endless.mp4"
    os.mkfifo(path)
    with pytest.raises(VideoError, match="is a pipe"):
        Video(path).pictures()
    with pytest.raises(PictureError, match="is a device"):
        Video("/dev/zero").pictures()


class Endless(io.RawIOBase):
    """A file that goes on for ever."""

    def __init__(self, head: bytes = b"") -> None:
        self.head = head
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = (self.head + bytes(max(size, 2**16)))[:size]
        self.given += len(data)
        self.head = b""
        return data


def test_an_open_file_without_an_end_is_given_up(clip: Path) -> None:
    for head in (b"", clip.read_bytes()):
        file = Endless(head)
        with pytest.raises(PictureError, match="larger than 64 MiB"):
            Video(file).pictures()
        assert file.given <= 65 * 2**20


@pytest.mark.parametrize("source", ["mp4", "gif"])
def test_work_ends_with_its_time(source: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_SECONDS", -1.0)
    with pytest.raises(VideoError, match=r"could not be read within .* s"):
        Video(clip if source == "mp4" else animation("GIF", 5)).pictures()


@pytest.mark.parametrize("source", ["mp4", "gif"])
def test_a_video_of_too_many_frames_is_given_up(source: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_FRAMES", 50)
    with pytest.raises(VideoError, match="has more than 50 frames, or never ends"):
        Video(clip if source == "mp4" else animation("GIF", 60)).pictures()


def test_pixels_are_counted_before_they_are_kept(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_PIXELS", 5 * SIZE[0] * SIZE[1])
    assert len(Video(clip, 5).pictures()) == 5
    with pytest.raises(VideoError, match="ask for fewer"):
        Video(clip, 6).pictures()
    monkeypatch.setattr(frames, "MOST_EACH", 2000)
    for source in (clip, animation("GIF", 3), animation("WEBP", 3)):
        with pytest.raises(VideoError, match="frames of 64x48, more than 2,000 pixels"):
            Video(source).pictures()


def test_a_songs_cover_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no pictures"):
        Video(write(tmp_path / "a.mp4", 1, "mjpeg", cover=True)).pictures()


def test_an_empty_folder_and_a_folder_with_a_broken_frame(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="holds no pictures"):
        Video(tmp_path / "empty").pictures()
    folder = folder_of(tmp_path / "frames", 3)
    (folder / "frame1.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"frame1\.png is empty"):
        Video(folder).pictures()


def test_without_pyav_the_way_to_it_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vila-lab\[video\]'") as caught:
        Prompt.of([clip, QUESTION])
    assert isinstance(caught.value, ImportError)
    assert len(Video(animation("GIF", 3)).pictures()) == 3  # which Pillow reads


@pytest.mark.parametrize("count", [0, -1, 1025, 1.5, True, "8", None])
def test_a_number_of_frames_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(OptionError, match="frames must be"):
        Video("clip.mp4", count)


@pytest.mark.parametrize("source", [None, 3, Image.new("RGB", (2, 2)), ["a.mp4"]])
def test_what_holds_no_video_is_refused(source: Any) -> None:
    with pytest.raises(PromptError, match="is no video"):
        Video(source)


# --- in a prompt


@pytest.mark.parametrize("form", [str, Path, Video], ids=["str", "path", "video"])
def test_a_prompt_of_a_video_is_that_of_its_frames(form: Callable[[Any], Any], clip: Path) -> None:
    pictures = Video(clip).pictures()
    by_hand = Prompt.of(["Before", *pictures, QUESTION])
    assert Prompt.of(["Before", form(str(clip)), QUESTION]) == by_hand
    assert Prompt.of(QUESTION, images=form(str(clip))) == Prompt.of([*pictures, QUESTION])
    part = {"type": "video", "video": str(clip)}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Before"}, part, {"type": "text", "text": QUESTION}]}
    ]
    assert Prompt.of(messages) == by_hand


def test_the_sources_of_a_video_are_read_alike(clip: Path) -> None:
    data = clip.read_bytes()
    with clip.open("rb") as file:
        found = [Video(source).pictures() for source in (clip, str(clip), clip.as_uri(), f"{clip}\n", data, file)]
    assert all([picture.image for picture in each] == [picture.image for picture in found[0]] for each in found)


def test_videos_and_pictures_keep_their_order_and_are_counted_apart(clip: Path, tmp_path: Path) -> None:
    drawn(200).save(tmp_path / "a.png")
    short = write(tmp_path / "b.webm", 2, "libvpx-vp9")
    prompt = Prompt.of([Video(clip, 2), tmp_path / "a.png", "then", short, QUESTION])
    assert numbers(prompt.pictures) == [0, 95, 200, 0, 1]
    assert [isinstance(part, str) for part in prompt.parts] == [False, False, False, True, False, False, True]
    with pytest.raises(PictureNotFound, match="video 2 of 2: there is no file"):
        Prompt.of([clip, tmp_path / "a.png", "no.mkv"])
    with pytest.raises(PictureNotFound, match="picture 1 of 1: there is no file"):
        Prompt.of([clip, "no.png"])


def test_bytes_of_a_video_are_no_picture(clip: Path) -> None:
    with pytest.raises(PictureError, match=r"not an image but a video.*vila_lab\.Video"):
        Prompt.of([clip.read_bytes(), QUESTION])


def test_a_client_of_the_service_names_no_video(clip: Path) -> None:
    reading = pytest.importorskip("vila_lab.serve.reading")
    for part in ({"type": "video", "video": str(clip)}, {"type": "image_url", "image_url": {"url": str(clip)}}):
        with pytest.raises((PromptError, PictureError), match=r"has the type 'video'|is no data: address"):
            reading.prompt_of([{"role": "user", "content": [part]}], reading.Bounds(1000))
    named = reading.prompt_of([{"role": "user", "content": str(clip)}], reading.Bounds(1000))
    assert named.parts == (str(clip),)


@pytest.mark.parametrize("name", ["nvila-lite", "nvila-dynamic_s2", "VILA1.5-3b-tiny"])
def test_a_video_is_asked_about_as_its_frames_are(golden_session: Any, name: str, tmp_path: Path) -> None:
    lab, folder = golden_session(name), folder_of(tmp_path / "frames", 4)
    answer = lab.ask([Video(folder, 3), QUESTION], max_new_tokens=3)
    by_hand = lab.ask([*(folder / f"frame{k}.png" for k in (0, 2, 3)), QUESTION], max_new_tokens=3)
    assert [token.id for token in answer.tokens] == [token.id for token in by_hand.tokens]
    np.testing.assert_array_equal(answer.ledger().to_numpy(), by_hand.ledger().to_numpy())


# --- asked


@pytest.fixture(scope="module")
def answer(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lab.ask([film(tmp_path_factory.mktemp("film") / "film.mp4"), "What is in image 3?"])


def film(path: Path) -> Path:
    """Eight pictures of the demonstration, a second and a half each, the frames of each one after the other."""
    names = ("g.png", "m.png", "a.png", "n.png", "cat_and_dog.png", "pizza.png", "three_things.png", "dog_alone.png")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for name in names:
            with Image.open(demo_images() / name) as image:
                small = image.convert("RGB").resize((192, 144))
            for _ in range(15):
                container.mux(stream.encode(av.VideoFrame.from_image(small)))
        container.mux(stream.encode())
    return path


def test_the_model_answers_about_a_frame(answer: Any) -> None:
    assert len(answer.images) == 8
    assert "Apple" in answer.text
    assert list(answer.ledger().columns[:8]) == [f"image_{k}" for k in range(1, 9)]
    assert "picture 3: frame 35 of 120 of film.mp4, at 3.40 s" in answer.notes


def test_times_stay_with_an_answer(answer: Any, lab: Any, tmp_path: Path) -> None:
    times = [0.0, 1.7, 3.4, 5.1, 6.8, 8.5, 10.2, 11.9]
    assert [frame.seconds for frame in answer.record.frames] == pytest.approx(times)
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.record.frames == answer.record.frames
    assert [picture.frame for picture in opened.record.prompt.pictures] == list(answer.record.frames)
    chat = lab.chat()
    chat.ask([Video(folder_of(tmp_path / "frames", 3)), "What is in image 1?"])
    later = chat.ask([demo_images() / "g.png", "What is in image 4?"])
    assert [frame and frame.number for frame in later.record.frames] == [0, 1, 2, None]


def test_a_file_from_before_there_were_videos_is_read_and_a_wrong_one_is_not(answer: Any) -> None:
    header, tensors = record_bytes.packed(answer.record)
    header |= {"unchecked": False}
    old = {name: value for name, value in header.items() if name != "frames"}
    assert Record.restored(old, dict(tensors)).frames == (None,) * 8
    for wrong in ([None], [{"video": "a", "number": 0, "count": 1, "seconds": float("nan")}] * 8, [{"video": 3}] * 8):
        data = wire.to_bytes(record_bytes.KEY, {**header, "frames": wrong}, dict(tensors))
        with pytest.raises(FileError, match="is damaged"):
            Record.from_bytes(data)


# --- the figure


def line(ax: Any, name: str) -> np.ndarray:
    (found,) = (each for each in ax.get_lines() if each.get_label() == name)
    points = np.array(found.get_xydata())
    return points[~np.isnan(points).any(1)]


def test_the_ledger_is_drawn_over_time(answer: Any) -> None:
    ax = answer.plot("frames")
    assert ax.get_xlabel() == "seconds"
    points = line(ax, "the whole answer")
    np.testing.assert_allclose(points[:, 0], [frame.seconds for frame in answer.record.frames])
    said = [k for k, token in enumerate(answer.tokens) if not token.stop]
    ledger = answer.ledger().iloc[said, :8].to_numpy()
    np.testing.assert_allclose(points[:, 1], ledger.mean(0))
    for k, token in enumerate(said):
        np.testing.assert_allclose(line(ax, repr(answer.tokens[token].text.strip()))[:, 1], ledger[k])
    assert points[:, 1].argmax() == 2  # it is about image 3
    one = answer.plot("frames", token=0)
    np.testing.assert_allclose(line(one, repr(answer.tokens[0].text.strip()))[:, 1], ledger[0])
    assert "attention" in ax.get_title(loc="left")
    assert ax._repr_png_().startswith(b"\x89PNG")


def test_a_cause_is_drawn_over_time_too(answer: Any) -> None:
    points = line(answer.plot("frames", method="leave_one_out"), "the whole answer")
    np.testing.assert_allclose(points[:, 1], answer.attribute("leave_one_out").total().to_numpy()[:8], atol=1e-6)


def test_frames_without_times_and_pictures_without_frames_are_numbered(lab: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "frames", 9)
    asked = lab.ask([Video(folder, 3), demo_images() / "g.png", "What is in image 4?"], max_new_tokens=2)
    ax = asked.plot("frames")
    assert ax.get_xlabel() == "frame"
    assert line(ax, "the whole answer" if len(asked.record.said()) > 1 else repr(asked.text.strip()))[
        :, 0
    ].tolist() == [1, 5, 9]
    pictures = lab.ask([demo_images() / "g.png", demo_images() / "m.png", "What is in image 2?"]).plot("frames")
    assert pictures.get_xlabel() == "picture"


def test_videos_stand_side_by_side() -> None:
    one, other = (Frame(name, 0, 9, 0.0) for name in ("a.mp4", "b.mp4"))
    later = dataclasses.replace(one, number=4, seconds=1.0)
    assert clips_of([one, later, None, other, one, later, one]) == [[0, 1], [3], [4, 5], [6]]
    ax = frame_shares({"all": [0.1, 0.2, 0.3]}, [[0, 1], [0]], whole="all", names=["a.mp4", "b.mp4"])
    x = line(ax, "all")[:, 0]
    assert x[0] < x[1] < x[2]
    assert {text.get_text() for text in ax.texts} == {"a.mp4", "b.mp4"}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "0"]


@pytest.mark.parametrize(
    ("shares", "times", "words"),
    [
        ([0.1], [[0, 1]], "shares"),
        ([0.1, 0.2], [[1, 0]], "must not go back"),
        ([], [], "times"),
        ([0.1], [[np.nan]], "must not"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(shares: Any, times: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        frame_shares({"all": shares}, times)


# --- the command line


def test_infer_reads_frames(capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    drawn(200).save(tmp_path / "a.png")
    folder = folder_of(tmp_path / "frames", 6)
    media = ["--media", str(clip), str(tmp_path / "a.png"), str(folder)]
    assert (
        main(["infer", "--text", QUESTION, *media, "--num-video-frames", "3", "--max-new-tokens", "2", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["ledger"]["columns"][:8] == [*(f"image_{k}" for k in range(1, 8)), "prompt"]
    assert [(each["picture"], each["video"], each["number"]) for each in found["frames"]] == [
        (1, "clip.mp4", 0), (2, "clip.mp4", 48), (3, "clip.mp4", 95), (5, "frames", 0), (6, "frames", 2), (7, "frames", 5),
    ]  # fmt: skip
    assert "picture 2: frame 49 of 96 of clip.mp4, at 1.92 s" in found["notes"]


def test_eight_frames_are_read_where_nobody_says(capsys: pytest.CaptureFixture[str], clip: Path) -> None:
    assert main(["infer", "--text", QUESTION, "--media", str(clip), "--max-new-tokens", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["frames"]) == 8


@pytest.mark.parametrize(
    ("content", "count", "words"),
    [
        (b"", "8", "video 1 of 1: .*is empty"),
        (b"no video", "8", "video 1 of 1: .*no video that can be read"),
        (b"", "0", "--num-video-frames must be at least 1"),
        (b"", "1000000", "--num-video-frames must be .*at most 1024"),
    ],
)
def test_an_error_is_one_line(
    content: bytes, count: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert main(["infer", "--text", QUESTION, "--media", str(path), "--num-video-frames", count]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.search(words, err)
