"""OpenAI's chat completions as questions and answers: what a body asks, and what is sent back. Knows no HTTP and no model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..answer import Answer
from ..engine.request import limits_of
from ..engine.sampling import COLDEST, Sampling
from ..errors import OptionError
from ..tokens import Token
from .wanted import Wanted

MOST_ANSWERS = 16
LEAST = -9999.0  # logarithm of a probability that is 0: JSON has no infinity
IGNORED = (
    "audio", "frequency_penalty", "logit_bias", "metadata", "modalities", "parallel_tool_calls", "prediction", "presence_penalty",
    "prompt_cache_key", "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity", "web_search_options",
)  # fmt: skip
"""What OpenAI's clients may send and this model does not know: accepted as long as it asks for nothing."""


class StreamOptions(BaseModel):
    """How a stream is sent."""

    include_usage: bool = False


class Body(BaseModel):
    """A request for a chat completion. Options of the model's family (`conv_mode`) stand beside OpenAI's own."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    stop: str | list[str] | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | list[str] | None = None
    vila_lab: Wanted | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def options(self, known: Sequence[str]) -> dict[str, Any]:
        """Options of the model's family.

        Parameters
        ----------
        known
            Their names.

        Raises
        ------
        OptionError
            If the body has something that would change the answer and is not known.
        """
        extra = self.model_extra or {}
        for name, value in extra.items():
            if name not in known and not (name in IGNORED or not value):
                raise OptionError(f"{name} is not known here; beside OpenAI's own this model takes {', '.join(known)}")
        return {name: extra[name] for name in known if name in extra}

    def limits(self) -> dict[str, Any]:
        """What the answer may be, in the fields of a `Request`."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else 0
        if self.vila_lab is not None and self.vila_lab.alternatives is not None:
            logprobs = self.vila_lab.alternatives
        return limits_of(self.max_completion_tokens or self.max_tokens, self.stop, logprobs, self.response_format)

    def samplings(self) -> list[Sampling]:
        """How tokens are chosen, for each of the n answers; without a temperature the most likely ones are."""
        asked = self.vila_lab.do_sample if self.vila_lab is not None else None
        if not ((self.temperature or 0) >= COLDEST if asked is None else asked):
            return [Sampling()] * self.n
        drawn = Sampling(True, self.temperature or None, self.top_p, self.top_k, self.seed, self.min_p)
        return [drawn.other(number) for number in range(self.n)]


class Pieces:
    """An answer's words as they may be sent: blanks at both ends, and what may yet be a stop text, are held back.

    >>> pieces = Pieces(["END"])
    >>> [pieces.add(text) for text in (" a", " b ", "E", "N", "ough")], pieces.rest("a b ENough")
    (['a', ' b', '', '', ' ENough'], '')
    """

    def __init__(self, stop: str | Sequence[str] | None) -> None:
        self._stop = [stop] if isinstance(stop, str) else list(stop or ())
        self._said = ""
        self._sent = ""

    def add(self, text: str) -> str:
        """What may be sent now that more was said."""
        self._said += text
        sure = self._said.strip()
        held = max((_overlap(self._said, stop) for stop in self._stop), default=0)
        if held:
            sure = self._said[:-held].strip()
        more = sure[len(self._sent) :]
        self._sent = sure if more else self._sent
        return more

    def rest(self, whole: str) -> str:
        """What is left to send of the answer."""
        return whole[len(self._sent) :]


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters may begin a stop text, or are one."""
    if stop in text:
        return len(text) - text.index(stop)
    return max((size for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


def finish_reason(answer: Answer) -> str:
    return "stop" if answer.tokens[-1].stop else "length"


def scores(tokens: Sequence[Token]) -> dict[str, Any]:
    """Of every token its logarithm of probability, and the most probable ones."""
    return {
        "content": [
            {
                **_score(token.text, token.logprob),
                "top_logprobs": [_score(text, logprob) for text, _, logprob in token.alternatives],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _score(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(text.encode())}


def usage(answers: Sequence[Answer], cached: int) -> dict[str, Any]:
    """How many positions were read and said."""
    read, said = answers[0].token_map.prompt_length, sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": said,
        "total_tokens": read + said,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class Completion:
    """The head that all that is sent of one request shares."""

    def __init__(self, model: str, name: str) -> None:
        self._head = {"id": name, "created": int(time.time()), "model": model}

    def whole(
        self, answers: Sequence[Answer], logprobs: bool, cached: int, more: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        """A completion that is sent at once; ``more`` is what each answer brings beyond OpenAI's words."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": scores(answer.tokens) if logprobs else None,
                "finish_reason": finish_reason(answer),
            }
            for number, answer in enumerate(answers)
        ]
        if more is not None:
            choices = [{**choice, "vila_lab": each} for choice, each in zip(choices, more, strict=True)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(answers, cached)}

    def chunk(
        self,
        number: int,
        delta: dict[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        more: Any = None,
    ) -> dict[str, Any]:
        """A piece of one that is sent as it comes."""
        choice: dict[str, Any] = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        if more is not None:
            choice["vila_lab"] = more
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], "usage": None}

    def last(self, answers: Sequence[Answer], cached: int) -> dict[str, Any]:
        """The chunk that tells the usage."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(answers, cached)}
