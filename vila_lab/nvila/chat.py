"""Chat messages to one text, by a jinja template or by one of the family's. Knows a tokenizer's templates, no pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from vila_lab.errors import CheckpointError, OptionError, PromptError
from vila_lab.nvila.conversation import AUTO, TEMPLATES, Turn
from vila_lab.nvila.limits import within_time
from vila_lab.nvila.messages import parts_of
from vila_lab.nvila.prompting import IMAGE_TOKEN

__all__ = ["ChatOptions", "Rendered", "render_chat", "template_of"]

PARTS_WANTED = re.compile(r"""\[\s*['"](?:text|type)['"]\s*\]|\.(?:text|type)\b""")
KNOWN_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ChatOptions:
    """How a conversation is written.

    Attributes
    ----------
    add_generation_prompt : bool
        Begin the answer's turn.
    continue_final_message : bool or str
        End inside the last message, so that an answer goes on with it; a string names the field to go on with.
    generation_spans : bool
        Also tell where the template's ``{% generation %}`` blocks are.
    variables : mapping
        For the template: tools, documents, and whatever it knows.
    """

    add_generation_prompt: bool = False
    continue_final_message: bool | str = False
    generation_spans: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.continue_final_message and self.add_generation_prompt:
            raise OptionError(
                "add_generation_prompt begins a new turn and continue_final_message none; give one of them."
            )
        if self.continue_final_message and self.generation_spans:
            raise OptionError("return_assistant_tokens_mask needs whole messages; leave continue_final_message out.")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with the character spans that a model is to generate and those that a user typed."""

    text: str
    generated: tuple[tuple[int, int], ...] = ()
    typed: tuple[tuple[int, int], ...] = ()


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], mode: str, template: str | None, options: ChatOptions
) -> Rendered:
    """Write a conversation as one text with one ``<image>`` per picture.

    Parameters
    ----------
    messages : sequence of mapping
        From `standard_messages`.
    mode : str
        A name from `conversation.TEMPLATES`, or "auto" for the tokenizer's chat template.
    template : str, optional
        A jinja template, or the name of one of the tokenizer's, that is used whatever the mode.

    Raises
    ------
    PromptError
        The template rejects the conversation, or does not write all of it.
    OptionError
        The mode's template has no such option.
    """

    def write(said: Sequence[Mapping[str, Any]]) -> Rendered:
        if template is None and mode != AUTO:
            return _by_family(said, mode, options)
        return _by_template(tokenizer, said, template, options)

    written = write(messages)
    control = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if not any(token in "".join(_typed(messages)) for token in control):
        return written
    return replace(written, typed=_typed_spans(write, messages, written.text))


def _typed(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    by_user = [message for message in messages if message["role"] == "user"]
    return [part["text"] for message in by_user for part in parts_of(message) if part["type"] == "text"]


def _typed_spans(
    write: Callable[[Sequence[Mapping[str, Any]]], Rendered], messages: Sequence[Mapping[str, Any]], text: str
) -> tuple[tuple[int, int], ...]:
    """Where a user's words stand: the conversation is written once more with a private-use character for each of them.

    Looking for the words themselves would take a control token of the template for one that was typed.
    """
    marks = iter(chr(0xE000 + number) for number in range(len(_typed(messages))))
    marked = [
        {**message, "content": [_marked(part, marks) for part in parts_of(message)]}
        if message["role"] == "user"
        else message
        for message in messages
    ]
    spans: list[tuple[int, int]] = []
    shift = 0
    skeleton = write(marked).text
    for number, words in enumerate(_typed(messages)):
        place = skeleton.find(chr(0xE000 + number)) + shift
        said = next(
            (form for form in (words, words.lstrip(), words.rstrip(), words.strip()) if text.startswith(form, place)),
            "",
        )
        spans.append((place, place + len(said)))
        shift += len(said) - 1
    return tuple(spans)


def _marked(part: Mapping[str, Any], marks: Iterator[str]) -> dict[str, Any]:
    return {**part, "text": next(marks)} if part["type"] == "text" else dict(part)


def _by_template(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None, options: ChatOptions
) -> Rendered:
    source = template_of(tokenizer, template)
    for name, value in options.variables.items():
        if value is not None and not re.search(rf"\b{re.escape(name)}\b", source):
            raise OptionError(f"Neither the chat template nor the processor knows {name!r}; check its spelling.")
    variables = {**tokenizer.special_tokens_map, "image_token": IMAGE_TOKEN, **options.variables}
    problem: Exception | None = None
    for form in _forms(messages, source):
        try:
            found: Any = within_time(
                partial(
                    render_jinja_template,
                    conversations=[form],
                    chat_template=source,
                    add_generation_prompt=options.add_generation_prompt,
                    continue_final_message=options.continue_final_message,
                    return_assistant_tokens_mask=options.generation_spans,
                    **variables,
                ),
                "The chat template",
            )
        except CheckpointError:
            raise
        except (TemplateError, TypeError, ValueError) as error:
            problem = error
            continue
        texts, spans = found
        if _writes_all(str(texts[0]), messages):
            return Rendered(str(texts[0]), tuple((int(a), int(b)) for a, b in spans[0]) if spans else ())
    if problem is not None:
        raise PromptError(f"The chat template rejects this conversation: {problem}.") from problem
    raise PromptError("The chat template leaves out part of this conversation; give one that writes every message.")


def template_of(tokenizer: Any, template: str | None) -> str:
    """The source of a chat template, given itself, by the name of one of the tokenizer's, or as None for its own.

    Raises
    ------
    PromptError
        There is none.
    """
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError as error:
        raise PromptError("This checkpoint has no chat template; pass chat_template= or a conv_mode.") from error


def _forms(messages: Sequence[Mapping[str, Any]], source: str) -> Iterator[list[dict[str, Any]]]:
    """The conversation as templates may want it, the likeliest form first: contents as texts, or in parts.

    A template that wants texts writes parts as Python would, without an error; so whether it looks into parts is read
    from its source.
    """
    as_parts = [{**message, "content": parts_of(message)} for message in messages]
    as_text = [{**message, "content": _text(message)} for message in messages]
    in_one_part = [{**message, "content": [{"type": "text", "text": _text(message)}]} for message in messages]
    yield from (as_parts, in_one_part, as_text) if PARTS_WANTED.search(source) else (as_text, in_one_part, as_parts)


def _text(message: Mapping[str, Any]) -> str:
    """The reference's assembly: parts one after the other, no blanks around the turn."""
    return "".join(IMAGE_TOKEN if part["type"] == "image" else part["text"] for part in parts_of(message)).strip()


def _writes_all(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    said = [part["text"].strip() for message in messages for part in parts_of(message) if part["type"] == "text"]
    return all(words in text for words in said)


def _by_family(messages: Sequence[Mapping[str, Any]], mode: str, options: ChatOptions) -> Rendered:
    refused = [name for name, value in options.variables.items() if value is not None]
    if refused or options.generation_spans:
        name = refused[0] if refused else "return_assistant_tokens_mask"
        raise OptionError(f"The conversation mode {mode} has no {name}; pass a chat_template that has.")
    if unknown := next((message["role"] for message in messages if message["role"] not in KNOWN_ROLES), None):
        raise PromptError(f"Role {unknown!r} is unknown; use system, user or assistant.")
    turns = [Turn(message["role"], _text(message)) for message in messages]
    text = TEMPLATES[mode].render(turns, add_generation_prompt=options.add_generation_prompt)
    if options.continue_final_message:
        last = turns[-1].text
        text = text[: text.rindex(last) + len(last)]
    return Rendered(text)
