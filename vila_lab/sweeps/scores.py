"""What a sweep's rows say together: shares with intervals, biases, calibration, agreement. Knows tables, no store and no figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["accuracy", "agreement", "calibration", "cost", "grounding", "interval", "methods_in", "positions"]

Z = 1.959964  # of 95 %
BINS = 10
MOST_GROUPS = 24  # values of a column by which a table is split
PICTURE = "_picture"


def interval(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> [round(float(end), 3) for end in interval(8, 10)]
    [0.49, 0.943]
    """
    if not count:
        return float("nan"), float("nan")
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def accuracy(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """How many answers are right, of those that could be judged.

    Parameters
    ----------
    by
        A column to split by, "pictures" or "rests_on" for example.

    Returns
    -------
    DataFrame
        count, right, share, and low and high, its 95 % interval; a row for each value, or one.
    """
    judged = frame[frame["right"].notna()]
    if by is None:
        return _shares([("all", judged["right"])])
    names = _labels(judged[by])
    return _shares([(name, judged.loc[names == name, "right"]) for name in sorted(names.unique(), key=_order)])


def grounding(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each method names the picture that an answer should rest on, where that is known: of all, of right and of wrong answers."""
    known = frame[[len(each) > 0 if each is not None else False for each in frame["rests_on"]]]
    rows = []
    for method in methods_in(frame):
        named = known[known[method + PICTURE].notna()]
        hits = np.array(
            [
                int(one) in set(map(int, right))
                for one, right in zip(named[method + PICTURE], named["rests_on"], strict=True)
            ],
            bool,
        )
        rows.append((method, hits))
        if (named["right"].notna()).any():
            is_right = named["right"].map(lambda each: each is True).to_numpy(bool)
            split = {"right": hits[is_right], "wrong": hits[~is_right]}
            rows += [(f"{method}, {name} answers", each) for name, each in split.items() if len(each)]
    return _shares(rows)


def positions(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each method names the picture at each place, by number of pictures: without a bias, and where right pictures stand
    everywhere alike, all places have the same share."""
    import pandas as pd

    rows = []
    several = frame[frame["pictures"].fillna(0) > 1]
    for method in methods_in(frame):
        for count, group in several.groupby("pictures"):
            named = group[method + PICTURE].dropna().astype(int)
            for place in range(1, int(count) + 1):
                hits = int((named == place).sum())
                low, high = interval(hits, len(named))
                rows.append(
                    (method, int(count), place, len(named), hits / max(len(named), 1), low, high, 1 / int(count))
                )
    columns = ["method", "pictures", "place", "count", "share", "low", "high", "even"]
    return pd.DataFrame(rows, columns=columns)


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How often two methods name the same picture, of the questions with several where both name one."""
    several = frame[frame["pictures"].fillna(0) > 1]
    rows = []
    for a, b in combinations(methods_in(frame), 2):
        both = several[[a + PICTURE, b + PICTURE]].dropna()
        rows.append((f"{a} and {b}", (both[a + PICTURE] == both[b + PICTURE]).to_numpy(bool)))
    return _shares(rows).rename(columns={"right": "same"})


def calibration(frame: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """How often answers of each confidence are right.

    Returns
    -------
    DataFrame
        from and to of each bin that is not empty, count, the mean confidence, the share of right answers with its interval. Its
        ``attrs["ece"]`` is the expected calibration error, after Naeini et al. (2015), "Obtaining well calibrated probabilities using
        Bayesian binning".
    """
    import pandas as pd

    judged = frame[frame["right"].notna() & frame["confidence"].notna()]
    sure = judged["confidence"].to_numpy(float)
    right = judged["right"].to_numpy(bool)
    which = np.minimum((sure * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(which):
        mine = which == number
        low, high = interval(float(right[mine].sum()), int(mine.sum()))
        rows.append(
            (number / bins, (number + 1) / bins, int(mine.sum()), sure[mine].mean(), right[mine].mean(), low, high)
        )
    found = pd.DataFrame(rows, columns=["from", "to", "count", "confidence", "share", "low", "high"])
    found.attrs["ece"] = float(
        (found["count"] * (found["confidence"] - found["share"]).abs()).sum() / max(len(judged), 1)
    )
    return found


def cost(frame: pd.DataFrame) -> pd.DataFrame:
    """What a run cost: questions, seconds of asking and of methods, tokens of answers and of prompts with them."""
    found = frame.groupby("run").agg(
        questions=("key", "size"),
        seconds=("seconds", "sum"),
        tokens=("n_tokens", "sum"),
        positions=("n_positions", "sum"),
    )
    found["seconds a question"] = found["seconds"] / found["questions"]
    return found


def methods_in(frame: pd.DataFrame) -> list[str]:
    """The methods that name a picture."""
    return [name.removesuffix(PICTURE) for name in frame if name.endswith(PICTURE)]


def groups_in(frame: pd.DataFrame) -> list[str]:
    """The columns by which accuracy is worth splitting: number and place of pictures, and the questions' own of a few values."""
    found = [name for name in ("pictures", "rests_on", *frame.attrs.get("own", ())) if name in frame]
    return [name for name in found if 1 < _labels(frame[name]).nunique() <= MOST_GROUPS]


def _labels(column: pd.Series[Any]) -> pd.Series[Any]:
    """Values as texts that can be compared; lists of numbers with commas."""
    return column.map(_label)


def _label(value: Any) -> str:
    if isinstance(value, np.ndarray | list | tuple):
        return ", ".join(map(str, value))
    return "" if _is_missing(value) else str(value)


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _order(name: str) -> tuple[int, float, str]:
    return (0, float(name), "") if name.replace(".", "", 1).isdigit() else (1, 0.0, name)


def _shares(groups: Sequence[tuple[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    rows = {}
    for name, hits in groups:
        values = np.asarray(hits, bool)
        low, high = interval(float(values.sum()), len(values))
        rows[name] = {
            "count": len(values),
            "right": int(values.sum()),
            "share": values.mean() if len(values) else np.nan,
            "low": low,
            "high": high,
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["count", "right", "share", "low", "high"])
