"""An answer's tokens, each chosen from the model's scores. Knows a tokenizer and rows of logits, no decoder and no record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..errors import NotANumber
from ..families.base import Family
from ..tokens import Spelling, Token
from ..upstream import logits_processors
from .guide import Guide
from .sampling import Sampling
from .scores import BEST, Scores


class Saying:
    """An answer as it is said.

    Parameters
    ----------
    family
        Whose tokenizer reads the tokens.
    ids : Tensor (1, T)
        The prompt.
    config : GenerationConfig
        Stop tokens, and what is done to the scores.
    sampling
    limit : int
        Longest answer.
    may_break : bool
        Let logits of NaN pass, as an edit may be meant to do that.
    stop : sequence of str
        Texts that end the answer, and are no part of it.
    logprobs : int
        Alternatives that are kept of every token.
    guide : optional
        Which tokens keep the answer's form; the probabilities that tokens get are the model's own all the same.

    Attributes
    ----------
    tokens : list of Token
        The answer so far.
    first : Tensor (V,) or None
        What the prompt's last row said.
    broken_at : int or None
        The first token whose logits were no numbers.
    text : str or None
        The answer's words, where they are not simply those of its tokens.
    stopped_at : str or None
        The stop text that ended it.
    """

    def __init__(
        self,
        family: Family,
        ids: Tensor,
        config: GenerationConfig,
        sampling: Sampling,
        limit: int,
        *,
        may_break: bool = False,
        stop: Sequence[str] = (),
        logprobs: int = BEST,
        guide: Guide | None = None,
    ) -> None:
        self.tokens: list[Token] = []
        self.first: Tensor | None = None
        self.broken_at: int | None = None
        self.text: str | None = None
        self.stopped_at: str | None = None
        self.guide = guide
        self._family = family
        self._stop = tuple(stop)
        self._logprobs = logprobs
        self._ids = ids  # what was said included
        self._limit = limit
        self._may_break = may_break
        self.stops = stops_of(config)
        self._process = logits_processors(family.model, config, ids.shape[1])
        self._choose = sampling.chooser(config)
        self._spelling = Spelling(self._decode)

    @property
    def has_ended(self) -> bool:
        """Whether the last token stopped the answer, or reached its limit."""
        return bool(self.tokens) and (self.tokens[-1].stop or len(self.tokens) == self._limit)

    def add(self, logits: Tensor) -> Token:
        """Choose the next token.  # (1, V)

        Raises
        ------
        NotANumber
            If the logits are NaN and that is not expected.
        """
        logits = logits.to(self._ids.device)
        if self.first is None:
            self.first = logits[0]
        row = self._process(self._ids, logits)  # type: ignore[arg-type]
        scores = Scores.of(row[0], self._logprobs)
        self._check(scores)
        chosen = self._choose(self._ids, row if self.guide is None else self.guide.limited(row))  # (1,)
        self._ids = torch.cat([self._ids, chosen[:, None]], 1)
        token, logprob = int(chosen), float(scores.logprobs[chosen])
        if self.guide is not None:
            self.guide.took(token)
        is_last = token in self.stops or len(self.tokens) + 1 == self._limit
        piece = self._spelling.add(token, is_last=is_last)
        self.tokens.append(
            Token(
                piece,
                token,
                logprob,
                self._ids.shape[1] - 1,
                tuple((self._decode([each.id]), each.id, each.logprob) for each in scores.best),
                stop=token in self.stops or self._ends_with(piece),
            )
        )
        return self.tokens[-1]

    def _ends_with(self, piece: str) -> bool:
        """Whether a stop text is complete with the next piece; what stands before it are then the answer's words."""
        if not self._stop:
            return False
        said = "".join(token.text for token in self.tokens) + piece
        found = [(said.find(text), text) for text in self._stop if text in said]
        if found:
            place, self.stopped_at = min(found)
            self.text = said[:place].strip()
        return bool(found)

    def said(self) -> tuple[Token, ...]:
        """The tokens where no other follows: part of a character shows what there is of it."""
        *others, last = self.tokens
        return (*others, replace(last, text=last.text + self._spelling.held))

    def _check(self, scores: Scores) -> None:
        if not scores.is_broken:
            return
        if self.broken_at is None:
            self.broken_at = len(self.tokens)
        if not self._may_break:
            raise NotANumber(
                f"the model's logits are no numbers (NaN) at token {self.broken_at} of the answer: its weights are damaged, a hook "
                "broke it, or float16 overflowed; load it again, with dtype='float32' or 'bfloat16'"
            )

    def _decode(self, ids: list[int]) -> str:
        return str(self._family.tokenizer.decode(ids, skip_special_tokens=True))


def stops_of(config: GenerationConfig) -> list[int]:
    """Tokens that end an answer."""
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
