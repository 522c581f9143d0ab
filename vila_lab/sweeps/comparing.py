"""Two sweeps of the same questions side by side: accuracy, flips, where the shares went. Knows two tables of rows, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError
from .scores import PICTURE, accuracy, methods_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Compared", "compared"]


@dataclass(frozen=True, eq=False)
class Compared:
    """What differs between two sweeps.

    Attributes
    ----------
    rows : DataFrame
        The questions that both have: answer, right, confidence and each method's numbers of both, with endings _1 and _2, and
        `flip`: "right to wrong", "wrong to right", "other answer" or "".
    accuracy : DataFrame
        count, right, share and its 95 % interval, a row for each sweep, of these questions.
    flips : Series
        How many questions of each flip.
    shares : DataFrame
        For each method that both have: how often they name the same picture, and by how much the pictures' numbers differ in the
        mean, in the method's own unit.
    """

    rows: pd.DataFrame
    accuracy: pd.DataFrame
    flips: pd.Series[int]
    shares: pd.DataFrame

    def __repr__(self) -> str:
        return f"{len(self.rows)} questions in common\n{self.accuracy.to_string()}\n{self.flips.to_string()}\n{self.shares.to_string()}"

    def _repr_html_(self) -> str:
        tables = self.accuracy.to_html(), self.flips.to_frame("questions").to_html(), self.shares.to_html()
        return f"<div>{len(self.rows)} questions in common{''.join(tables)}</div>"


def compared(first: pd.DataFrame, second: pd.DataFrame) -> Compared:
    """Two tables of `Sweep.frame`, matched row by row.

    Raises
    ------
    OptionError
        If they have no question in common, or what names a question stands twice.
    """
    import pandas as pd

    tables = [_named(frame) for frame in (first, second)]
    rows = tables[0].merge(tables[1], left_index=True, right_index=True, suffixes=("_1", "_2"))
    if not len(rows):
        raise OptionError(
            "the two sweeps have no question in common; rows are matched by id, or by question and pictures"
        )
    rows["flip"] = [
        _flip(*each) for each in zip(rows["answer_1"], rows["answer_2"], rows["right_1"], rows["right_2"], strict=True)
    ]
    flips = rows.loc[rows["flip"] != "", "flip"].value_counts()
    judged = pd.concat({k: accuracy(rows.rename(columns={f"right_{k}": "right"})) for k in (1, 2)}).droplevel(1)
    judged.index.name = "sweep"
    shares = {
        method: {"same picture": _same(rows, method), "mean difference": _difference(rows, method)}
        for method in methods_in(first)
        if method + PICTURE in second
    }
    return Compared(rows, judged, flips, pd.DataFrame.from_dict(shares, orient="index"))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """A table by what names its questions."""
    names = [
        f"{question} {list(images)}" if name is None else str(name)
        for name, question, images in zip(frame["id"], frame["question"], frame["images"], strict=True)
    ]
    found = frame.assign(name=names).set_index("name")
    if found.index.has_duplicates:
        twice = found.index[found.index.duplicated()][0]
        raise OptionError(
            f"question {twice!r} stands twice in a sweep; compare sweeps of one run each, with an id for every row"
        )
    return found


def _flip(first: str | None, second: str | None, was: bool | None, is_now: bool | None) -> str:
    if was is True and is_now is False:
        return "right to wrong"
    if was is False and is_now is True:
        return "wrong to right"
    return "other answer" if first != second else ""


def _same(rows: pd.DataFrame, method: str) -> float:
    both = rows[[f"{method}{PICTURE}_1", f"{method}{PICTURE}_2"]].dropna()
    return float((both.iloc[:, 0] == both.iloc[:, 1]).mean()) if len(both) else float("nan")


def _difference(rows: pd.DataFrame, method: str) -> float:
    """Mean over questions and pictures of how much a method's numbers differ."""
    column = "effect" if method == "evidence" else method
    pairs = zip(rows[f"{column}_1"], rows[f"{column}_2"], strict=True)
    found = [
        np.abs(np.subtract(a, b)).mean() for a, b in pairs if a is not None and b is not None and len(a) == len(b) > 0
    ]
    return float(np.mean(found)) if found else float("nan")
