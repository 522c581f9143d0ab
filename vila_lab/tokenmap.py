"""TokenMap: what each position of the decoder's sequence is, down to the pixels. Knows no model and no torch.

Everything that is asked about an answer is asked in the terms of this map: token k, image i, this box of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import OptionError, PromptError
from .pointing import WhichPicture, check_group, picture_index

if TYPE_CHECKING:
    import pandas as pd

FINEST_GRID = 192  # cells along one side of a heatmap, at most


class Kind(IntEnum):
    """What a position holds."""

    TEMPLATE = 0  # the conversation's template and system prompt
    TEXT = 1  # what the user wrote
    IMAGE = 2  # a visual token
    SEPARATOR = 3  # a row that the model puts around a picture's visual tokens
    ANSWER = 4  # a generated token
    REPLY = 5  # what the model said earlier in the conversation, with the token that ended it


@dataclass(frozen=True, eq=False)
class TokenMap:
    """The positions of one sequence: prompt, pictures, answer.

    Attributes
    ----------
    kind : (T,) int8
        A `Kind` for each position.
    picture, tile, scale : (T,) int32
        For visual tokens (and, for ``picture``, the separators around them) which picture, which tile of it and which
        scale, counted from 0; -1 elsewhere.
    box : (T, 4) float64
        x0, y0, x1, y1 in pixels of the ORIGINAL picture that a visual token covers; NaN elsewhere.
    span : (T, 2) int32
        Start and end of the token's characters in ``text``; -1, -1 where it has none.
    text : str
        The rendered prompt, one image marker for every block of visual tokens.
    sizes : tuple of (width, height)
        The original pictures' sizes in pixels.
    block : (T,) int32
        Number of the block whose positions see each other both ways, as those of a picture do in some families; -1 elsewhere,
        where a position sees only what stands before it. May be left out.

    Examples
    --------
    >>> tokens = TokenMap.build(
    ...     text="<image>cat?", kinds=[2, 2, 3, 1], spans=[(0, 7), (0, 7), (-1, -1), (7, 11)], sizes=[(20, 10)],
    ...     picture=[0, 0, 0, -1], tile=[0, 0, -1, -1], scale=[0, 0, -1, -1], box=[(0, 0, 10, 10), (10, 0, 20, 10), None, None])
    >>> tokens.tokens_in(0, (12, 3, 14, 5))
    array([1])
    >>> tokens.heatmap([0.25, 0.5, 0.0, 0.0], picture=0)
    array([[0.25, 0.5 ]])
    >>> tokens.n_pictures, tokens.n_turns, tokens.prompt_length, tokens.turn.tolist(), tokens.replies.tolist()
    (1, 1, 4, [0, 0, 0, 0], [])
    >>> tokens.kind.tolist(), tokens.picture.tolist(), tokens.sizes, tokens.box[1].tolist(), tokens.span[3].tolist()
    ([2, 2, 3, 1], [0, 0, 0, -1], ((20, 10),), [10.0, 0.0, 20.0, 10.0], [7, 11])
    >>> tokens.text, tokens.tile.tolist(), tokens.scale.tolist(), tokens.block.tolist()
    ('<image>cat?', [0, 0, -1, -1], [0, 0, -1, -1], [-1, -1, -1, -1])
    """

    kind: NDArray[np.int8]
    picture: NDArray[np.int32]
    tile: NDArray[np.int32]
    scale: NDArray[np.int32]
    box: NDArray[np.float64]
    span: NDArray[np.int32]
    text: str
    sizes: tuple[tuple[int, int], ...]
    block: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def build(
        cls,
        *,
        text: str,
        kinds: Sequence[int],
        spans: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
        picture: Sequence[int],
        tile: Sequence[int],
        scale: Sequence[int],
        box: Sequence[tuple[float, float, float, float] | None],
    ) -> TokenMap:
        """A map from plain sequences; ``box`` is None where a position covers no pixels.

        Examples
        --------
        >>> TokenMap.build(text="cat", kinds=[1], spans=[(0, 3)], sizes=[], picture=[-1], tile=[-1], scale=[-1], box=[None])
        TokenMap(1 positions: 1 text; 0 pictures)
        """
        nothing = (np.nan,) * 4
        return cls(
            kind=np.asarray(kinds, np.int8),
            picture=np.asarray(picture, np.int32),
            tile=np.asarray(tile, np.int32),
            scale=np.asarray(scale, np.int32),
            box=np.array([nothing if b is None else b for b in box], np.float64).reshape(-1, 4),
            span=np.asarray(spans, np.int32).reshape(-1, 2),
            text=text,
            sizes=tuple((int(w), int(h)) for w, h in sizes),
        )

    def __post_init__(self) -> None:
        if not self.block.size:
            object.__setattr__(self, "block", np.full(len(self.kind), -1, np.int32))
        names = ("kind", "picture", "tile", "scale", "box", "span", "block")
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) != 1:
            raise PromptError(f"the fields of a token map must have one length, but have {lengths}")
        if self.picture.max(initial=-1) >= len(self.sizes):
            raise PromptError(
                f"a position belongs to picture {self.picture.max() + 1}, but only {len(self.sizes)} sizes are given"
            )

    def __len__(self) -> int:
        return len(self.kind)

    def __repr__(self) -> str:
        counts = {kind.name.lower(): int((self.kind == kind).sum()) for kind in Kind}
        held = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"TokenMap({len(self)} positions: {held}; {self.n_pictures} pictures)"

    @property
    def n_pictures(self) -> int:
        """How many pictures the prompt has."""
        return len(self.sizes)

    @cached_property
    def prompt_length(self) -> int:
        """Number of positions before the first generated token."""
        return int((self.kind != Kind.ANSWER).sum())

    @cached_property
    def turn(self) -> NDArray[np.int32]:
        """Which turn of the conversation each position belongs to, from 0: question, pictures and reply; -1 elsewhere.  # (T,)"""
        ended = np.searchsorted(self.replies[:, 1], np.arange(len(self)), side="right")
        return np.where(np.isin(self.kind, (Kind.TEMPLATE, Kind.ANSWER)), -1, ended).astype(np.int32)

    @cached_property
    def replies(self) -> NDArray[np.int64]:
        """Begin and end of the replies to earlier turns; the prompt of a turn ended where its reply begins.  # (turns - 1, 2)"""
        is_reply = np.concatenate([[False], self.kind == Kind.REPLY, [False]])
        return np.flatnonzero(is_reply[1:] != is_reply[:-1]).reshape(-1, 2)

    @property
    def n_turns(self) -> int:
        """Turns of the conversation, the question itself included."""
        return len(self.replies) + 1

    def with_answer(self, count: int) -> TokenMap:
        """The same map with ``count`` generated positions behind the prompt (replacing any that are there).

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> len(tokens.with_answer(0)) == tokens.prompt_length
        True
        """
        prompt = self.prompt_length

        def extend(values: NDArray[Any], fill: float) -> NDArray[Any]:
            tail = np.full((count, *values.shape[1:]), fill, values.dtype)
            return np.concatenate([values[:prompt], tail])

        return replace(
            self,
            kind=extend(self.kind, Kind.ANSWER),
            picture=extend(self.picture, -1),
            tile=extend(self.tile, -1),
            scale=extend(self.scale, -1),
            box=extend(self.box, np.nan),
            span=extend(self.span, -1),
            block=extend(self.block, -1),
        )

    def same_positions(self, other: TokenMap) -> bool:
        """Whether both have the same kinds of positions, of the same pictures and tiles, in the same order.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.same_positions(tokens.with_answer(0))
        False
        """
        fields = ("kind", "picture", "tile", "scale")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in fields)

    # ---- groups of positions -------------------------------------------------------------------------------------

    def positions(self, group: str) -> NDArray[np.int64]:
        """Positions of a named group.

        Parameters
        ----------
        group
            ``image_k`` (visual tokens of picture k, counted from 1), ``images``, ``prompt`` (everything before the
            answer that is no visual token), ``text`` (what the user wrote), ``template``, ``separators``, ``answer``, ``all``;
            in a conversation ``turn_k`` (question, pictures and reply of turn k, counted from 1) and ``replies``.

        Raises
        ------
        OptionError
            If there is no such group.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> len(tokens.positions("image_1")), len(tokens.positions("answer"))
        (36, 3)
        """
        check_group(group)
        if group.startswith("image_"):
            return np.flatnonzero((self.kind == Kind.IMAGE) & (self.picture == picture_index(group, self.n_pictures)))
        if found := re.fullmatch(r"turn_(\d+)", group):
            index = int(found[1]) - 1
            if not 0 <= index < self.n_turns:
                raise OptionError(f"there is no {group}: the conversation has {self.n_turns} turns, counted from 1")
            return np.flatnonzero(self.turn == index)
        masks: dict[str, NDArray[np.bool_]] = {
            "images": self.kind == Kind.IMAGE,
            "prompt": (self.kind != Kind.IMAGE) & (self.kind != Kind.ANSWER),
            "text": self.kind == Kind.TEXT,
            "template": self.kind == Kind.TEMPLATE,
            "separators": self.kind == Kind.SEPARATOR,
            "answer": self.kind == Kind.ANSWER,
            "replies": self.kind == Kind.REPLY,
            "all": np.ones(len(self), bool),
        }
        return np.flatnonzero(masks[group])

    def rows_of(self, picture: WhichPicture) -> NDArray[np.int64]:
        """Positions whose content comes from a picture: its visual tokens, and padding that shows none of its pixels.

        What stands in a picture's place must stand in all of them: attention inside the tower carries the picture into its
        padding too.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> len(tokens.rows_of("image_1"))
        36
        """
        return np.flatnonzero((self.picture == picture_index(picture, self.n_pictures)) & (self.tile >= 0))

    def share_block(self, some: ArrayLike, others: ArrayLike) -> bool:
        """Whether one of some positions and one of others are in the same `block`, so that they see each other both ways.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.share_block([0], [1])
        False
        """
        first, second = (self.block[np.asarray(each, np.int64)] for each in (some, others))
        return bool(np.intersect1d(first[first >= 0], second[second >= 0]).size)

    def indicator(self, groups: Sequence[str]) -> NDArray[np.float32]:
        """One column per group, 1 where a position belongs to it.  # (T, groups)

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.indicator(["image_1", "answer"]).sum(0).tolist()
        [36.0, 3.0]
        """
        table = np.zeros((len(self), len(groups)), np.float32)
        for column, group in enumerate(groups):
            table[self.positions(group), column] = 1
        return table

    def tokens_in(self, picture: WhichPicture, box: tuple[float, float, float, float]) -> NDArray[np.int64]:
        """Positions of a picture's visual tokens whose boxes overlap a box (x0, y0, x1, y1) of original pixels.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> len(tokens.tokens_in("image_1", (0, 0, 10, 10)))
        1
        """
        number = picture_index(picture, self.n_pictures)
        x0, y0, x1, y1 = box
        if not (x0 < x1 and y0 < y1):
            raise OptionError(f"the box {box} is empty: give x0 < x1 and y0 < y1, in pixels of the original picture")
        mine = (self.kind == Kind.IMAGE) & (self.picture == number)
        with np.errstate(invalid="ignore"):  # positions without a box hold NaN and meet nothing
            meets = (self.box[:, 0] < x1) & (self.box[:, 2] > x0) & (self.box[:, 1] < y1) & (self.box[:, 3] > y0)
        return np.flatnonzero(mine & meets)

    # ---- pictures ------------------------------------------------------------------------------------------------

    def grid(self, picture: WhichPicture) -> tuple[int, int]:
        """Rows and columns of the coarsest even grid on which every token's box of this picture starts and ends.

        Where no even grid of at most 192 cells fits (7 x 7 patches merged by two, say), the finest one is taken.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.grid("image_1")
        (6, 6)
        """
        number = picture_index(picture, self.n_pictures)
        boxes = self._boxes(number)
        width, height = self.sizes[number]
        return _even_cells(boxes[:, [1, 3]] / height), _even_cells(boxes[:, [0, 2]] / width)

    def heatmap(
        self, values: ArrayLike, picture: WhichPicture, grid: tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """Spread the values of a picture's tokens over the picture, in its own geometry.

        Each token's value is spread evenly over its box, so the heatmap sums to the sum of the values, whatever the
        tiling: tiles, thumbnail and scales that show the same place add up there.

        Parameters
        ----------
        values : (T,) or (..., T)
            A value for every position; only this picture's visual tokens count. A map longer than ``values`` (an answer
            behind a prompt) is fine.
        grid
            (rows, columns) of the heatmap; by default `grid`.

        Returns
        -------
        (..., rows, columns) array over the original picture.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.heatmap(tokens.indicator(["image_1"])[:, 0], "image_1").sum().round().item()
        36.0
        """
        return self.spread(picture, grid).of(values)

    def spread(self, picture: WhichPicture, grid: tuple[int, int] | None = None) -> Spread:
        """`heatmap` of one picture, for many values: where its tokens lie on the grid is found out once.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> spread = answer.token_map.spread("image_1")
        >>> spread.of(answer.token_map.indicator(["image_1"])[:, 0]).shape
        (6, 6)
        """
        number = picture_index(picture, self.n_pictures)
        rows, columns = self.grid(number) if grid is None else grid
        boxes = self._boxes(number)
        width, height = self.sizes[number]
        down = _overlap_shares(boxes[:, [1, 3]] / height, rows)
        across = _overlap_shares(boxes[:, [0, 2]] / width, columns)
        return Spread(number, self.positions(f"image_{number + 1}"), down, across)

    def _boxes(self, picture: int) -> NDArray[np.float64]:
        return np.asarray(self.box[self.positions(f"image_{picture + 1}")])

    # ---- as a table ----------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """One row per position: kind, picture (from 1), tile, scale, box and characters.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> int((tokens.to_frame().kind == "image").sum())
        36
        """
        import pandas as pd

        frame = pd.DataFrame(
            {
                "kind": [Kind(k).name.lower() for k in self.kind],
                "picture": [int(p) + 1 if p >= 0 else None for p in self.picture],
                "tile": [int(t) if t >= 0 else None for t in self.tile],
                "scale": [int(s) if s >= 0 else None for s in self.scale],
                "text": [self.text[a:b] if a >= 0 else "" for a, b in self.span],
            }
        )
        frame[["x0", "y0", "x1", "y1"]] = self.box
        frame.index.name = "position"
        return frame


@dataclass(frozen=True, eq=False)
class Spread:
    """How the tokens of one picture lie on a grid over it; see `TokenMap.spread`.

    Attributes
    ----------
    picture : int
        Counted from 0.
    positions : (N,) int64
        Of its visual tokens.
    down, across : (N, rows), (N, columns) float64
        What share of each token's box falls into each row and each column.
    """

    picture: int
    positions: NDArray[np.int64]
    down: NDArray[np.float64]
    across: NDArray[np.float64]

    def of(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values of all positions over the picture; see `TokenMap.heatmap`.  # (..., T) -> (..., rows, columns)

        Raises
        ------
        OptionError
            If the values end before the picture does.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> tokens = answer.token_map
        >>> tokens.spread("image_1").of(tokens.indicator(["image_1"]).T).shape
        (1, 6, 6)
        """
        table = np.asarray(values, np.float64)
        if self.positions.size and table.shape[-1] <= self.positions[-1]:
            raise OptionError(
                f"the values have {table.shape[-1]} positions, but picture {self.picture + 1} reaches to position {self.positions[-1]}"
            )
        rows = table[..., None, self.positions] * self.down.T  # (..., rows, N)
        return np.asarray(rows @ self.across)


def _even_cells(edges: NDArray[np.float64]) -> int:
    """Smallest number of equal cells whose borders include every edge (edges are shares of the side)."""
    inner = np.unique(np.round(edges, 9))
    for cells in range(1, FINEST_GRID + 1):
        scaled = inner * cells
        if np.abs(scaled - np.round(scaled)).max(initial=0.0) < 1e-6 * cells:
            return cells
    return FINEST_GRID


def _overlap_shares(intervals: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """What share of each interval falls into each of ``cells`` equal parts of [0, 1].  # (N, 2) -> (N, cells)"""
    borders = np.linspace(0, 1, cells + 1)
    start, end = intervals[:, :1], intervals[:, 1:]
    overlap = np.minimum(end, borders[1:]) - np.maximum(start, borders[:-1])
    shares = np.clip(overlap, 0, None) / (end - start)
    return np.where(shares < 1e-9, 0.0, shares)  # borders that differ by rounding only do not overlap
