"""Edits of heads: scaling and ablating what they hand to the output projection. Knows no edges and no pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from ..engine.question import Question
from ..errors import NoEffect, OptionError
from ..hooks.edits import Edit, HeadConstant, HeadOutputLook, HeadScale, Where
from ..hooks.spans import Span
from .groups import reader_span

Ablation: TypeAlias = Literal["zero", "mean"]
ABLATIONS: tuple[str, ...] = get_args(Ablation)


@dataclass(frozen=True)
class ScaledHeads:
    """Heads times a factor, in some rows."""

    where: Where
    factor: float
    rows: str | tuple[int, ...]
    heads_in_words: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise OptionError(f"the factor of a head is a finite number, not {self.factor}")

    @property
    def label(self) -> str:
        what = "ablation (zero)" if self.factor == 0 else f"scaling by {self.factor:g}"
        return f"{what} of {self.heads_in_words}{_rows_in_words(self.rows)}"

    @property
    def is_edit(self) -> bool:
        return True

    def resolve(self, question: Question) -> list[Edit]:
        return [HeadScale(self.where, self.factor, _rows(self.rows, question))]

    def changes_nothing(self, question: Question) -> bool:
        return self.factor == 1


@dataclass(frozen=True)
class MeanHeads:
    """Heads replaced by the mean of what they hand on over this prompt's positions, unedited, in some rows."""

    where: Where
    rows: str | tuple[int, ...]
    heads_in_words: str

    @property
    def label(self) -> str:
        return f"ablation (mean over the prompt) of {self.heads_in_words}{_rows_in_words(self.rows)}"

    @property
    def is_edit(self) -> bool:
        return True

    def resolve(self, question: Question) -> list[Edit]:
        means: dict[int, Tensor] = {}

        def keep(layer: int, output: Tensor) -> None:
            means[layer] = output[0].float().mean(0)  # (H, D)

        question.last_row([HeadOutputLook(keep, tuple(self.where))])
        return [HeadConstant(self.where, means, _rows(self.rows, question))]

    def changes_nothing(self, question: Question) -> bool:
        return False


def _rows(rows: str | Sequence[int], question: Question) -> Span:
    found = reader_span(rows, question.token_map)
    if not found:
        raise NoEffect(f"rows={rows!r} has no positions in this prompt")
    return found


def _rows_in_words(rows: str | Sequence[int]) -> str:
    if not isinstance(rows, str):
        return f" in {len(rows)} rows"
    return "" if rows in ("all", "*") else f" in the rows of {rows}"
