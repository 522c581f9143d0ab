"""Templates render as the reference does, and a checkpoint's own template is found without knowing its name."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from vila_lab.errors import OptionError, PromptError
from vila_lab.nvila.conversation import (
    CHAT_TEMPLATES,
    TEMPLATES,
    Turn,
    mode_of_checkpoint,
    render,
    stop_token_ids,
    turn_starts,
)
from vila_lab.nvila.prompting import LiteralMediaTokenWarning, assemble, pictures_of, without_media_tokens


class Vocabulary:
    """A tokenizer as far as the choice of a template looks at it."""

    def __init__(self, *tokens: str, chat_template: str | None = None) -> None:
        self.tokens = {token: number for number, token in enumerate(tokens)}
        self.chat_template = chat_template
        self.eos_token_id = 0 if tokens else None

    def get_added_vocab(self) -> dict[str, int]:
        return self.tokens

    get_vocab = get_added_vocab


LLAMA_3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
CHATML = ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("tokenizer", "decoder", "written_by", "name", "expected"),
    [
        (Vocabulary(*CHATML, chat_template="x"), "qwen2", "4.46.0", "NVILA-15B", "auto"),
        (Vocabulary("</s>", chat_template="x"), "llama", None, "vila1.5-3b", "auto"),
        (Vocabulary("<s>", "</s>"), "llama", "4.36.2", "VILA1.5-3b", "vicuna_v1"),
        (Vocabulary("<s>", "</s>"), "llama", "4.36.2", "renamed", "vicuna_v1"),
        (Vocabulary(*LLAMA_3), "llama", "4.36.2", "renamed", "llama_3"),
        (Vocabulary(*LLAMA_3, chat_template="x"), "llama", "4.36.2", "renamed", "llama_3"),
        (Vocabulary(*LLAMA_3, chat_template="x"), "llama", "4.46.0", "renamed", "auto"),
        (Vocabulary(*CHATML), "llama", "4.36.2", "renamed", "hermes-2"),
        (Vocabulary(*CHATML), "qwen2", "4.46.0", "renamed", "auto"),
        (Vocabulary("<s>"), "mistral", "4.40.0", "renamed", "auto"),
        (Vocabulary("<s>"), "llama", None, "Llama-3-VILA1.5-8B", "llama_3"),
        (Vocabulary("<s>"), "llama", None, "VILA1.5-40b", "hermes-2"),
    ],
)
def test_template_of_a_checkpoint(
    tokenizer: Any, decoder: str, written_by: str | None, name: str, expected: str
) -> None:
    assert mode_of_checkpoint(tokenizer, decoder=decoder, written_by=written_by, name=name) == expected


LLAMA_3_PROMPT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. You are able to "
    "understand the visual content that the user provides, and assist the user with a variety of tasks using natural language.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>Why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("llama_3", LLAMA_3_PROMPT),
        ("plain", "<image>Why?\n"),
        (
            "hermes-2",
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>Why?<|im_end|><|im_start|>assistant\n",
        ),
        ("vicuna_v1", TEMPLATES["vicuna_v1"].system_text + " USER: <image>Why? ASSISTANT:"),
    ],
)
def test_one_turn(mode: str, expected: str) -> None:
    assert render(None, [Turn("user", "<image>Why?")], mode) == expected


def test_several_turns() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "A?"), Turn("assistant", "Yes."), Turn("user", "B?")]
    assert render(None, turns, "vicuna_v1") == "Be brief. USER: A? ASSISTANT: Yes.</s>USER: B? ASSISTANT:"


@pytest.mark.parametrize("mode", TEMPLATES)
def test_turns_are_found_even_if_the_template_says_the_same_words(mode: str) -> None:
    turns = [Turn("user", "assistant"), Turn("assistant", "user"), Turn("user", "a")]
    text = render(None, turns, mode)
    starts = turn_starts(None, turns, mode, text)
    assert starts == sorted(starts)
    for turn, start in zip(turns, starts, strict=True):
        changed = [Turn(t.role, t.text.upper() if t is turn else t.text) for t in turns]
        assert render(None, changed, mode) == text[:start] + turn.text.upper() + text[start + len(turn.text) :]


def test_stop_tokens_of_llama_3() -> None:
    tokenizer = Vocabulary("<eos>", *LLAMA_3)
    assert stop_token_ids(tokenizer, "llama_3") == [0, 4, 5]


def test_stop_tokens_that_are_no_tokens_are_left_out(load: Any) -> None:
    _, processor = load("VILA1.5-3b-tiny")
    assert processor.stop_token_ids("hermes-2") == processor.stop_token_ids("auto") == [402]


@pytest.mark.parametrize("name", ["nvila-lite", "nvila-resize"])
def test_bundled_qwen2_template_is_the_released_one(name: str, load: Any) -> None:
    _, processor = load(name)
    turns = [Turn("user", "Hello"), Turn("assistant", "Hi"), Turn("user", "Bye")]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    bundled = processor.tokenizer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATES["qwen2"], tokenize=False, add_generation_prompt=True
    )
    assert render(processor.tokenizer, turns, "auto") == bundled


@pytest.mark.parametrize("token", ["<image>", "<vila/video>", "<vila/sentinel>"])
def test_literal_media_tokens(token: str) -> None:
    with pytest.warns(LiteralMediaTokenWarning, match="pass it in the list between them"):
        assert without_media_tokens(f" What {token} are ") == "What  are"


def test_parts_are_joined_without_separator_and_the_whole_is_stripped() -> None:
    picture = Image.new("RGB", (2, 2))
    (turn,) = assemble(["  First:\n", picture, "\nSecond: ", picture, " Q \n"], lambda number: f"<{number}>")
    assert turn.text == "First:\n<0>\nSecond: <1> Q"
    assert [turn.text[start:stop] for start, stop in turn.spans] == ["First:\n", "\nSecond: ", " Q"]


def test_message_forms() -> None:
    picture = Image.new("RGB", (2, 2))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Q"}]
    assert pictures_of([{"role": "user", "content": content}]) == [picture]
    assert pictures_of([{"from": "human", "value": [picture, "Q"]}]) == [picture]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "is empty"),
        ([3], "is a int"),
        ([{"role": "tool", "content": "x"}], "Role 'tool'"),
        ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], "type 'video'"),
    ],
)
def test_unusable_prompts(parts: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        pictures_of(parts)


def test_unknown_mode_lists_the_known(load: Any) -> None:
    _, processor = load("nvila-lite")
    with pytest.raises(
        OptionError, match=r"'chatml' is unknown; choose one of auto, vicuna_v1, v1, llama_3, hermes-2, plain"
    ):
        processor.prepare(["Hi"], conv_mode="chatml")
    assert processor.resolve_conv_mode("v1") == "vicuna_v1"
