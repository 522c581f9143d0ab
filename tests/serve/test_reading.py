"""Messages from strangers: whatever form they have, no file of this machine is read, nobody is dialled, and every size is bounded first."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import pytest
from PIL import Image

import vila_lab
from vila_lab.errors import PictureError, PromptError, VilaLabError
from vila_lab.inputs import sources
from vila_lab.prompt import Prompt
from vila_lab.serve.reading import Bounds, prompt_of

BOUNDS = Bounds(4096)


def png(width: int = 4, height: int = 3, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def url_of(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


GOOD = url_of(png())


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]


def shown(**more: Any) -> dict[str, Any]:
    return {"type": "image_url", **more}


def test_pictures_keep_their_places_over_all_messages():
    colours = ["red", "green", "blue"]
    urls = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
        urls.append(url_of(buffer.getvalue()))
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        *user(shown(image_url={"url": urls[0]}), {"type": "text", "text": "and"}, shown(image_url=urls[1])),
        {"role": "assistant", "content": "Red."},
        *user(shown(image_url={"url": urls[2]})),
    ]
    prompt = prompt_of(messages, BOUNDS)
    assert [image.getpixel((0, 0)) for image in prompt.images] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert [turn.role for turn in prompt.history] == ["system", "user", "assistant"]
    assert prompt.history[1].parts[1] == "and"


@pytest.mark.parametrize("address", ["{file}", "file://{file}", "http://127.0.0.1:9/x", "data:foo", "data:"])
def test_no_word_of_a_client_names_a_file_or_an_address(address, tmp_path, monkeypatch):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7, 7))
    named = address.format(file=secret)

    def never(*given: Any) -> Any:
        raise AssertionError(f"opened {given}")

    monkeypatch.setattr(sources, "fetch", never)
    monkeypatch.setattr("vila_lab.picture.open_file", never)
    monkeypatch.setattr("vila_lab.picture.fetch", never)
    forms: list[list[Any]] = [
        user(shown(image_url={"url": named})),
        user(shown(image_url=named)),
        user(shown(image=named)),
        user({"type": "image", "image": named}),
        user({"image": named}),
        user(named, shown(path=named, image_url={"url": "data:foo"})),
        [{"role": "user", "content": {"type": "image", "image": named}}],
        [{"type": "image", "image": named}],
        [{"role": "user", "content": [[{"type": "image", "image": named}]]}],
        [{"role": "user", "content": named, "image": named}],
    ]
    for messages in forms[:-1]:
        with pytest.raises(VilaLabError) as caught:
            prompt_of(messages, BOUNDS)
        assert str(tmp_path) not in str(caught.value)
    assert prompt_of(forms[-1], BOUNDS).parts == (named,)  # a text is a text, whatever it looks like
    # Beside a good one nothing else is looked at.
    for more in ({"image": named}, {"image_url": {"url": GOOD, "image": named, "path": named}}):
        prompt = prompt_of(user({**shown(image_url={"url": GOOD}), **more}), BOUNDS)
        assert prompt.images[0].size == (4, 3)


def test_sizes_are_bounded_before_they_cost_anything(monkeypatch):
    before = time.process_time()
    large = url_of(png(13_000, 13_000, "1"))
    made = time.process_time()
    with pytest.raises(PictureError, match="picture 1 of 1: it has 169,000,000 pixels"):
        prompt_of(user(shown(image_url=large)), BOUNDS)
    assert time.process_time() - made < max(0.5, made - before)
    middle = shown(image_url=url_of(png(7000, 7000, "1")))
    for place in ("vila_lab.inputs.decoding", "vila_lab.picture"):
        monkeypatch.setattr(f"{place}.to_rgb", lambda *given: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="picture 5 of 5: with it the pictures have more than 200,000,000"):
        prompt_of(user(*[middle] * 5), BOUNDS)
    with pytest.raises(PictureError, match="there are 800 pictures, and a request may have 256"):
        prompt_of(user(*[shown(image_url=GOOD)] * 800), BOUNDS)
    for messages in (
        [{"role": "user", "content": "hi"}] * 100_000,
        user(*[{"type": "text", "text": "a"}] * 5000),
        [{"role": "user", "content": "a" * 10_000_000}],
    ):
        with pytest.raises(PromptError, match="and the model holds 4096 positions"):
            prompt_of(messages, BOUNDS)


def test_what_is_read_is_what_a_session_reads():
    data = png(9, 5)
    assert prompt_of(user(shown(image_url=url_of(data))), BOUNDS) == Prompt.of([data, vila_lab.Text("What is this?")])
