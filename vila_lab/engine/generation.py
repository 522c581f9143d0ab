"""Generation: one question being answered, a token a step, by whoever holds the model. Knows no record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..errors import NotANumber
from ..hooks import Tape
from ..hooks.editing import Editing
from ..hooks.edits import Edit, is_look, looks_before
from ..hooks.joining import tape_of
from ..hooks.recorder import DecoderRecorder
from ..hooks.sinks import ResidualNorms
from ..hooks.sites import select_sites
from ..tokens import Spelling, Token
from ..upstream import logits_processors
from .prefill import read_prompt, stretches_of
from .question import Question
from .reuse import Reuse
from .sampling import Sampling
from .scores import Scores


class Generation:
    """One question being answered.

    Parameters
    ----------
    question
    config : GenerationConfig
        Stop tokens, and what is done to the scores.
    sampling
    limit : int
        Longest answer.
    edits
        Under which it is answered.
    may_break : bool
        Let logits of NaN pass, as an edit may be meant to do that.
    reuse : callable
        Gives what is kept of pictures and of beginnings of prompts, or None; asked once, before anything of this run is in the
        model.

    Attributes
    ----------
    tokens : list of Token
        The answer so far.
    first : Tensor (V,) or None
        What the prompt's last row said.
    broken_at : int or None
        The first token whose logits were no numbers.
    """

    def __init__(
        self,
        question: Question,
        config: GenerationConfig,
        sampling: Sampling,
        limit: int,
        edits: Sequence[Edit] = (),
        *,
        may_break: bool = False,
        reuse: Callable[[], Reuse | None],
    ) -> None:
        family = question.family
        layers = family.decoder_layers
        self.tokens: list[Token] = []
        self.first: Tensor | None = None
        self.broken_at: int | None = None
        self.norms = ResidualNorms(layers[len(layers) // 2])
        self._question = question
        self._limit = limit
        self._may_break = may_break
        self._usable = reuse
        self._reuse: Reuse | None = None
        self._cuts: tuple[int, ...] = ()
        self._stops = _stops(config)
        self._edits = tuple(edits)
        self._editing = Editing(family.model, edits)
        self._recorder = DecoderRecorder(select_sites(family.model, ("text",))["text"])
        self._cache = family.new_cache()
        self._ids = question.prepared.inputs["input_ids"]  # (1, T), what was said included
        self._process = logits_processors(family.model, config, self._ids.shape[1])
        self._choose = sampling.chooser(config)
        self._spelling = Spelling(self._decode)

    @property
    def has_ended(self) -> bool:
        """Whether the last token stopped the answer, or reached its limit."""
        return bool(self.tokens) and (self.tokens[-1].stop or len(self.tokens) == self._limit)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """What records and edits is in the model inside; the block may be entered again for the tokens to come."""
        with torch.no_grad():
            if not self.tokens:
                self._begin()
        with torch.no_grad(), self._editing, self._recorder.watching(), self.norms:
            yield

    def step(self) -> Token:
        """The next token; inside `in_the_model`.

        Raises
        ------
        NotANumber
            If the model's logits are NaN and that is not expected.
        """
        logits = self._forward()  # (1, V)
        if self.first is None:
            self.first = logits[0]
        row = self._process(self._ids, logits)  # type: ignore[arg-type]
        scores = Scores.of(row[0])
        self._check(scores)
        chosen = self._choose(self._ids, row)  # (1,)
        self._ids = torch.cat([self._ids, chosen[:, None]], 1)
        token, logprob = int(chosen), float(scores.logprobs[chosen])
        is_last = token in self._stops or len(self.tokens) + 1 == self._limit
        self.tokens.append(
            Token(
                self._spelling.add(token, is_last=is_last),
                token,
                logprob,
                self._ids.shape[1] - 1,
                tuple((self._decode([each.id]), each.id, each.logprob) for each in scores.best),
                stop=token in self._stops,
            )
        )
        return self.tokens[-1]

    def said(self) -> tuple[Token, ...]:
        """The tokens where no other follows: part of a character shows what there is of it."""
        *others, last = self.tokens
        return (*others, replace(last, text=last.text + self._spelling.held))

    def tape(self) -> Tape:
        """Queries and keys of the answer; a step that was interrupted left none."""
        length = len(self._question.token_map)
        self._recorder.keep(length + len(self.tokens) - 1)
        return tape_of(self._recorder, length)

    def _begin(self) -> None:
        """Decide how the prompt is read.

        Under edits, and where others have hooks in the model, it is read in one go and nothing is reused: an edited beginning is
        another beginning. Those who only look must not change a bit of the answer either, and yet see a prompt in one go: so if
        they look at what comes before the last cut, they are shown it in a pass of its own.
        """
        question = self._question
        usable = question.known = self._usable()
        if usable is None or not all(map(is_look, self._edits)):
            return
        self._reuse, self._cuts = usable, stretches_of(question)
        if self._cuts and any(looks_before(edit, self._cuts[-1]) for edit in self._edits):
            with Editing(question.model, self._edits):
                question.family.decode(
                    question.embedded, question.family.new_cache(), keep=[len(question.embedded) - 1]
                )
            self._editing = Editing(question.model, self._edits, looks_from=len(question.embedded))

    def _forward(self) -> Tensor:
        """The logits behind all that was said so far.  # (1, V)"""
        if self.tokens:
            place = self._question.embedded.next_position + len(self.tokens) - 1
            row = self._question.family.embed_ids([self.tokens[-1].id], place)
            logits, self._cache = self._question.family.decode(row, self._cache)
        else:
            logits, self._cache = read_prompt(self._question, self._cuts, self._cache, self.norms, self._reuse)
        return logits.to(self._ids.device)

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
        return str(self._question.family.tokenizer.decode(ids, skip_special_tokens=True))


def _stops(config: GenerationConfig) -> list[int]:
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
