"""A prompt keeps the order of its parts, tells names of pictures from text, and refuses the rest in one sentence."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vila_lab.errors import PictureError, PictureNotFound, PromptError, VilaLabError
from vila_lab.inputs.naming import LONGEST_NAME, SUFFIXES, Text, names_picture
from vila_lab.picture import Picture
from vila_lab.prompt import Prompt
from vila_lab.video import is_video_name

QUESTION = "What changed?"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures a.png (red), b.png (blue) and things that are none."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (6, 4), RED).save("a.png")
    Image.new("RGB", (5, 7), BLUE).save("b.png")
    Path("empty.png").touch()
    Path("folder.png").mkdir()
    Path("README").write_text("What changed?")
    return tmp_path


def kinds(prompt: Prompt) -> list[str]:
    """Each part as its text, or as the name of the file that it came from."""
    return [part if isinstance(part, str) else f"<{Path(part.source).name}>" for part in prompt.parts]


def place(name: str) -> str:
    """Where a message says that the second of two files is; pictures and videos are counted apart."""
    return "video 1 of 1" if is_video_name(f"no{name}") else "picture 2 of 2"


# --- order and kinds


def test_parts_keep_their_order() -> None:
    prompt = Prompt.of(["First:", "a.png", " Second:", Path("b.png"), QUESTION])
    assert kinds(prompt) == ["First:", "<a.png>", " Second:", "<b.png>", QUESTION]
    assert prompt.text == f"First: Second:{QUESTION}"
    assert [image.size for image in prompt.images] == [(6, 4), (5, 7)]
    assert [picture.source for picture in prompt.pictures] == ["a.png", "b.png"]


def test_images_come_before_the_text() -> None:
    assert Prompt.of(QUESTION, images=["a.png", "b.png"]) == Prompt.of(["a.png", "b.png", QUESTION])
    assert kinds(Prompt.of(["One ", "two"], images=("b.png", "a.png"))) == ["<b.png>", "<a.png>", "One ", "two"]


@pytest.mark.parametrize(
    "one",
    ["a.png", Path("a.png"), Image.new("RGB", (6, 4), RED), np.full((4, 6, 3), RED, dtype=np.uint8)],
    ids=["str", "path", "PIL", "array"],
)
def test_one_picture_in_every_form_and_place(one: Any) -> None:
    for prompt in (Prompt.of([one, QUESTION]), Prompt.of(QUESTION, images=one), Prompt.of(QUESTION, images=[one])):
        assert prompt.images == [Image.new("RGB", (6, 4), RED)]
        assert prompt.text == QUESTION
    assert Prompt.of(one).images == [Image.new("RGB", (6, 4), RED)]


def test_a_data_address_is_a_picture_however_long() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert len(address) > LONGEST_NAME
    assert [image.size for image in Prompt.of([address, QUESTION]).images] == [(64, 64)]


def test_text_alone_is_a_prompt() -> None:
    assert Prompt.of(QUESTION) == Prompt((QUESTION,)) == Prompt.of(QUESTION, images=[])


def test_a_prompt_and_its_pictures_can_be_used_again() -> None:
    prompt = Prompt.of(["a.png", QUESTION])
    assert Prompt.of(prompt) is prompt
    assert Prompt.of([prompt.pictures[0], "And now?"]).pictures == prompt.pictures
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.parts = ()  # type: ignore[misc]


def test_exif_is_applied_on_request() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save("turned.jpg", exif=exif)
    assert Prompt.of(["turned.jpg", QUESTION]).images[0].size == (6, 4)
    assert Prompt.of(["turned.jpg", QUESTION], apply_exif=True).images[0].size == (4, 6)


def test_the_shown_form_is_short_and_stable() -> None:
    assert repr(Prompt.of(["a.png", QUESTION])) == "Prompt(parts=(Picture(a.png, 6x4), 'What changed?'))"


# --- text or picture


@pytest.mark.parametrize(
    "text",
    [
        "What is in a.png",
        "a.png?",
        "Compare a.png and no.png",
        "图像1是谷歌,以其搜索引擎闻名。",
        "Is .png better than .jpg",
        ".png",
        "one line\nno.png",
        "one line\na.png",
        "https://example.org/a.png shows what?",
        "data:image/png is a prefix",
        "What <image> is this <vila/video>?",
        "x" * 300,
        "x" * (LONGEST_NAME + 1) + ".png",
        "~nobody-of-this-name",
        "  padded  ",
    ],
)
def test_other_strings_are_text_and_stay_as_typed(text: str) -> None:
    assert Prompt.of([text, "a.png"]).parts[0] == text


@settings(deadline=None, max_examples=50)  # no deadline: a busy machine is no failure
@given(st.text(max_size=60).filter(lambda text: not names_picture(text) and "\0" not in text))
def test_what_names_nothing_is_text_and_never_changes(text: str) -> None:
    picture = Picture.of(np.zeros((1, 1), dtype=np.uint8))
    assert Prompt.of([picture, text]).parts == (picture, text)


@pytest.mark.parametrize("name", ["README", "folder.png", "pictures", ".", " README", "README\n"])
def test_what_names_a_file_or_folder_that_is_there_is_never_text(name: str) -> None:
    Path("pictures").mkdir()
    with pytest.raises(PictureError, match=r"^picture 2 of 2: .*write vila_lab\.Text\("):
        Prompt.of(["a.png", name, QUESTION])
    assert kinds(Prompt.of(["a.png", Text(name), QUESTION]))[1] == name


LOOKS = [
    "first shoot.png",
    "my holiday 2024 (1).HEIC",
    "scan of the contract.pdf",
    "IMG_0002.heic",
    "no.JFIF",
    "no.jp2",
    "no.svg",
    "no.psd",
    "DSC0001.NEF",
    "movie.mp4",
    "slides.pptx",
    "no.png\n",
    "no.png\r\n",
    "  no.png  ",
    "'no.png'",
    "./no",
    "../no such picture",
    "~/no",
    ".\\no",
    "C:\\Users\\me\\cat.png",
    "C:/Users/me/cat",
    "\\\\server\\share\\cat.png",
    "/no/such/place",
    "file:///no/such.png",
    "file:///no/such",
    "file://localhost/no/such%20file",
    "猫的照片.jpeg",
]


@pytest.mark.parametrize("name", LOOKS)
def test_what_looks_like_a_name_is_never_text(name: str) -> None:
    with pytest.raises(PictureNotFound, match=rf"^{place(name)}: there is no file .*write vila_lab\.Text\(") as caught:
        Prompt.of(["a.png", name, QUESTION])
    assert "\n" not in str(caught.value)
    assert kinds(Prompt.of(["a.png", Text(name), QUESTION]))[1] == name


@pytest.mark.parametrize("name", ["a.png\n", " a.png ", "./a.png", "../here/a.png"])
def test_a_name_with_something_around_it_is_read(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "here").mkdir()
    (folder / "here" / "b.png").write_bytes(Path("b.png").read_bytes())
    (folder / "here" / "a.png").write_bytes(Path("a.png").read_bytes())
    monkeypatch.chdir(folder / "here")
    assert Prompt.of([name, QUESTION]).images[0].size == (6, 4)


def test_a_file_address_may_be_encoded(folder: Path) -> None:
    (folder / "my cat.png").write_bytes(Path("a.png").read_bytes())
    for address in (f"file://{folder}/my%20cat.png", f"FILE://localhost{folder}/my%20cat.png"):
        assert Prompt.of([address, QUESTION]).images[0].size == (6, 4)
    with pytest.raises(PictureError, match="another machine"):
        Prompt.of(["file://elsewhere/a.png", QUESTION])


@pytest.mark.parametrize("suffix", sorted(SUFFIXES | {suffix.upper() for suffix in SUFFIXES}))
def test_a_picture_file_that_is_not_there_is_never_text(suffix: str) -> None:
    with pytest.raises(PictureNotFound, match=f"{place(suffix)}: there is no file 'no{suffix}'"):
        Prompt.of(["a.png", f"no{suffix}", QUESTION])


@pytest.mark.parametrize("name", [" no.png", "no.png ", "/no/my pictures/a.png", "./my a.png", "~/my a.png"])
def test_a_missing_path_with_a_space_is_not_text_where_it_can_only_be_a_path(name: str) -> None:
    with pytest.raises(PictureNotFound, match="picture 1 of 1"):
        Prompt.of([name, QUESTION])


@pytest.mark.parametrize("name", ["my cat.png", "what.png", "CAT.PNG", "猫.png", "cat"])
def test_a_string_that_names_an_image_file_is_a_picture(name: str) -> None:
    Image.new("RGB", (2, 3)).save(name, "PNG")
    assert kinds(Prompt.of([name, QUESTION])) == [f"<{name}>", QUESTION]


def test_in_images_every_string_is_a_picture() -> None:
    with pytest.raises(PictureNotFound, match="picture 2 of 2: there is no file 'What is this'"):
        Prompt.of(QUESTION, images=["a.png", "What is this"])


# --- what is refused


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        (["a.png", "b.png", "empty.png", "b.png", QUESTION], PictureError, r"^picture 3 of 4: empty\.png is empty"),
        (["folder.png"], PictureError, r"^picture 1 of 1: .* is a directory"),
        ([QUESTION, Path("README")], PictureError, r"^picture 1 of 1: README is not an image"),
        (["a.png", np.full((2, 2), 300), QUESTION], PictureError, r"^picture 2 of 2: an array \(2, 2\) of int64"),
        (["a.png", 3, QUESTION], PromptError, r"^part 2 of 3: an int is neither text nor a picture"),
        ([None], PromptError, r"^part 1 of 1: None is neither"),
        ([["a.png"], QUESTION], PromptError, r"^part 1 of 2: a list is neither"),
        ({"text": QUESTION}, PromptError, r"^part 1 of 1: a dict is neither"),
        (None, PromptError, r"^part 1 of 1: None is neither"),
        ([], PromptError, "nothing to ask"),
        ("", PromptError, "nothing to ask"),
        ("  \n\t", PromptError, "nothing to ask"),
        (["", " "], PromptError, "nothing to ask"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(parts: Any, kind: type[VilaLabError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        Prompt.of(parts)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError if kind is PictureNotFound else ValueError)


@pytest.mark.parametrize(
    ("images", "kind", "words"),
    [
        ({"a": "a.png"}, PromptError, "^picture 1 of 1: a dict is no picture"),
        (["a.png", None], PromptError, "^picture 2 of 2: None is no picture"),
        (["a.png", ["b.png"]], PromptError, "^picture 2 of 2: a list is no picture"),
        (3, PromptError, "^picture 1 of 1: an int is no picture"),
        ("no.png", PictureNotFound, "^picture 1 of 1: there is no file"),
    ],
    ids=str,
)
def test_images_that_are_none_are_refused(images: Any, kind: type[VilaLabError], words: str) -> None:
    with pytest.raises(kind, match=words):
        Prompt.of(QUESTION, images=images)


def test_pictures_in_two_places_are_refused() -> None:
    with pytest.raises(PromptError, match="choose one of the two"):
        Prompt.of(["a.png", QUESTION], images=["b.png"])
    with pytest.raises(PromptError, match="cannot be added to a Prompt"):
        Prompt.of(Prompt.of(QUESTION), images=["b.png"])


@pytest.mark.parametrize(
    ("text", "words"), [("a\0b", "null character at place 1"), ("a\ud800", "half a character.*place 1")]
)
def test_a_text_that_no_tokenizer_takes_is_refused(text: str, words: str) -> None:
    with pytest.raises(PromptError, match=f"part 2 of 2 .*{words}"):
        Prompt.of(["a.png", text])
    with pytest.raises(PromptError, match=words):
        Prompt.of([Text(text)])


# --- messages


def encoded() -> str:
    return base64.b64encode(Path("a.png").read_bytes()).decode()


PARTS = [
    {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
    {"type": "image_url", "image_url": "a.png"},
    {"type": "input_image", "image_url": "a.png"},
    {"type": "image", "image": "a.png"},
    {"type": "image", "path": "a.png"},
    {"type": "image", "url": "a.png"},
    {"type": "image", "image": Image.new("RGB", (6, 4), RED)},
    {"type": "image", "image": np.full((4, 6, 3), RED, dtype=np.uint8)},
    {"image": "a.png"},
]


@pytest.mark.parametrize("part", PARTS, ids=[str(k) for k in range(len(PARTS))])
def test_messages_in_every_spelling(part: dict[str, Any]) -> None:
    text = {"type": "input_text" if part.get("type") == "input_image" else "text", "text": "b.png"}  # text all the same
    for messages in (
        [{"role": "user", "content": [part, text]}],
        {"role": "user", "content": [part, text]},
        [part, text],
        *([[part, Text("b.png")]] if "type" in part else []),
    ):
        prompt = Prompt.of(messages)
        assert prompt.images == [Image.new("RGB", (6, 4), RED)]
        assert prompt.text == "b.png"


def test_messages_with_the_picture_itself() -> None:
    plain = encoded()
    for part in (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{plain}"}},
        {"type": "image", "base64": plain},
        {"type": "image", "data": plain},
        {"type": "image", "base64": f"data:image/png;base64,{plain}"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": plain}},
        {"type": "image", "source": {"type": "url", "url": "a.png"}},
    ):
        assert Prompt.of([{"role": "user", "content": [part]}]).images[0].size == (6, 4)


def test_the_last_message_is_asked_and_the_others_were_said_before() -> None:
    prompt = Prompt.of(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": ["First:", {"type": "image", "url": "a.png"}]},
            {"role": "assistant", "content": "An A."},
            {"role": "user", "content": [{"type": "image", "url": "b.png"}, "And this?"]},
        ]
    )
    assert [turn.role for turn in prompt.history] == ["system", "user", "assistant"]
    assert prompt.history[2].parts == ("An A.",)
    assert kinds(prompt) == ["<b.png>", "And this?"]
    assert [picture.source for picture in prompt.pictures] == ["a.png", "b.png"]
    assert prompt.text == "And this?"
    turned = prompt.with_pictures(lambda number, picture: prompt.pictures[1 - number])
    assert [picture.source for picture in turned.pictures] == ["b.png", "a.png"]
    assert "3 messages before" in repr(prompt)


def test_pictures_are_counted_through_the_messages() -> None:
    shown = {"role": "user", "content": [{"type": "image", "url": "a.png"}, "x"]}
    lost = {"role": "user", "content": [{"type": "image", "url": "lost.png"}, "x"]}
    with pytest.raises(PictureNotFound, match=r"picture 2 of 2: there is no file"):
        Prompt.of([shown, {"role": "assistant", "content": "y"}, lost])


def test_a_message_of_text_alone() -> None:
    assert Prompt.of([{"role": "user", "content": QUESTION}]).parts == (QUESTION,)


def test_pictures_may_stand_beside_a_message_of_text() -> None:
    assert kinds(Prompt.of([{"role": "user", "content": QUESTION}], images="a.png")) == ["<a.png>", QUESTION]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [{"role": "user", "content": "x"}, {"role": "system", "content": "Be brief."}],
            "message 2 of 2.* only come first",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "the last message is the assistant's",
        ),
        ([{"role": "assistant", "content": "x"}], "the last message is the assistant's"),
        ([{"role": "tool", "content": "x"}], "the role 'tool'; known are system, user, assistant"),
        (
            [{"role": "system", "content": [{"type": "image", "url": "a.png"}]}, {"role": "user", "content": "x"}],
            "message 1 of 2 is the system's and holds a picture",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant"}, {"role": "user", "content": "y"}],
            "message 2 of 3 has no content",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": " "}],
            "nothing to ask",
        ),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": 3}], "no content"),
        ([{"role": "user", "content": [{"type": "sound", "url": "a.mp3"}]}], "part 1 of 1 .*'sound'; known"),
        ([{"role": "user", "content": [{"type": "video"}]}], "holds no video"),
        ([{"role": "user", "content": [{"type": "image"}]}], "holds no picture"),
        ([{"role": "user", "content": [{"type": "text"}]}], "no text"),
        ([{"role": "user", "content": [3]}], "neither a text nor"),
        (["x", {"role": "user", "content": "x"}], "part 2 of 2: a message with a role"),
        ([{"role": "user", "content": "a\0b"}], "null character"),
    ],
    ids=str,
)
def test_messages_that_cannot_be_asked_are_refused(messages: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words) as caught:
        Prompt.of(messages)
    assert "\n" not in str(caught.value)
