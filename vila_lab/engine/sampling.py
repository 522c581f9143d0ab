"""How an answer's tokens are chosen: greedily, or drawn by a generator of the question's own. Knows logits, no model."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import OptionError
from ..options import check_range, check_types

COLDEST = 1e-5  # below it logits over temperature are no numbers any more


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes
    ----------
    do_sample : bool
        False takes the most likely token every time, and then nothing else may be given.
    temperature, top_p, top_k, min_p
        As transformers has them; by default what the model's own generation config says.
    seed : int, optional
        The same seed draws the same tokens; None draws others every time. The process's own random state is neither
        read nor moved.

    Raises
    ------
    OptionError
        If a value has another type or is out of range, or is given without ``do_sample``.

    Examples
    --------
    >>> Sampling(do_sample=True, seed=5)
    Sampling(do_sample=True, temperature=None, top_p=None, top_k=None, seed=5, min_p=None)
    """

    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        check_types(Sampling, vars(self))
        check_range("temperature", self.temperature, above=0)
        check_range("temperature", self.temperature, least=COLDEST)
        check_range("top_p", self.top_p, above=0, most=1)
        check_range("top_k", self.top_k, least=1)
        check_range("min_p", self.min_p, least=0, most=1)
        check_range("seed", self.seed, least=0, most=2**64 - 1)
        given = [each.name for each in fields(self)[1:] if getattr(self, each.name) is not None]
        if given and not self.do_sample:
            raise OptionError(
                f"without sampling {', '.join(given)} would change nothing: add do_sample=True, or ask without for the greedy answer"
            )

    def with_seed(self) -> Sampling:
        """The same with a seed from the system where none was given, so that it can be done again."""
        is_open = self.do_sample and self.seed is None
        return replace(self, seed=secrets.randbits(63)) if is_open else self

    def other(self, number: int) -> Sampling:
        """The same with another seed, for the next of several answers."""
        return self if self.seed is None else replace(self, seed=(int(self.seed) + number) % 2**64)

    def chooser(self, config: GenerationConfig) -> Chooser:
        """What chooses the tokens of one answer, with what is not given here from the model's own config."""
        if not self.do_sample:
            return Chooser()
        temperature = config.temperature if self.temperature is None else float(self.temperature)
        top_k = config.top_k if self.top_k is None else int(self.top_k)
        top_p = config.top_p if self.top_p is None else float(self.top_p)
        min_p = config.min_p if self.min_p is None else float(self.min_p)
        warpers: list[LogitsProcessor] = []  # in transformers' order
        if temperature not in (None, 1.0):
            warpers.append(TemperatureLogitsWarper(temperature))
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        if min_p:
            warpers.append(MinPLogitsWarper(min_p))
        return Chooser(LogitsProcessorList(warpers), Draw(self.seed))


class Draw:
    """Draws a token for each item of a batch, with random numbers of its own.

    Parameters
    ----------
    seed
        None takes one from the system.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        """A token by its chances.  # (B, V) -> (B,)"""
        if self._generator is None:  # only now it is known where the logits lie
            self._generator = torch.Generator(device=scores.device)
            if self._seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(int(self._seed))
        chances = torch.softmax(scores.float(), -1)  # (B, V)
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0]


@dataclass(frozen=True)
class Chooser:
    """Chooses tokens from scores: the most likely ones, or drawn ones."""

    warpers: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    draw: Draw | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The next token of each sequence.  # (B, T), (B, V) -> (B,)"""
        if self.draw is None:
            return scores.argmax(-1)
        return self.draw(self.warpers(ids, scores))  # type: ignore[arg-type]
