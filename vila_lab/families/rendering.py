"""From a conversation to the text that a chat template makes of it, and where in it what was typed stands. Knows no tokens.

A template may trim what was typed, and may write all pictures of a message before all of its words. So it is rendered twice:
once with marks in place of the texts, which says what stands where, and once with the texts themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias

from ..errors import PromptError
from ..prompt import Picture, Prompt, Turn

Span: TypeAlias = "tuple[int, int]"
Message: TypeAlias = "dict[str, Any]"
Template: TypeAlias = "Callable[[list[Message]], str]"

MARK = re.compile("\ue000(\\d+)\ue001")
CHANGED = (
    "the chat template of this checkpoint changes what is typed into it, so its words cannot be told from the template's: "
    "vila_lab cannot ask this checkpoint"
)


@dataclass(frozen=True)
class Rendered:
    """A prompt as a text, with the processor's marker wherever a picture stands.

    Attributes
    ----------
    text : str
    typed : tuple of (start, stop)
        Where the words of users stand.
    replies : tuple of (start, stop)
        Where the model's earlier answers stand, empty ones included.
    keeps_order : bool
        Whether pictures and words stand in the order in which they were given.
    """

    text: str
    typed: tuple[Span, ...]
    replies: tuple[Span, ...]
    keeps_order: bool


def render(prompt: Prompt, template: Template, marker: str, *, inlines: bool = True) -> Rendered:
    """A prompt as its checkpoint's chat template writes it, pictures where they were given.

    Parameters
    ----------
    prompt
    template
        From messages as transformers has them to a text; it may raise whatever it likes.
    marker
        What stands for a picture in the text.
    inlines
        Whether pictures that a template would write too early are written among the words instead.

    Raises
    ------
    PromptError
        If the template cannot say this conversation.
    """
    turns = (*prompt.history, Turn("user", prompt.parts))
    given = [isinstance(part, Picture) for turn in turns for part in turn.parts]
    found = _filled([turn.parts for turn in turns], turns, template)
    if inlines and found.order(marker) != given:
        picture = _as_written(template, marker)
        found = _filled([_inlined(turn, picture) for turn in turns], turns, template)
    if found.skeleton.count(marker) != len(prompt.pictures):
        raise PromptError(
            f"the chat template of this checkpoint writes {found.skeleton.count(marker)} of the conversation's {len(prompt.pictures)} "
            "pictures; ask about them in one message"
        )
    return found.located(found.order(marker) == given)


Part: TypeAlias = "str | Picture | list[str | Picture]"
"""A text, a picture, or texts and written pictures that are one text to the template."""


def _inlined(turn: Turn, picture: str) -> list[Part]:
    """The pictures in front as they are; what follows as one text with the pictures written in it."""
    first = list(takewhile(lambda part: isinstance(part, Picture), turn.parts))
    rest = list(turn.parts[len(first) :])
    if not any(isinstance(part, Picture) for part in rest):
        return [*first, *rest]
    return [*first, [_Written(picture) if isinstance(part, Picture) else part for part in rest]]


class _Written(str):
    """A picture as the template would write it: no word of the user's."""


@dataclass(frozen=True)
class _Words:
    """A text and who said it."""

    role: str
    text: str


@dataclass(frozen=True)
class _Filled:
    """A template with marks in the place of texts, and with the texts."""

    skeleton: str
    text: str
    words: tuple[_Words, ...]

    def order(self, marker: str) -> list[bool]:
        """For every text and picture, as they stand in it, whether it is a picture."""
        return [found[1] is None for found in re.finditer(f"{MARK.pattern}|{re.escape(marker)}", self.skeleton)]

    def located(self, keeps_order: bool) -> Rendered:
        """Where each text stands.

        Raises
        ------
        PromptError
            If the template changed a text otherwise than by trimming it.
        """
        typed: list[Span] = []
        replies: list[Span] = []
        first, *pieces = MARK.split(self.skeleton)
        place = len(first)
        for number, behind in zip(pieces[::2], pieces[1::2], strict=True):
            words = self.words[int(number)]
            stop = self._end_of(words, place, behind)
            if words.role != "system" and (stop > place or words.role == "assistant"):
                (replies if words.role == "assistant" else typed).append((place, stop))
            place = stop + len(behind)
        if not self.text.startswith(first) or place != len(self.text):
            raise PromptError(CHANGED)
        return Rendered(self.text, tuple(typed), tuple(replies), keeps_order)

    def _end_of(self, words: _Words, start: int, behind: str) -> int:
        text = words.text
        for found in (text, text.strip(), text.rstrip(), text.lstrip()):
            stop = start + len(found)
            if self.text.startswith(found, start) and self.text.startswith(behind, stop):
                return stop
        stop = self.text.find(behind, start)
        if words.role == "assistant" and behind and stop >= 0:  # templates leave out what earlier answers thought
            return stop
        raise PromptError(CHANGED)


def _filled(parts: Sequence[Sequence[Part]], turns: Sequence[Turn], template: Template) -> _Filled:
    """The template with the parts of every turn.

    Raises
    ------
    PromptError
        If it raises, or leaves a text out.
    """
    words: list[_Words] = []

    def marked(part: str | Picture | list[str | Picture], role: str) -> str:
        if isinstance(part, list):
            return "".join(marked(each, role) for each in part)
        if isinstance(part, _Written) or not isinstance(part, str):
            return str(part)
        words.append(_Words(role, part))
        return f"\ue000{len(words) - 1}\ue001"

    messages = [
        (turn.role, [None if isinstance(part, Picture) else marked(part, turn.role) for part in some])
        for turn, some in zip(turns, parts, strict=True)
    ]
    reason = ""
    for plain in (False, True):  # some templates want words that no picture can stand beside as a bare string
        try:
            skeleton = template([_message(role, content, plain) for role, content in messages])
        except Exception as error:  # a template is a program of its own, and may raise what it likes
            reason = " ".join(str(error).split())[:200]
            continue
        if sorted(map(int, MARK.findall(skeleton))) == list(range(len(words))):
            break
        reason = "it leaves some of the messages out"
    else:
        raise PromptError(f"the chat template of this checkpoint cannot say this conversation: {reason}")

    def text(content: str | None) -> str | None:
        return None if content is None else MARK.sub(lambda found: words[int(found[1])].text, content)

    whole = template([_message(role, [text(each) for each in content], plain) for role, content in messages])
    return _Filled(skeleton, whole, tuple(words))


def _message(role: str, content: Sequence[str | None], plain: bool) -> Message:
    if plain and role != "user":
        return {"role": role, "content": "".join(each or "" for each in content)}
    parts = [{"type": "image"} if each is None else {"type": "text", "text": each} for each in content]
    return {"role": role, "content": parts}


def _as_written(template: Template, marker: str) -> str:
    """What a template writes for a picture before a text, a line break perhaps included."""
    text = {"type": "text", "text": "\ue0000\ue001"}
    without = template([{"role": "user", "content": [text]}])
    with_one = template([{"role": "user", "content": [{"type": "image"}, text]}])
    length = len(with_one) - len(without)
    for start in range(len(without) + 1):
        written = with_one[start : start + length]
        if marker in written and without == with_one[:start] + with_one[start + length :]:
            return written
    return marker
