"""Messages of a conversation with their pictures by number, as a record keeps them. Knows prompts, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..picture import Picture
from ..prompt import Prompt


@dataclass(frozen=True)
class Said:
    """A message that was said before the question.

    Attributes
    ----------
    role : str
        "system", "user" or "assistant".
    parts : tuple
        Texts, and the index of a picture where it stood.
    ids : tuple of int
        Of an answer: its own tokens.
    """

    role: str
    parts: tuple[str | int, ...]
    ids: tuple[int, ...] = ()


def said_in(prompt: Prompt) -> tuple[list[Said], list[str | int]]:
    """The messages before a prompt's question, and the question, with the index of a picture where it stood."""
    count = iter(range(len(prompt.pictures)))

    def listed(parts: Sequence[str | Picture]) -> list[str | int]:
        return [next(count) if isinstance(part, Picture) else part for part in parts]

    history = [Said(turn.role, tuple(listed(turn.parts)), turn.ids) for turn in prompt.history]
    return history, listed(prompt.parts)
