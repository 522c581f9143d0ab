"""Guides: which tokens an answer may go on with to keep its form. Knows tokenizers and logits, no model.

JSON is followed by llguidance (the package's extra ``structured``), compact: with free white space a small model writes blanks
to the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingExtra, OptionError
from .form import Form


class Guide(Protocol):
    """Limits what an answer goes on with."""

    def limited(self, scores: Tensor) -> Tensor:
        """The scores with minus infinity where the answer must not go on.  # (1, V)"""
        ...

    def took(self, token: int) -> None:
        """The answer went on with a token."""
        ...


class Script:
    """The one way that an answer goes."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._left = list(ids)

    def limited(self, scores: Tensor) -> Tensor:
        found = torch.full_like(scores, -torch.inf)
        found[:, self._left[0]] = scores[:, self._left[0]]
        return found

    def took(self, token: int) -> None:
        self._left.pop(0)


class Grammar:
    """JSON of a schema, token by token.

    Parameters
    ----------
    matcher
        llguidance's.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def limited(self, scores: Tensor) -> Tensor:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: scores.shape[-1]].astype(bool)).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)

    def took(self, token: int) -> None:
        self._matcher.consume_token(token)


class Guides:
    """Makes the guides of one tokenizer, whose tokens are read once.

    Parameters
    ----------
    tokenizer
    rows : int
        Rows of logits; tokens beyond cannot be said.
    """

    def __init__(self, tokenizer: Any, rows: int) -> None:
        self._tokenizer = tokenizer
        self._rows = rows

    def of(self, form: Form, stops: Sequence[int]) -> Guide:
        """A guide to one answer of a form.

        Raises
        ------
        MissingExtra
            Without llguidance; the message holds the pip line.
        OptionError
            If the schema has something that cannot be followed; the message says what.
        """
        library, tokens = self._library, self._tokens_ending(tuple(stops))
        try:
            grammar = library.LLMatcher.grammar_from_json_schema(form.schema, overrides={"whitespace_flexible": False})
            reason = library.LLMatcher.validate_grammar(grammar, tokens)
        except ValueError as error:
            reason = str(error)
        if reason:
            raise OptionError(f"the schema of response_format cannot be followed: {' '.join(reason.split())}")
        return Grammar(library.LLMatcher(tokens, grammar))

    @cached_property
    def _library(self) -> Any:
        try:
            import llguidance
            import llguidance.hf
        except ImportError as error:
            raise MissingExtra('JSON answers need llguidance: pip install "vila-lab[structured]"') from error
        return llguidance

    def _tokens_ending(self, stops: tuple[int, ...]) -> Any:
        if stops not in self._known:
            if not self._tokenizer.is_fast:
                raise OptionError("JSON answers need a fast tokenizer, which this checkpoint does not have")
            count = max(len(self._tokenizer), self._rows)
            self._known[stops] = self._library.hf.from_tokenizer(
                self._tokenizer, n_vocab=count, eos_token=[stop for stop in stops if stop is not None]
            )
        return self._known[stops]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], Any]:
        return {}
