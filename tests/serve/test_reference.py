"""What the reference's own servers promise and break: conversation mode auto, every picture, the history, streams, usage."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest

import vila_lab

from .conftest import TOKEN

FOLDER = vila_lab.demo_images()
EXAMPLE = "图像1是谷歌,以其搜索引擎闻名。图像2是微软,以其操作系统闻名。图像3是苹果,以iPhone和Mac闻名。图像4是"
MARKS = ("g", "m", "a", "n")


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key=TOKEN, max_retries=0)


def picture(name: str) -> dict[str, Any]:
    data = base64.b64encode((FOLDER / f"{name}.png").read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def ask(client: openai.OpenAI, messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model="any", messages=messages, **more)


def user(*parts: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_the_example_in_conversation_mode_auto(client, stream):
    """Its ``--conv-mode auto`` raises on every request, and its streams fail."""
    messages = [user(*map(picture, MARKS), EXAMPLE)]
    options = {"conv_mode": "auto"}
    if not stream:
        assert ask(client, messages, extra_body=options).choices[0].message.content == "英伟达,以其GPU闻名。"
        return
    chunks = list(ask(client, messages, stream=True, extra_body=options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "英伟达,以其GPU闻名。"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_every_picture_of_every_message_is_seen(client):
    """There only the last one of all is."""
    for number, name in enumerate(("Google", "Microsoft", "Apple"), 1):
        said = ask(client, [user(picture("g"), "and", picture("m"), picture("a"), f"What is in image {number}?")])
        assert said.choices[0].message.content.rstrip(".。") == name
    earlier = [user(picture("g"), "What is in image 1?"), {"role": "assistant", "content": "Google."}]
    said = ask(client, [*earlier, user(picture("m"), "What is in image 2?")])
    assert said.choices[0].message.content == "Microsoft."


def test_what_was_said_before_is_read(client):
    """There the history is dropped, or flattened without roles."""
    lab = vila_lab.load()
    messages = [
        {"role": "system", "content": "Be brief."},
        user(picture("g"), "What is in image 1?"),
        {"role": "assistant", "content": "Google."},
        user("What is in image 1?"),
    ]
    said = ask(client, messages, logprobs=True)
    kernel = [{"role": each["role"], "content": each["content"]} for each in messages]
    answer = lab.ask(kernel)
    assert [each.logprob for each in said.choices[0].logprobs.content] == [token.logprob for token in answer.tokens]
    assert said.usage.prompt_tokens == answer.token_map.prompt_length
    without = ask(client, [messages[-1] | {"content": [picture("g"), *messages[-1]["content"]]}])
    assert said.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_response_has_what_openais_has(client):
    """There content is a list, and there is no index, no finish reason and no usage, or one that is always the same."""
    counted = set()
    for name, most in (("g", 1), ("m", None)):
        said = ask(client, [user(picture(name), "What is this?")], max_tokens=most)
        (choice,) = said.choices
        assert isinstance(choice.message.content, str)
        assert (choice.index, choice.finish_reason) == (0, "length" if most else "stop")
        assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
        counted.add(said.usage.completion_tokens)
    assert len(counted) == 2
