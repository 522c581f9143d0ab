"""Gradebook: the scorecards of a class, what was hard, and why a file was not read. Knows scorecards and a quiz, no model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FileAccessError, FileError, OptionError
from ..inputs.sources import reason
from ..view.lettering import cut, label_down, write_legend, write_title
from ..view.style import PICTURE_COLOURS, SOFT_INK, new_axes, ruled
from .exercise import POINTS
from .quiz import Quiz
from .scorecard import LARGEST, Scorecard

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LONGEST_LABEL = 48  # characters of a question in the figure


@dataclass(frozen=True)
class Gradebook:
    """The scores of a class on one quiz.

    Attributes
    ----------
    questions : tuple of str
        Of the exercises, in order.
    cards : tuple of Scorecard
        One per student, in the order in which they were exported.
    refused : tuple of str
        A sentence for each file that was not read: which one, and why.
    """

    questions: tuple[str, ...]
    cards: tuple[Scorecard, ...]
    refused: tuple[str, ...] = ()

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], quiz: Quiz) -> Gradebook:
        """Read what students exported; a file that cannot be used is refused, and the others are read.

        Parameters
        ----------
        source
            A folder, of which every ``*.json`` file is read, or the files themselves.
        quiz
            What they were asked; it tells scores of other questions.

        Raises
        ------
        FileAccessError
            If there is no such folder.
        OptionError
            If there is no file in it.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> quiz = Quiz.drawn(vila_lab.load(), count=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = quiz.export(f"{folder}/ana.json", student="Ana")
        ...     Gradebook.read(folder, quiz)
        Gradebook(students: 1, exercises: 1, points on average: 0.0 of 2, files refused: 0)
        """
        found: list[tuple[Scorecard, str]] = []
        refused: list[str] = []
        for path in _paths(source):
            try:
                found.append((_card(path, quiz), path.name))
            except (FileError, FileAccessError) as error:
                refused.append(str(error))
        cards: dict[str, tuple[Scorecard, str]] = {}
        for card, name in sorted(found, key=lambda each: each[0].when):  # who exported twice saw the answers in between
            first = cards.setdefault(card.student.casefold(), (card, name))
            if first[1] != name:
                refused.append(
                    f"{name!r} is another score of {card.student}, whose first one is {first[1]!r}; if these are two "
                    "students, have one exported again under another name"
                )
        return cls(tuple(each.question for each in quiz), tuple(card for card, _ in cards.values()), tuple(refused))

    @property
    def table(self) -> pd.DataFrame:
        """Points by student and exercise, and all together; an exercise that was not revealed has none."""
        import pandas as pd

        rows = [[each.points for each in card.results] for card in self.cards]
        index = pd.Index([card.student for card in self.cards], name="student")
        numbers = range(1, len(self.questions) + 1)
        table = pd.DataFrame(rows, index=index, columns=[f"exercise {k}" for k in numbers]).astype("Int64")
        table["points"] = [card.points for card in self.cards]
        return table

    @property
    def by_exercise(self) -> pd.DataFrame:
        """How many revealed each exercise, which share of them had picture and survival right, and their tries on average."""
        import pandas as pd

        rows = []
        for k in range(len(self.questions)):
            shown = [card.results[k] for card in self.cards if card.results[k].points is not None]
            values = [(each.picture_right, each.survival_right, each.tries) for each in shown]
            means = np.array(values, np.float64).mean(0).tolist() if values else [np.nan] * 3
            rows.append([self.questions[k], len(shown), *means])
        index = pd.RangeIndex(1, len(rows) + 1, name="exercise")
        return pd.DataFrame(
            rows, index=index, columns=["question", "revealed", "picture right", "survival right", "tries"]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Which exercise was hard: of those who revealed it, the share that was right about picture and survival."""
        from matplotlib.ticker import PercentFormatter

        found, count = self.by_exercise, len(self.questions)
        ax = ruled(ax or new_axes(8.0, 1.2 + 0.55 * count))
        ax.grid(visible=False, axis="y")
        for name, hatch, colour, y in (("picture", "", 4, -0.19), ("survival", "///", 1, 0.19)):
            shares = found[f"{name} right"].fillna(0.0).to_numpy()
            ax.barh(
                np.arange(count) + y,
                shares,
                0.34,
                color=PICTURE_COLOURS[colour],
                hatch=hatch,
                edgecolor="white",
                label=f"{name} right",
            )
            for place, share in enumerate(shares):
                ax.text(
                    share + 0.01, place + y, f"{share:.0%}".replace("%", " %"), va="center", fontsize=8, color=SOFT_INK
                )
        label_down(ax, [cut(f"{k}.  {question}", LONGEST_LABEL) for k, question in enumerate(self.questions, 1)])
        ax.set(xlim=(0, 1.12), ylim=(count - 0.5, -0.5), xticks=[0, 0.25, 0.5, 0.75, 1])
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        write_legend(ax)
        write_title(ax, f"how many were right, of those who revealed it (students: {len(self.cards)})")
        return ax

    def __repr__(self) -> str:
        mean = np.mean([card.points for card in self.cards]) if self.cards else 0.0
        possible = POINTS * len(self.questions)
        return (
            f"Gradebook(students: {len(self.cards)}, exercises: {len(self.questions)}, points on average: {mean:.1f} of "
            f"{possible}, files refused: {len(self.refused)})"
        )

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(why)}</li>" for why in self.refused)
        return f"<p>{escape(repr(self))}</p>{self.table.to_html(na_rep='–')}" + (f"<ul>{said}</ul>" if said else "")


def _paths(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Sequence[Path]:
    if not isinstance(source, str | os.PathLike):
        return [Path(each) for each in source]
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise FileAccessError(f"{str(source)!r} is no folder; name the one that holds the scores")
    if not (found := sorted(folder.glob("*.json"))):
        raise OptionError(
            f"there is no *.json file in {str(source)!r}; students write theirs with quiz.export('name.json', 'Name')"
        )
    return found


def _card(path: Path, quiz: Quiz) -> Scorecard:
    """One file, checked against the quiz."""
    name = repr(path.name)
    try:
        is_small = path.stat().st_size <= LARGEST
        data = path.read_bytes() if is_small and path.is_file() else b""  # a pipe would wait for somebody to write
    except OSError as error:
        raise FileAccessError(f"{name} cannot be read ({reason(error)}); have it exported again") from error
    card = Scorecard.of_line(data, name)
    if card.quiz != quiz.fingerprint or len(card.results) != len(quiz):
        raise FileError(f"{name} is {card.student}'s score of another quiz; read it with that quiz")
    return card
