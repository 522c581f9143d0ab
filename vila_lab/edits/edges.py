"""Edits of edges: knock-outs, which close them, and steering, which raises or lowers them. Knows no model.

Both act on the scores before the softmax, so the weights that remain are a distribution again by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engine.question import Question
from ..errors import NoEffect, OptionError
from ..hooks.edits import EdgeBias, Edit, Where
from .groups import edge_spans, parse_edge


@dataclass(frozen=True)
class EdgeEdit:
    """A bias on the edges "source -> reader" in some heads.

    Attributes
    ----------
    edge : str
    where : mapping
        Heads by layer.
    value : float
        Added to the scores; -inf closes the edges.
    heads_in_words : str
    """

    edge: str
    where: Where
    value: float
    heads_in_words: str

    def __post_init__(self) -> None:
        parse_edge(self.edge)
        if math.isnan(self.value) or self.value == math.inf:
            raise OptionError(f"the strength of an edge is a finite number, not {self.value}")
        if self.value == 0:
            raise NoEffect(f"steering {self.edge!r} by 0 changes nothing; give another strength")

    @property
    def label(self) -> str:
        what = "knock-out" if self.value == -math.inf else f"steering by {self.value:+g}"
        return f"{what} of {self.edge} in {self.heads_in_words}"

    @property
    def is_edit(self) -> bool:
        return True

    def resolve(self, question: Question) -> list[Edit]:
        source, reader = edge_spans(self.edge, question.token_map)
        return [EdgeBias(source, reader, self.where, self.value)]

    def changes_nothing(self, question: Question) -> bool:
        return False
