"""Report: the tables and figures of a sweep. Knows scores and the view, no model and no page."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ..errors import OptionError
from ..options import nearest
from ..view.lettering import write_legend, write_title
from ..view.style import INK, MARKERS, RULE, new_axes, picture_colour, ruled
from . import scores
from .opened import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Figure", "Report"]

Figure: TypeAlias = Literal["accuracy", "calibration", "places"]
SIZE = 4.8, 3.2  # inches: no wider, so that its words can be read on a telephone
DRAWN: dict[str, str] = {"accuracy": "accuracy", "calibration": "calibration", "places": "which place is named"}
"""The table of each figure."""


class Report:
    """What a sweep shows, table by table.

    Parameters
    ----------
    sweep
        Of `vila_lab.open_sweep`.
    run
        Which of its runs; by default the last.

    Attributes
    ----------
    sweep : Sweep
    run : str
    manifest : dict
        What the run was: its plan, versions and time.
    frame : DataFrame
        Its questions.

    Raises
    ------
    OptionError
        If there is no such run, or nothing was asked.

    Examples
    --------
    >>> import tempfile, vila_lab
    >>> rows = [{"images": [str(vila_lab.demo_images() / "g.png")], "question": "What is in image 1?", "answer": "Google"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     float(Report(vila_lab.sweep(rows, folder)).tables["accuracy"].loc["all", "share"])
    1.0
    """

    def __init__(self, sweep: Sweep, run: str | None = None) -> None:
        frame = sweep.frame()
        there = {each["run"]: each for each in sweep.runs if (frame["run"] == each["run"]).any()} if len(frame) else {}
        if not there:
            raise OptionError(f"nothing was asked yet in {sweep.store.place!r}, so there is nothing to report")
        if run is not None and run not in there:
            raise OptionError(f"there is no run {run!r}{nearest(run, there)}; there are {', '.join(there)}")
        self.sweep = sweep
        self.run = run or list(there)[-1]
        self.manifest = there[self.run]
        self.frame = frame[frame["run"] == self.run]

    @property
    def failed(self) -> int:
        """How many of its questions have an error."""
        return int(self.frame["error"].notna().sum())

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table that there is something for, by name."""
        frame = self.frame
        found = {"accuracy": scores.accuracy(frame)}
        found |= {f"accuracy by {name}": scores.accuracy(frame, name) for name in scores.groups_in(frame)}
        found["on the right picture"] = scores.grounding(frame)
        found["which place is named"] = scores.positions(frame)
        found["agreement"] = scores.agreement(frame)
        found["calibration"] = scores.calibration(frame)
        if "verdict" in frame:
            found["verdicts"] = frame["verdict"].dropna().str.partition(":")[0].value_counts().to_frame("count")
        found["cost"] = scores.cost(frame)
        found["errors"] = frame["error"].dropna().value_counts().to_frame("count")
        return {
            name: table
            for name, table in found.items()
            if len(table) and ("count" not in table or table["count"].any())
        }

    def worst(self, count: int = 6) -> list[str]:
        """Keys of the wrong answers that the model was surest of; where none is known to be wrong, of those it was least sure of."""
        said = self.frame[self.frame["error"].isna()]
        wrong = said[said["right"].map(lambda each: each is False)]
        chosen = wrong.sort_values("confidence", ascending=False) if len(wrong) else said.sort_values("confidence")
        return list(chosen["key"][:count])

    @property
    def knows_wrong(self) -> bool:
        """Whether some answer is known to be wrong."""
        return any(each is False for each in self.frame["right"])

    def plot(self, kind: Figure | str, ax: Axes | None = None) -> Axes:
        """A figure.

        Parameters
        ----------
        kind
            "accuracy", by number of pictures and place of the right one; "calibration", how often answers of each confidence are
            right; "places", which picture each method names first.
        ax
            matplotlib axes to draw on; None makes a figure of its own.

        Raises
        ------
        OptionError
            If there is none of that name, or nothing to draw.
        """
        kinds: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
            "accuracy": self._accuracy,
            "calibration": _calibration,
            "places": _places,
        }
        if kind not in kinds:
            raise OptionError(
                f"a report has no figure {kind!r}{nearest(kind, kinds)}; it has {', '.join(get_args(Figure))}"
            )
        if DRAWN[kind] not in self.tables:
            raise OptionError(f"there is nothing for the figure {kind!r}: the report has no table {DRAWN[kind]!r}")
        ax = ruled(ax or new_axes(*SIZE))
        kinds[kind](ax, self.tables[DRAWN[kind]])
        return ax

    def _accuracy(self, ax: Axes, table: pd.DataFrame) -> None:
        rows = [
            (said.format(label), row)
            for name, said in (("pictures", "{} pictures"), ("rests_on", "on picture {}"))
            for label, row in self.tables.get(f"accuracy by {name}", table.iloc[:0]).iterrows()
        ] or [("all", table.loc["all"])]
        across = np.arange(len(rows))
        _with_ends(ax, across, *(np.array([row[name] for _, row in rows]) for name in ("share", "low", "high")))
        ax.set_xticks(across, [label for label, _ in rows], rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        write_title(ax, "Right answers, with 95 % intervals")


def _calibration(ax: Axes, table: pd.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    _with_ends(ax, *(table[name].to_numpy() for name in ("confidence", "share", "low", "high")))
    for x, y, count in zip(table["confidence"], table["share"], table["count"], strict=True):
        ax.annotate(str(count), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7.5, color=INK)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("confidence: geometric mean of the tokens' probabilities", fontsize=8)
    ax.set_ylabel("share of right answers", fontsize=8)
    write_title(ax, f"Calibration; expected error {table.attrs['ece']:.3f}")


def _places(ax: Axes, table: pd.DataFrame) -> None:
    most = int(table["pictures"].value_counts().idxmax())
    for number, (method, rows) in enumerate(table[table["pictures"] == most].groupby("method", sort=False)):
        places = rows["place"].to_numpy() + 0.06 * number
        _with_ends(
            ax, places, *(rows[name].to_numpy() for name in ("share", "low", "high")), number=number, label=str(method)
        )
    ax.axhline(1 / most, color=RULE, linewidth=1)
    ax.set_xticks(range(1, most + 1))
    ax.set_xlabel("picture; the line is what no preference would be", fontsize=8)
    write_legend(ax)
    write_title(ax, f"Which of {most} pictures is named first")


def _with_ends(ax: Axes, x: Any, share: Any, low: Any, high: Any, *, number: int = 4, label: str = "") -> None:
    """Shares with their intervals."""
    marker = MARKERS[number % len(MARKERS)]
    ends = np.clip(np.array([share - low, high - share], float), 0, None)
    ax.errorbar(x, share, ends, fmt=marker, color=picture_colour(number), capsize=3, label=label or None)
    ax.set_ylim(0, 1.02)
