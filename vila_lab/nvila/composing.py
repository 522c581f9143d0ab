"""One prompt: from parts, or from a rendered text with its pictures, to a layout of positions. Knows a tokenizer, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vila_lab.nvila.conversation import render, turn_starts
from vila_lab.nvila.expanding import expanded
from vila_lab.nvila.layout import BlockGeometry, PromptLayout, TokenGrid, picture_blocks
from vila_lab.nvila.markers import marker, moved, with_markers
from vila_lab.nvila.messages import plain_parts
from vila_lab.nvila.prompting import AssembledTurn, assemble, pictures_of
from vila_lab.nvila.replies import Reply
from vila_lab.nvila.tiling import TilingOptions, tiled_pictures

__all__ = ["Composed", "Composer"]


@dataclass(frozen=True)
class Composed:
    """One prompt before it is padded: its layout, its pictures, how they are cut, and what is to be generated."""

    layout: PromptLayout
    pictures: Sequence[Image.Image]
    tiled: Sequence[bool]  # for each picture
    generated: np.ndarray | None = None  # (T,) 1 where a template's generation block is


@dataclass(frozen=True)
class Composer:
    """How a checkpoint lays out a prompt.

    Attributes
    ----------
    tokenizer
    image_token_id : int
        What the tokenizer makes of a marker.
    grid : TokenGrid
        How a tile becomes tokens.
    separated_by
        What stands before and behind each block of visual tokens.
    tiling : TilingOptions
        How pictures are cut.
    """

    tokenizer: Any
    image_token_id: int
    grid: TokenGrid
    separated_by: tuple[str | None, str | None]
    tiling: TilingOptions

    def parts(self, parts: Any, mode: str, *, tile_all: bool = False, tile_first: bool = False) -> Composed:
        """From the parts of one turn or messages, written by the template `mode`; see `NVILAProcessor.prepare`."""
        parts = plain_parts(parts)
        pictures = pictures_of(parts)
        tiled = tiled_pictures(len(pictures), tile_all, tile_first)
        geometry = self._geometry(pictures, tiled)
        markers = self._markers(geometry, tiled)
        assembled = assemble(parts, markers.__getitem__)
        turns = [turn.turn for turn in assembled]
        text = render(self.tokenizer, turns, mode)
        starts = turn_starts(self.tokenizer, turns, mode, text)
        spans = [
            (start + a, start + b)
            for start, turn in zip(starts, assembled, strict=True)
            if start >= 0
            for a, b in turn.spans
        ]
        replies = self._replies(assembled, starts, mode, text)
        return Composed(self._expanded(text, geometry, spans, replies=replies), pictures, tiled)

    def text(
        self,
        text: str,
        pictures: Sequence[Image.Image],
        *,
        tile_all: bool = False,
        special: bool = True,
        generated: Sequence[tuple[int, int]] | None = None,
        typed: Sequence[tuple[int, int]] = (),
    ) -> Composed:
        """From a rendered text with one ``<image>`` per picture.

        Parameters
        ----------
        special
            Whether the tokenizer adds its own specials.
        generated
            Characters that a model is to generate; None where nobody asks.
        typed
            Characters that a user wrote.
        """
        tiled = tiled_pictures(len(pictures), tile_all)
        geometry = self._geometry(pictures, tiled)
        markers = self._markers(geometry, tiled)
        layout = self._expanded(with_markers(text, markers), geometry, moved(typed, text, markers), special=special)
        inside = None if generated is None else _inside(layout.offsets, moved(generated, text, markers))
        return Composed(layout, pictures, tiled, inside)

    def _geometry(self, pictures: Sequence[Image.Image], tiled: Sequence[bool]) -> list[list[BlockGeometry]]:
        return [
            picture_blocks(k, *picture.size, self.tiling, self.grid, tiled=tiled[k])
            for k, picture in enumerate(pictures)
        ]

    def _markers(self, geometry: Sequence[Sequence[BlockGeometry]], tiled: Sequence[bool]) -> list[str]:
        mode = self.tiling.mode
        return [marker(len(blocks), tiled=cut, mode=mode) for blocks, cut in zip(geometry, tiled, strict=True)]

    def _replies(self, assembled: Sequence[AssembledTurn], starts: Sequence[int], mode: str, text: str) -> list[Reply]:
        """What the model said in earlier turns, each from where the prompt of its turn ended."""
        turns = [turn.turn for turn in assembled]
        found = []
        for number, (turn, start) in enumerate(zip(assembled, starts, strict=True)):
            if turn.role != "assistant" or start < 0:
                continue
            prompt = render(self.tokenizer, turns[:number], mode)
            begins = len(prompt) if len(prompt) <= start and text.startswith(prompt) else start
            found.append(Reply(begins, start + len(turn.text), turn.ids))
        return found

    def _expanded(
        self,
        text: str,
        geometry: Sequence[Sequence[BlockGeometry]],
        spans: list[tuple[int, int]],
        *,
        special: bool = True,
        replies: Sequence[Reply] = (),
    ) -> PromptLayout:
        return expanded(
            text,
            [block for blocks in geometry for block in blocks],
            spans,
            tokenizer=self.tokenizer,
            image_token_id=self.image_token_id,
            separated_by=self.separated_by,
            special=special,
            replies=replies,
        )


def _inside(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:  # (T, 2) -> (T,)
    start, stop = offsets[:, 0], offsets[:, 1]
    inside = np.zeros(len(offsets), dtype=bool)
    for first, last in spans:
        inside |= (start < last) & (stop > first)
    return inside.astype(np.int64)
