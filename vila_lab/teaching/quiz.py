"""Quiz: several exercises and the score over them. Knows exercises, no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .exercise import POINTS, Exercise

if TYPE_CHECKING:
    import pandas as pd

    from ..session import Session


@dataclass(frozen=True)
class Score:
    """Points so far.

    >>> Score(3, 4, 10)
    Score(3 points of 4 revealed, 10 in all)
    """

    points: int
    revealed: int
    possible: int

    def __repr__(self) -> str:
        return f"Score({self.points} points of {self.revealed} revealed, {self.possible} in all)"


class Quiz(Sequence[Exercise]):
    """Exercises on one session.

    Parameters
    ----------
    session : Session
    prompts
        One prompt per exercise, as in `Session.ask`.

    Examples
    --------
    >>> import vila_lab
    >>> quiz = Quiz.drawn(vila_lab.load(), count=1)
    >>> quiz[0].predict(picture=1, survives=False)
    >>> quiz[0].reveal().points, quiz.score
    (2, Score(2 points of 2 revealed, 2 in all))
    """

    def __init__(self, session: Session, prompts: Sequence[Any]) -> None:
        if not prompts:
            raise OptionError("a quiz needs at least one prompt")
        self._exercises = [Exercise(session, prompt, number) for number, prompt in enumerate(prompts, 1)]

    @classmethod
    def drawn(cls, session: Session, count: int = 5, seed: int = 0) -> Quiz:
        """Questions about freshly drawn scenes of the embedded world, each about one of four pictures."""
        from ..tiny.probes import probes

        if count < 1:
            raise OptionError(f"a quiz has at least one exercise, not {count}")
        return cls(session, [[*(scene.image for scene in p.scenes), p.question] for p in islice(probes(seed), count)])

    @property
    def score(self) -> Score:
        """Points for the exercises that were revealed."""
        shown = [each.revealed for each in self._exercises if each.revealed is not None]
        return Score(sum(each.points for each in shown), POINTS * len(shown), POINTS * len(self))

    def solutions(self) -> pd.DataFrame:
        """What would have been right, an exercise per row; nothing is revealed by it."""
        import pandas as pd

        rows = [(each.answer.text, *each.solution[1:]) for each in self._exercises]
        index = pd.Index([each.number for each in self._exercises], name="exercise")
        return pd.DataFrame(rows, columns=["answer", "picture", "survives"], index=index)

    def __getitem__(self, index: Any) -> Any:
        return self._exercises[index]

    def __len__(self) -> int:
        return len(self._exercises)

    def __iter__(self) -> Iterator[Exercise]:
        return iter(self._exercises)

    def __repr__(self) -> str:
        return f"Quiz({len(self)} exercises, {self.score})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<li><span dir='auto'>{escape(each.question)}</span></li>" for each in self._exercises)
        return f"<p>{escape(repr(self.score))}</p><ol>{rows}</ol>"
