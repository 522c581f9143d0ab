"""Request: one question, whole: what is asked, how its tokens are chosen, and under which edits. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError
from ..options import check_range, check_types
from ..prompt import Prompt
from .form import Form
from .question import Spec
from .sampling import Sampling
from .scores import BEST


@dataclass(frozen=True)
class Request:
    """What an `Engine` answers.

    Attributes
    ----------
    prompt : Prompt
    options
        The model's family's own; None for its defaults.
    sampling : Sampling
    max_new_tokens : int, optional
        Longest answer; by default `DEFAULT_NEW_TOKENS` or what the context still holds.
    stop : tuple of str
        Texts that end the answer, and are no part of it.
    logprobs : int
        Alternatives that are kept of every token.
    form : Form, optional
        What the answer has to look like.
    edits : tuple of Spec
        Hooks and edits, in order; they act on this question alone.

    Raises
    ------
    OptionError
        If an option has another type or is out of range.

    Examples
    --------
    >>> from vila_lab.prompt import Prompt
    >>> Request(Prompt.of("Hello"), max_new_tokens=3).sampling
    Sampling(do_sample=False, temperature=None, top_p=None, top_k=None, seed=None, min_p=None)
    """

    prompt: Prompt
    options: Any = None
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int | None = None
    edits: tuple[Spec, ...] = ()
    stop: tuple[str, ...] = ()
    logprobs: int = BEST
    form: Form | None = None

    def __post_init__(self) -> None:
        check_types(Request, {"max_new_tokens": self.max_new_tokens, "logprobs": self.logprobs})
        check_range("max_new_tokens", self.max_new_tokens, least=1)
        check_range("logprobs", self.logprobs, least=0)
        if not all(isinstance(text, str) and text for text in self.stop):
            raise OptionError(f"stop is a text or a list of texts, none of them empty, not {list(self.stop)!r}")


def limits_of(
    max_new_tokens: int | None, stop: str | Sequence[str] | None, logprobs: int | None, response_format: Any
) -> dict[str, Any]:
    """What an answer may be, as callers of a session say it, in the fields of a `Request`."""
    return {
        "max_new_tokens": max_new_tokens,
        "stop": (stop,) if isinstance(stop, str) else tuple(stop or ()),
        "logprobs": BEST if logprobs is None else logprobs,
        "form": Form.of(response_format),
    }
