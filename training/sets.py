"""Turns pooled pictures and questions into training batches in NVILA's own prompt format. Knows the tokenizer, not the network.

One row of a batch is one set of pictures with many questions: the pictures come first and are encoded once, every
question is a branch that sees the pictures and itself but no other branch, and continues the positions of the pictures.
So each branch is exactly a prompt of its own, at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vila_lab.tiny.names import OBJECTS, THINGS

from .pool import CELLS, MOST, Pool
from .questions import Contents, Held, Turn, ask

GRID = CELLS // 2  # visual tokens along one side, after the projector's 2x2 down-sampling
TOKENS = GRID * GRID
MOST_PICTURES = 6
COMPANY_RANGE = range(len(OBJECTS), len(THINGS))

TASK_WEIGHTS = {
    "mixed": {
        "name": 5, "which": 2, "yes_no": 2.5, "same": 2.5, "count": 3, "position": 1.5, "complete": 1, "compare": 0.5, "list": 1.5,
    },
    "singles": {"list": 3, "name": 2.5, "same": 2.5, "compare": 1.5, "count": 1.5, "which": 1, "complete": 0.5, "yes_no": 0.5},
    "odd": {"odd": 2.5, "name": 1.5, "same": 3, "which": 1.5, "count": 2.5, "yes_no": 1, "position": 1, "complete": 0.5, "compare": 0.5},
    "companies": {"complete": 3, "company": 3, "name": 1, "which": 1, "same": 0.7, "yes_no": 0.7},
}  # fmt: skip
# What is still weak near the end, asked more often then: whether two pictures show the same, and listing company marks.
PRACTICE = {
    "mixed": {
        "same": 5, "name": 3, "count": 2.5, "list": 2.5, "yes_no": 2, "which": 1.5, "position": 1.5, "complete": 1, "compare": 1,
    },
    "singles": {"same": 5, "list": 3, "name": 2, "compare": 1.5, "count": 1.5, "which": 1, "complete": 0.5, "yes_no": 0.5},
    "odd": {"same": 5, "odd": 2, "count": 2, "name": 1.5, "which": 1, "yes_no": 1, "position": 1, "compare": 1, "list": 1, "complete": 0.5},
    "companies": {
        "company": 3, "complete": 2, "list": 2, "same": 2, "name": 1, "which": 1, "yes_no": 0.7, "compare": 0.7, "count": 0.5,
    },
}  # fmt: skip

Weights = Mapping[str, float]  # how often each task is asked, beside the others


@dataclass(frozen=True)
class Mixture:
    """How hard the sets are at one moment of the training."""

    single: float  # share of pictures that hold one thing
    pictures: tuple[float, ...]  # weights of 1, 2, ... pictures
    singles: float = 0.0  # share of sets, of those of many pictures, in which nearly every picture holds one thing
    tasks: Mapping[str, Weights] = field(default_factory=lambda: TASK_WEIGHTS)  # by the kind of a set


EASY = Mixture(single=1.0, pictures=(0.08, 0.22, 0.25, 0.45))
FULL = Mixture(single=0.55, pictures=(0.07, 0.13, 0.22, 0.32, 0.13, 0.13))
# Pictures of several things and sets of six are learnt last, and few sets of six can be listed: practise them more.
HARD = Mixture(single=0.45, pictures=(0.05, 0.09, 0.16, 0.28, 0.18, 0.24), singles=0.2)


@dataclass
class Batch:
    """Tensors of B sets of T positions and n pictures each.

    ``reads`` marks, for a name in the text, the visual tokens that show it; ``binds`` the picture that a number names.
    """

    rows: Tensor  # (B, n) rows of the pool
    ids: Tensor  # (B, T), -1 at visual tokens
    positions: Tensor  # (B, T)
    mask: Tensor  # (B, 1, T, T) bool, True where a row may look
    targets: Tensor  # (B, T) next token where it is an answer, else -100
    visual: Tensor  # (T,) index of the visual tokens, the same in every row
    shown: Tensor  # (B, n*36) thing that each visual token shows, -1 background
    named: Tensor  # (B, T) thing that a text token names, -1 none
    bound: Tensor  # (B, T) picture that a number in a question names, -1 none
    held: Tensor  # (B, n, things) bool: which things a picture holds
    place: Tensor  # (B, T, 2) centre of the named thing in the picture asked about, NaN where it does not apply
    turns: list[list[tuple[Turn, int, int]]]  # per row: turn, first and last+1 position of its targets


@dataclass
class _Row:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)
    bound: list[int] = field(default_factory=list)
    place: list[tuple[float, float]] = field(default_factory=list)
    turns: list[tuple[Turn, int, int]] = field(default_factory=list)


class SetSampler:
    """Draws sets of pictures and their questions.

    Parameters
    ----------
    rows
        The rows of the pool that may be used (so that held-out rows stay held out).
    """

    def __init__(self, pool: Pool, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, rows: range) -> None:
        self.pool = pool
        self.rng = rng
        self.encode = lru_cache(200_000)(lambda text: tuple(tokenizer(text).input_ids))
        self.end = self.encode("<|im_end|>")
        self.names = {}
        for index, thing in enumerate(THINGS):
            for form in (thing.name, f" {thing.name}", thing.chinese):
                ids = self.encode(form)
                if len(ids) == 1:
                    self.names[ids[0]] = index
        self.digits = {self.encode(str(k + 1))[0]: k for k in range(MOST_PICTURES)}
        self.by_thing: dict[tuple[int, int], np.ndarray] = {
            key: np.array([r for r in found if r in rows]) for key, found in pool.with_thing.items()
        }
        objects_only = (pool.things < COMPANY_RANGE.start).all(1)
        inside = np.zeros(len(pool), bool)
        inside[rows.start : rows.stop] = True
        self.by_count = {c: np.flatnonzero(inside & objects_only & (pool.counts == c)) for c in range(1, MOST + 1)}

    def contents(self, rows: np.ndarray) -> list[list[Held]]:
        pool = self.pool
        return [
            [
                Held(THINGS[t].name, float(x), float(y))
                for t, (x, y) in zip(pool.things[r], pool.centres[r], strict=True)
                if t >= 0
            ]
            for r in rows
        ]

    def _count(self, single: float) -> int:
        return 1 if self.rng.random() < single else int(self.rng.choice([2, 3, 4], p=[0.68, 0.22, 0.1]))

    def _showing(self, thing: int, count: int) -> int:
        found = self.by_thing.get((thing, count))
        if found is None or len(found) == 0:
            found = self.by_thing[thing, 1]
        return int(self.rng.choice(found))

    def compose(self, n: int, mixture: Mixture) -> tuple[str, np.ndarray]:
        """The kind of a set and its rows in the pool."""
        rng = self.rng
        draw = rng.random()
        if n >= 2 and draw < 0.2:
            companies = rng.choice(list(COMPANY_RANGE), n, replace=False)
            return "companies", np.array([self._showing(int(c), 1) for c in companies])
        if n >= 3 and draw < 0.36:
            things = COMPANY_RANGE if rng.random() < 0.1 else range(len(OBJECTS))
            common, other = (int(t) for t in rng.choice(list(things), 2, replace=False))
            odd = int(rng.integers(n))
            return "odd", np.array([self._showing(other if k == odd else common, 1) for k in range(n)])
        kind, single = ("singles", 0.85) if n >= 3 and draw < 0.36 + mixture.singles else ("mixed", mixture.single)
        theme = int(rng.integers(len(OBJECTS)))
        with_theme = set(rng.permutation(n)[: int(rng.integers(0, n + 1))].tolist())
        rows = []
        for k in range(n):
            if k in with_theme:
                rows.append(self._showing(theme, self._count(single)))
            elif rng.random() < 0.06:
                rows.append(self._showing(int(rng.choice(list(COMPANY_RANGE))), 1))
            else:
                rows.append(int(rng.choice(self.by_count[self._count(single)])))
        return kind, np.array(rows)

    def turn(self, weights: Weights, contents: list[list[Held]]) -> Turn:
        tasks = list(weights)
        chances = np.array(list(weights.values())) / sum(weights.values())
        while True:
            task = tasks[int(self.rng.choice(len(tasks), p=chances))]
            found = ask(task, contents, self.rng, "zh" if self.rng.random() < 0.5 else "en")
            if found is not None:
                return Turn(self._punctuate(found.question), found.answer, found.task, found.picture)

    def _punctuate(self, question: str) -> str:
        """Chinese questions are typed with full-width marks as often as not."""
        if any("\u4e00" <= c <= "\u9fff" for c in question) and self.rng.random() < 0.4:
            return question.replace(",", "\uff0c").replace("?", "\uff1f")
        return question

    def batch(self, size: int, mixture: Mixture, budget: int = 250) -> Batch:
        """``size`` sets of the same number of pictures, each with about ``budget`` tokens of questions and answers."""
        n = int(self.rng.choice(len(mixture.pictures), p=mixture.pictures)) + 1
        style = str(self.rng.choice(["plain", "en", "zh"], p=[0.74, 0.13, 0.13]))
        sets = [self.compose(n, mixture) for _ in range(size)]
        rows = [self._row(mixture.tasks[kind], self.contents(found), style, budget) for kind, found in sets]
        return self._collate(np.stack([found for _, found in sets]), rows, n)

    def prefix(self, n: int, style: str) -> list[int]:
        """Everything up to the question: -1 stands for a visual token."""
        ids = list(self.encode("<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n"))
        for k in range(n):
            label = {"plain": "", "en": f"Image {k + 1}: ", "zh": f"图像{k + 1}:"}[style]
            ids += [*self.encode(label), *([-1] * TOKENS), *self.encode("\n")]
        return ids

    def _row(self, weights: Weights, contents: list[list[Held]], style: str, budget: int) -> _Row:
        row = _Row()
        prefix = self.prefix(len(contents), style)
        self._extend(row, prefix, 0, 0, contents, None, learn=False, question=False)
        branch = 0
        while len(row.ids) < len(prefix) + budget:
            branch += 1
            start = len(prefix)
            turns = 1 if self.rng.random() < 0.75 else int(self.rng.integers(2, 4))
            for k in range(turns):
                turn = self.turn(weights, contents)
                if k:
                    start = self._extend(
                        row,
                        self.encode("\n<|im_start|>user\n"),
                        start,
                        branch,
                        contents,
                        None,
                        learn=False,
                        question=False,
                    )
                start = self._extend(
                    row, self.encode(turn.question), start, branch, contents, turn, learn=False, question=True
                )
                start = self._extend(
                    row,
                    self.encode("<|im_end|>\n<|im_start|>assistant\n"),
                    start,
                    branch,
                    contents,
                    None,
                    learn=False,
                    question=False,
                )
                first = len(row.ids) - 1
                start = self._extend(
                    row,
                    (*self.encode(turn.answer), *self.end),
                    start,
                    branch,
                    contents,
                    None,
                    learn=True,
                    question=False,
                )
                row.turns.append((turn, first, len(row.ids) - 1))
        return row

    def _extend(
        self,
        row: _Row,
        ids: Sequence[int],
        start: int,
        branch: int,
        contents: Contents,
        turn: Turn | None,
        *,
        learn: bool,
        question: bool,
    ) -> int:
        """Append tokens of one branch at positions from ``start`` on; returns the next free position."""
        for token in ids:
            if learn:
                row.targets[-1] = token  # the position before a token predicts it
            row.ids.append(token)
            row.positions.append(start)
            row.branch.append(branch)
            row.targets.append(-100)
            named = self.names.get(token, -1) if branch else -1
            row.named.append(named)
            row.bound.append(self.digits.get(token, -1) if question else -1)
            row.place.append(self._place(named, contents, turn))
            start += 1
        return start

    @staticmethod
    def _place(named: int, contents: Contents, turn: Turn | None) -> tuple[float, float]:
        if turn is None or named < 0 or turn.task != "position" or turn.picture is None:
            return float("nan"), float("nan")
        found = [held for held in contents[turn.picture] if held.name == THINGS[named].name]
        return (found[0].x, found[0].y) if len(found) == 1 else (float("nan"), float("nan"))

    def _collate(self, found: np.ndarray, rows: list[_Row], n: int) -> Batch:
        longest = max(len(row.ids) for row in rows)

        def stack(name: str, fill: float, dtype: torch.dtype) -> Tensor:
            filled = [list(getattr(row, name)) + [fill] * (longest - len(row.ids)) for row in rows]
            return torch.tensor(filled, dtype=dtype)

        branch = stack("branch", -2, torch.long)
        same = branch[:, :, None] == branch[:, None, :]
        mask = (same | (branch == 0)[:, None, :]) & torch.ones(longest, longest, dtype=torch.bool).tril()
        ids = stack("ids", 0, torch.long)
        visual = torch.nonzero(ids[0] == -1).flatten()
        labels = torch.from_numpy(coarse(self.pool.labels[found])).flatten(1)  # (B, n*36)
        held = torch.zeros(len(rows), n, len(THINGS), dtype=torch.bool)
        for b, per_set in enumerate(found):
            for k, r in enumerate(per_set):
                held[b, k, [int(t) for t in self.pool.things[r] if t >= 0]] = True
        none = float("nan")
        place = torch.tensor([list(row.place) + [(none, none)] * (longest - len(row.ids)) for row in rows])
        return Batch(
            rows=torch.from_numpy(found),
            ids=ids,
            positions=stack("positions", 0, torch.long),
            mask=mask[:, None],
            targets=stack("targets", -100, torch.long),
            visual=visual,
            shown=labels,
            named=stack("named", -1, torch.long),
            bound=stack("bound", -1, torch.long),
            held=held,
            place=place,
            turns=[row.turns for row in rows],
        )


def coarse(labels: np.ndarray) -> np.ndarray:
    """The thing that each visual token shows: the foreground label that most of its 2x2 patches have.  # (..., 12, 12) -> (..., 36)"""
    *lead, side, _ = labels.shape
    quads = labels.reshape(*lead, side // 2, 2, side // 2, 2).swapaxes(-3, -2).reshape(*lead, TOKENS, 4)
    votes = (quads[..., :, None] == quads[..., None, :]).sum(-1) * (quads >= 0)
    best = np.take_along_axis(quads, votes.argmax(-1)[..., None], -1)[..., 0]
    return np.where(votes.max(-1) > 0, best, -1).astype(np.int64)
