"""apply_chat_template as transformers has it: what it writes, which spellings it takes, and what it refuses."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vila_lab.errors import OptionError, PictureNotFound, PromptError

QUESTION = "What is it?"
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% for part in message['content'] %}{{ image_token if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ mood }}!{% endgeneration %}{% endif %}{% endfor %}"
)


@pytest.fixture
def processor(load: Any) -> Any:
    return load("nvila-resize")[1]


@pytest.fixture
def picture(open_picture: Any) -> Image.Image:
    return open_picture("a_land.png").convert("RGB")


def asked(part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]


def inputs(processor: Any, messages: Any, **options: Any) -> Any:
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, **options
    )


def test_the_answers_turn_is_begun_only_when_asked_for(processor: Any) -> None:
    messages = asked({"type": "image"})
    plain = processor.apply_chat_template(messages)
    begun = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert plain.endswith(f"<image>{QUESTION}<|im_end|>\n")
    assert begun == plain + "<|im_start|>assistant\n"


@pytest.mark.parametrize("mode", ["auto", "vicuna_v1", "llama_3", "hermes-2", "plain"])
def test_a_final_message_is_continued(processor: Any, mode: str) -> None:
    messages = [*asked({"type": "image"}), {"role": "assistant", "content": "It is a"}]
    text = processor.apply_chat_template(messages, continue_final_message=True, conv_mode=mode)
    assert text.endswith("It is a")
    assert processor.apply_chat_template(messages, conv_mode=mode).startswith(text)


@pytest.mark.parametrize(
    "options",
    [{"add_generation_prompt": True}, {"return_assistant_tokens_mask": True}],
    ids=lambda option: next(iter(option)),
)
def test_continuing_excludes_what_contradicts_it(processor: Any, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="continue_final_message"):
        processor.apply_chat_template(asked({"type": "image"}), continue_final_message=True, **options)


def test_conversations_make_a_batch(processor: Any, picture: Image.Image) -> None:
    several = [asked({"type": "image", "image": picture}), [{"role": "user", "content": "Hi"}]]
    texts = processor.apply_chat_template(several, add_generation_prompt=True)
    assert texts == [processor.apply_chat_template(each, add_generation_prompt=True) for each in several]
    batch = inputs(processor, several)
    assert len(batch["input_ids"]) == 2
    for number, each in enumerate(several):
        kept = batch["attention_mask"][number].bool()
        assert torch.equal(batch["input_ids"][number][kept], inputs(processor, each)["input_ids"][0])
    assert len(batch["pixel_values"]) == 1


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@dataclass
class Block:
    """A part of a message of another package."""

    image_url: dict[str, str]
    type: str = "image_url"


SPELLINGS = {
    "image": lambda picture, path: {"type": "image", "image": picture},
    "image_pil": lambda picture, path: {"type": "image", "image_pil": picture},
    "array": lambda picture, path: {"type": "image", "image": np.asarray(picture)},
    "array_chw": lambda picture, path: {"type": "image", "image": np.asarray(picture).transpose(2, 0, 1)},
    "tensor": lambda picture, path: {"type": "image", "image": torch.tensor(np.asarray(picture)).permute(2, 0, 1)},
    "image_path": lambda picture, path: {"type": "image", "image": str(path)},
    "path": lambda picture, path: {"type": "image", "path": path},
    "url": lambda picture, path: {"type": "image", "url": str(path)},
    "file_url": lambda picture, path: {"type": "image", "url": path.as_uri()},
    "base64": lambda picture, path: {"type": "image", "base64": base64.b64encode(encoded(picture)).decode()},
    "bytes": lambda picture, path: {"type": "image", "image": encoded(picture)},
    "data_url": lambda picture, path: {
        "type": "image", "url": "data:image/png;base64," + base64.b64encode(encoded(picture)).decode()
    },
    "openai": lambda picture, path: {"type": "image_url", "image_url": {"url": path.as_uri()}},
    "openai_flat": lambda picture, path: {"type": "image_url", "image_url": str(path)},
    "openai_responses": lambda picture, path: {"type": "input_image", "image_url": str(path)},
    "object": lambda picture, path: Block({"url": str(path)}),
    "bare": lambda picture, path: picture,
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_picture_is_the_same_however_it_is_spelled(
    processor: Any, picture: Image.Image, tmp_path: Any, spelling: str
) -> None:
    path = tmp_path / "a picture.png"
    picture.save(path)
    batch = inputs(processor, asked(SPELLINGS[spelling](picture, path)))
    whole = processor([picture, QUESTION])
    for name in whole:
        assert torch.equal(batch[name], whole[name]), name
    if spelling != "bare":
        direct = processor(asked(SPELLINGS[spelling](picture, path)))
        assert torch.equal(direct["pixel_values"], whole["pixel_values"])


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        ({"type": "video", "url": "a.mp4"}, PromptError, "'video'"),
        ({"type": "audio", "path": "a.wav"}, PromptError, "'audio'"),
        ({"type": "text"}, PromptError, "'text'"),
        ({"type": "image", "path": "gone.png"}, PictureNotFound, "gone"),
        ({"type": "image"}, PromptError, "holds no picture"),
        ({"type": "image", "base64": "%%%"}, Exception, "base64"),
    ],
)
def test_parts_that_cannot_be_used(processor: Any, part: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        inputs(processor, asked(part))


@pytest.mark.parametrize(
    "conversation", [[], "text", [{"content": "no role"}], [3], [{"role": "tool", "content": "x"}]]
)
def test_conversations_that_cannot_be_used(load: Any, conversation: Any) -> None:
    _, processor = load("VILA1.5-3b-tiny")
    with pytest.raises(PromptError):
        processor.apply_chat_template(conversation)


def test_a_template_of_ones_own_with_its_variables(processor: Any, picture: Image.Image) -> None:
    messages = [*asked({"type": "image", "image": picture}), {"role": "assistant", "content": "Yes"}]
    text = processor.apply_chat_template(messages, chat_template=TEMPLATE, mood="fine")
    assert text == f"[user]<image>{QUESTION}[assistant]Yesfine!"
    with pytest.raises(OptionError, match="'moode'"):
        processor.apply_chat_template(messages, chat_template=TEMPLATE, moode="fine")
    with pytest.raises(OptionError, match="'tools'"):
        processor.apply_chat_template(messages, tools=[{"type": "function"}])


def test_what_is_generated_is_marked(load: Any, picture: Image.Image) -> None:
    """Behind pictures that grow to many tokens, and in a batch padded on either side."""
    _, processor = load("nvila-lite")
    answered = [*asked({"type": "image", "image": picture}), {"role": "assistant", "content": "Yes"}]
    for side in ("left", "right"):
        batch = processor.apply_chat_template(
            [answered, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]],
            chat_template=TEMPLATE, mood="fine", tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            padding_side=side,
        )  # fmt: skip
        for ids, mask in zip(batch["input_ids"], batch["assistant_masks"].bool(), strict=True):
            assert processor.tokenizer.decode(ids[mask]).replace(" ", "") == "fine!"


def test_named_templates_and_a_new_default(load: Any, goldens: Any) -> None:
    from vila_lab.nvila.processing_nvila import NVILAProcessor

    processor = NVILAProcessor.from_pretrained(goldens / "checkpoints" / "nvila-resize")
    processor.chat_template = {
        "default": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "loud": "{% for m in messages %}!{{ m['content'] }}{% endfor %}",
    }
    messages = [{"role": "user", "content": "Hi"}]
    assert processor.apply_chat_template(messages) == "Hi"
    assert processor.apply_chat_template(messages, chat_template="loud") == "!Hi"
    assert processor.prepare(["Hi"])[1].text == "Hi"


def test_a_template_that_leaves_words_out_is_refused(processor: Any) -> None:
    with pytest.raises(PromptError, match="leaves out part"):
        processor.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template="nothing")
    with pytest.raises(PromptError, match="rejects this conversation: no"):
        processor.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template="{{ raise_exception('no') }}")


def test_typed_control_tokens_are_characters(processor: Any, picture: Image.Image) -> None:
    typed = "What does <|im_end|> mean?"
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": typed}]}]
    batch = inputs(processor, messages)
    assert torch.equal(batch["input_ids"], processor([picture, typed])["input_ids"])
    alone = inputs(processor, [{"role": "user", "content": "<|im_end|>"}])
    assert torch.equal(alone["input_ids"], processor(["<|im_end|>"])["input_ids"])


@pytest.mark.parametrize(
    ("kind", "expected"), [("pt", torch.Tensor), ("np", np.ndarray), (None, list), ("auto", torch.Tensor)]
)
def test_kinds_of_results(processor: Any, picture: Image.Image, kind: str | None, expected: type) -> None:
    messages = asked({"type": "image", "image": picture})
    batch = inputs(processor, messages, return_tensors=kind)
    assert {type(value) for value in batch.values()} == {expected}
    ids = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_tensors=kind)
    assert np.array_equal(np.asarray(ids), np.asarray(batch["input_ids"]))


def test_call_options_go_to_the_call(processor: Any, picture: Image.Image) -> None:
    messages = asked({"type": "image", "image": picture})
    flat = inputs(processor, messages, padding="max_length", max_length=200)
    grouped = inputs(
        processor, messages, processor_kwargs={"text_kwargs": {"padding": "max_length", "max_length": 200}}
    )
    assert flat["input_ids"].shape == grouped["input_ids"].shape == (1, 200)
