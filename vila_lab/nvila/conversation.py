"""Conversation templates: which there are, which one a checkpoint means, what they render, where they stop.

Knows tokenizers and text, no pictures and no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from vila_lab.errors import OptionError, PromptError, VilaLabError
from vila_lab.nvila.limits import within_time
from vila_lab.nvila.prompt_options import ConversationMode
from vila_lab.options import nearest

AUTO = "auto"
SENTINEL = "<vila/sentinel>"


@dataclass(frozen=True)
class Turn:
    """One message: who says it and its text, with ``<image>`` markers."""

    role: str
    text: str


@dataclass(frozen=True)
class Template:
    """A fixed conversation format, ``{}`` standing for the text of a turn.

    Attributes
    ----------
    system_text : str
        What the system says if the conversation does not begin with a system turn.
    system, user, assistant : str
        How one turn is written.
    answer : str
        What comes before the answer.
    stops : tuple of str
        Tokens that end an answer, besides the tokenizer's own.
    """

    system_text: str
    system: str
    user: str
    assistant: str
    answer: str
    stops: tuple[str, ...]

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        written = list(turns)
        if self.system and (not written or written[0].role != "system"):
            written.insert(0, Turn("system", self.system_text))
        formats = {"system": self.system, "user": self.user, "assistant": self.assistant}
        body = "".join(formats[turn.role].replace("{}", turn.text) for turn in written)
        return body + (self.answer if add_generation_prompt else "")


TEMPLATES: dict[str, Template] = {
    "vicuna_v1": Template(
        system_text=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        system="{} ",
        user="USER: {} ",
        assistant="ASSISTANT: {}</s>",
        answer="ASSISTANT:",
        stops=("</s>",),
    ),
    "llama_3": Template(
        system_text=(
            "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
            "provides, and assist the user with a variety of tasks using natural language."
        ),
        system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stops=("<|eot_id|>", "<|end_of_text|>"),
    ),
    "hermes-2": Template(
        system_text="Answer the questions.",
        system="<|im_start|>system\n{}<|im_end|>",
        user="<|im_start|>user\n{}<|im_end|>",
        assistant="<|im_start|>assistant\n{}<|im_end|>",
        answer="<|im_start|>assistant\n",
        stops=("<|im_end|>",),
    ),
    "plain": Template(system_text="", system="", user="{}\n", assistant="{}\n", answer="", stops=()),
}
ALIASES = {"v1": "vicuna_v1"}
CONVERSATION_MODES: tuple[str, ...] = get_args(ConversationMode)

CHAT_TEMPLATES = {
    "qwen2": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
        "{% for message in messages if message['content'] is not none %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages if message['content'] is not none %}"
        "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% elif message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
}
"""Chat templates that a root ``config.json`` may name."""

# The reference decides by these parts of the lower-cased path; here they are asked last, when the files say nothing.
NAME_HINTS = (
    ("nvila15b", "vicuna_v1"),
    ("vila1.5-3b", "vicuna_v1"),
    ("vila1.5-8b", "llama_3"),
    ("vila1.5-13b", "vicuna_v1"),
    ("vila1.5-40b", "hermes-2"),
    ("llama-3", "llama_3"),
    ("llama3", "llama_3"),
)
FIRST_WITH_CHAT_TEMPLATE = (
    4,
    40,
)  # VILA1.5 was written by 4.36 and answers to its own templates, whatever its tokenizer brings


def check_mode(mode: str) -> str:
    """The mode's proper name; an unknown one raises `OptionError` with the list."""
    if mode not in CONVERSATION_MODES:
        raise OptionError(
            f"Conversation mode {mode!r} is unknown{nearest(mode, CONVERSATION_MODES)}; choose one of {', '.join(CONVERSATION_MODES)}."
        )
    return ALIASES.get(mode, mode)


