"""A prompt as its processor laid it out, and the token map that follows. Knows spans of text and rows, no model and no template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tokenmap import Kind, TokenMap
from .geometry import Rows
from .rendering import Rendered


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A tokenised prompt.

    Attributes
    ----------
    rendered
        The text before anything was put in the place of pictures' markers.
    spans : (T, 2) array
        Characters of each position in the text in which it was; equal where it has none.
    visual : (T,) array
        Which positions come from pictures.
    ends : (T,) array
        Which hold a token that ends an answer.
    blocks : (T,) array
        See `vila_lab.tokenmap.TokenMap.block`.
    sizes : tuple of (width, height)
    brackets : int
        Positions around each picture's that belong to it, and that the template wrote.
    """

    rendered: Rendered
    spans: NDArray[np.int64]
    visual: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    blocks: NDArray[np.int32]
    sizes: tuple[tuple[int, int], ...]
    brackets: int

    def token_map(self, replaced: Sequence[Mapping[str, Any]], rows_of: Callable[..., Rows]) -> TokenMap:
        """What every position is.

        Parameters
        ----------
        replaced
            What was put in the place of each marker: ``span`` in `rendered`, ``new_span`` in the text of `spans`, and
            ``replacement``.
        rows_of
            Gives the rows of a picture, told ``number``, ``count``, ``size``, ``rows`` and ``replacement``.
        """
        length = len(self.spans)
        kind = np.full(length, Kind.TEMPLATE, np.int8)
        picture, tile, scale = (np.full(length, -1, np.int32) for _ in range(3))
        box = np.full((length, 4), np.nan)
        has_span = self.spans[:, 1] > self.spans[:, 0]
        own = self.spans.copy()  # in the text as it was rendered
        for number, each in enumerate(sorted(replaced, key=lambda each: each["new_span"])):
            (start, stop), (first, last) = each["new_span"], each["span"]
            mine = np.flatnonzero(has_span & (self.spans[:, 0] >= start) & (self.spans[:, 1] <= stop))
            shown = mine[self.visual[mine]]
            rows = rows_of(
                number=number,
                count=len(self.sizes),
                size=self.sizes[number],
                rows=len(shown),
                replacement=each["replacement"],
            )
            block = slice(mine[0] - self.brackets, mine[-1] + 1 + self.brackets)
            kind[block], picture[block] = Kind.SEPARATOR, number
            kind[shown] = np.where(np.isnan(rows.box[:, 0]), Kind.SEPARATOR, Kind.IMAGE)
            tile[shown], scale[shown], box[shown] = rows.tile, rows.scale, rows.box
            own[mine] = first, last
            behind = self.spans[:, 0] >= stop
            own[behind] = self.spans[behind] - (stop - last)
        own[~has_span] = -1
        self._name_words(kind, own)
        text, spans = self.rendered.text, own.astype(np.int32)
        return TokenMap(kind, picture, tile, scale, box, spans, text, self.sizes, self.blocks)

    def _name_words(self, kind: NDArray[np.int8], own: NDArray[np.int64]) -> None:
        """What was typed, and what the model said earlier with the token that ended it."""
        template = kind == Kind.TEMPLATE
        for start, stop in self.rendered.typed:
            kind[template & (own[:, 0] < stop) & (own[:, 1] > start)] = Kind.TEXT
        for start, stop in self.rendered.replies:
            said = template & (own[:, 0] < stop) & (own[:, 1] > start)
            kind[said | (template & self.ends & (own[:, 0] == stop))] = Kind.REPLY
