"""Quiz: several exercises and the score over them. Knows exercises, no model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import OptionError
from ..tiny import demo_images
from ..tiny.probes import probes
from ..writing import write_file
from .exercise import POINTS, Exercise
from .names import student_name
from .scorecard import Scorecard, now

if TYPE_CHECKING:
    import pandas as pd

    from ..session import Session

COURSE = (
    (("cat_and_dog.png", "pizza.png", "wide_train.png"), "What is in image 3?"),
    (("g.png", "m.png", "a.png", "n.png"), "Which image shows NVIDIA?"),
    (("cat_and_rocket.png", "pizza.png"), "Is there a rocket in image 2?"),
    (("g.png", "g.png", "m.png"), "What is in image 2?"),
    (("dog_alone.png", "dog_alone.png", "pizza.png"), "Which image is different?"),
)
"""Demo pictures and a question each: the exercises of the course, in its notebooks and on the page of a class.

In some the answer outlives the picture that it is about: that is what there is to learn.
"""


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
    >>> quiz[0].predict(picture="image_1", survives=False)
    Prediction(picture='image_1', survives=False)
    >>> quiz[0].reveal().points, quiz.score
    (2, Score(2 points of 2 revealed, 2 in all))
    """

    def __init__(self, session: Session, prompts: Sequence[Any]) -> None:
        if not prompts:
            raise OptionError("a quiz needs at least one prompt")
        self._exercises = [Exercise(session, prompt, number) for number, prompt in enumerate(prompts, 1)]

    @classmethod
    def course(cls, session: Session) -> Quiz:
        """The exercises of the course, on the demo pictures."""
        folder = demo_images()
        return cls(session, [[*(folder / name for name in names), question] for names, question in COURSE])

    @classmethod
    def drawn(cls, session: Session, count: int = 5, seed: int = 0) -> Quiz:
        """Questions about freshly drawn scenes of the embedded world, each about one of four pictures."""
        if count < 1:
            raise OptionError(f"a quiz has at least one exercise, not {count}")
        return cls(session, [[*(scene.image for scene in p.scenes), p.question] for p in islice(probes(seed), count)])

    @property
    def score(self) -> Score:
        """Points for the exercises that were revealed."""
        shown = [each.revealed for each in self._exercises if each.revealed is not None]
        return Score(sum(each.points for each in shown), POINTS * len(shown), POINTS * len(self))

    @property
    def fingerprint(self) -> str:
        """Tells this quiz from others: a digest of the questions and of the sizes of their pictures.

        Their pixels are left out: one file, or one drawn scene, gives other pixels under another version of Pillow.
        """
        asked = [[each.question, [image.size for image in each.prompt.images]] for each in self]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def anew(self) -> Quiz:
        """The same exercises for the next student: nothing is predicted; what the model did is not computed again."""
        other = copy(self)
        other._exercises = [each.anew() for each in self]
        return other

    def export(self, path: str | os.PathLike[str], student: str) -> Path:
        """Write the score so far as one line of JSON, for a teacher's `Gradebook`.

        It says who, when, and of each exercise how often it was tried and what was right: no answer, and no prediction.

        Parameters
        ----------
        path
            The file; one that is there is replaced.
        student
            A name of at most 40 characters.

        Returns
        -------
        Path
            `path` as given.

        Raises
        ------
        OptionError
            If the name is none.
        FileAccessError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Quiz.drawn(vila_lab.load(), count=1).export(f"{folder}/ana.json", student="Ana").read_text()[:38]
        '{"vila_lab_score": 1, "student": "Ana"'
        """
        results = tuple(each.result for each in self)
        card = Scorecard(student_name(student), now(), self.fingerprint, results, __version__)
        return write_file(path, card.to_line())

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