def mode_of_checkpoint(tokenizer: Any, *, decoder: str, written_by: str | None = None, name: str = "") -> str:
    """Which template a checkpoint was trained with.

    Asked in this order: a VILA1.5-era file with Llama-3's tokens, a chat template, special tokens and decoder type,
    and at last the folder's name.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    decoder : str
        ``model_type`` of the language model.
    written_by : str, optional
        ``transformers_version`` of the root configuration.
    name : str
        The folder's name or hub id.
    """
    tokens = set(tokenizer.get_added_vocab())
    is_llama_3 = {"<|start_header_id|>", "<|eot_id|>"} <= tokens
    is_old = written_by is not None and _version(written_by) < FIRST_WITH_CHAT_TEMPLATE
    if is_llama_3 and is_old:
        return "llama_3"
    if getattr(tokenizer, "chat_template", None):
        return AUTO
    if is_llama_3:
        return "llama_3"
    if {"<|im_start|>", "<|im_end|>"} <= tokens:
        return AUTO if decoder.startswith("qwen") else "hermes-2"
    if decoder == "mistral":
        return AUTO
    return next((mode for part, mode in NAME_HINTS if part in name.lower()), "vicuna_v1")


def built_in_chat_template(tokenizer: Any, decoder: str) -> str | None:
    """The chat template for a checkpoint whose tokenizer should have one and has none."""
    if decoder.startswith("qwen") and "<|im_start|>" in tokenizer.get_added_vocab():
        return CHAT_TEMPLATES["qwen2"]
    return CHAT_TEMPLATES["mistral"] if decoder == "mistral" else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def render(tokenizer: Any, turns: Sequence[Turn], mode: str, *, add_generation_prompt: bool = True) -> str:
    """Write a conversation as one text.

    Parameters
    ----------
    mode : str
        A name from `TEMPLATES`, or "auto" for the tokenizer's chat template.

    Raises
    ------
    PromptError
        The chat template rejects the conversation.
    """
    if mode != AUTO:
        return TEMPLATES[mode].render(turns, add_generation_prompt=add_generation_prompt)
    text = _apply_chat_template(tokenizer, turns, add_generation_prompt, as_parts=False)
    if any(
        turn.text and turn.text.strip() not in text for turn in turns
    ):  # templates of "-hf" files expect lists of parts
        text = _apply_chat_template(tokenizer, turns, add_generation_prompt, as_parts=True)
    return text


def _apply_chat_template(tokenizer: Any, turns: Sequence[Turn], add_generation_prompt: bool, *, as_parts: bool) -> str:
    from jinja2.exceptions import TemplateError

    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}] if as_parts else turn.text}
        for turn in turns
    ]
    try:
        return within_time(
            lambda: str(
                tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
            ),
            "The chat template",
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        if isinstance(error, VilaLabError):
            raise
        if not as_parts:
            return ""
        raise PromptError(f"The chat template rejects this conversation: {error}.") from error


def turn_starts(tokenizer: Any, turns: Sequence[Turn], mode: str, text: str) -> list[int]:
    """Where the text of each turn begins in the rendered `text`; -1 for a turn that the template does not write.

    A turn whose words also occur in the template is still found: the conversation is rendered once more with a
    private-use character in place of each turn, and what stands around these characters says where the turns are.
    """
    marks = [chr(0xE000 + index) for index in range(len(turns))]
    skeleton = render(tokenizer, [Turn(turn.role, mark) for turn, mark in zip(turns, marks, strict=True)], mode)
    starts: list[int] = []
    shift, cursor = 0, 0
    for turn, mark in zip(turns, marks, strict=True):
        place = skeleton.find(mark)
        start = place + shift
        if place < 0 or text[start : start + len(turn.text)] != turn.text:
            start = text.find(turn.text, cursor)
        starts.append(start)
        if start >= 0:
            cursor = start + len(turn.text)
            shift = cursor - (place + 1)
    return starts


def stop_token_ids(tokenizer: Any, mode: str) -> list[int]:
    """Ids that end an answer: the tokenizer's end token and those of the template.

    For "auto" the template itself is asked: the token that follows an answer in a rendered conversation.
    """
    stops = {tokenizer.eos_token_id}
    if mode != AUTO:
        vocabulary = tokenizer.get_vocab()
        stops |= {vocabulary[token] for token in TEMPLATES[mode].stops if token in vocabulary}
        return sorted(stop for stop in stops if stop is not None)
    turns = [Turn("user", "question"), Turn("assistant", SENTINEL)] * 2
    ids = tokenizer(render(tokenizer, turns, mode, add_generation_prompt=False)).input_ids
    sentinel = tokenizer.convert_tokens_to_ids(SENTINEL)
    stops |= {after for before, after in pairwise(ids) if before == sentinel}
    return sorted(stop for stop in stops if stop is not None)
