"""Exercise: a question about several pictures, to be predicted before it is looked at. Knows one session.

A prediction says which picture the answer is read off, and whether the answer would survive without it. What counts is
causal: the picture whose absence costs the answer most, and the answer that is given with that picture out of sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import OptionError
from ..options import check_types
from ..pointing import WhichPicture, picture_index
from ..prompt import Prompt
from .scorecard import Result

if TYPE_CHECKING:
    import pandas as pd

    from ..answer import Answer
    from ..session import Session

POINTS = 2  # the picture, and whether the answer survives without it


class Prediction(NamedTuple):
    """What somebody expects of an exercise; None where nothing is said.

    Attributes
    ----------
    picture : str or None
        The name of the picture that the answer needs most.
    survives : bool or None
        Whether the answer stays the same without it.

    Examples
    --------
    >>> Prediction("image_2", survives=False)
    Prediction(picture='image_2', survives=False)
    """

    picture: str | None = None
    survives: bool | None = None


@dataclass(frozen=True, eq=False)
class Reveal:
    """What the model did, beside what was predicted.

    Attributes
    ----------
    answer : Answer
    table : pandas.DataFrame
        A row per picture: ``read`` (share of the answer's attention), ``needed`` (log-probability that the answer loses
        without it), ``without it`` (what the model says when that picture is taken out of sight).
    picture : str
        The name of the picture that the answer needs most, such as "image_2".
    survives : bool
        Whether the answer stays the same without it.
    predicted : Prediction
    """

    answer: Answer
    table: pd.DataFrame
    picture: str
    survives: bool
    predicted: Prediction

    @property
    def points(self) -> int:
        """One for the picture, one for the survival."""
        return int(self.predicted.picture == self.picture) + int(self.predicted.survives == self.survives)

    def __repr__(self) -> str:
        return (
            f"Reveal({self.answer.text!r}, needs {self.picture}, {'survives' if self.survives else 'changes'} without it, "
            f"{self.points} of {POINTS} points)"
        )

    def _repr_html_(self) -> str:
        picture, survives = self.predicted
        said = picture or "nothing"
        guess = "" if survives is None else f", and that the answer {'stays' if survives else 'changes'} without it"
        return (
            f"<p>The model says <b>{escape(self.answer.text)}</b> and needs <b>{self.picture}</b> most; its answer "
            f"{'stays' if self.survives else 'changes'} without it. You predicted {said}{guess}: "
            f"<b>{self.points} of {POINTS} points</b>.</p>"
            f"{self.table.to_html(formatters={'read': '{:.0%}'.format, 'needed': '{:+.2f}'.format})}"
        )


class Exercise:
    """One question to predict before looking.

    Shown in a cell it is its pictures and its question, without the answer.

    Parameters
    ----------
    session : Session
    prompt
        As in `Session.ask`; two pictures or more.
    number : int
        Which exercise it is, for the reader.
    max_new_tokens : int
        Longest answer.
    """

    def __init__(self, session: Session, prompt: Any, number: int = 1, *, max_new_tokens: int = 48) -> None:
        self._session = session
        self.prompt = Prompt.of(prompt)
        self.number = number
        self._max_new_tokens = max_new_tokens
        self._predicted = Prediction()
        self._tries = 0
        self._revealed: Reveal | None = None
        if len(self.prompt.pictures) < 2:
            raise OptionError(
                f"exercise {number}: which picture counts can only be asked of two or more, not of {len(self.prompt.pictures)}"
            )

    @property
    def question(self) -> str:
        """The text, with the numbers of the pictures where they stand."""
        parts: list[str] = []
        count = 0
        for part in self.prompt.parts:
            if isinstance(part, str):
                parts.append(part)
            else:
                count += 1
                parts.append(f"[{count}] ")
        return "".join(parts)

    def predict(self, picture: WhichPicture | None = None, survives: bool | None = None) -> Prediction:
        """Say what will happen; until the exercise is revealed it can be said again.

        Parameters
        ----------
        picture
            The picture that the answer needs most: its name, "image_1" for the first, or as everywhere a number from 0.
        survives
            Whether the model gives the same answer when that picture is taken out of sight.

        Returns
        -------
        Prediction
            What was understood, with the picture's name.

        Raises
        ------
        OptionError
            If there is no such picture, or the exercise was revealed already.

        Examples
        --------
        >>> import vila_lab
        >>> folder = vila_lab.demo_images()
        >>> exercise = Exercise(vila_lab.load(), [folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> exercise.predict("image_2", survives=False)
        Prediction(picture='image_2', survives=False)
        """
        if self._revealed is not None:
            raise OptionError(f"exercise {self.number} was revealed already; predictions count before")
        check_types(Exercise.predict, {"survives": survives})
        name = None if picture is None else f"image_{picture_index(picture, len(self.prompt.pictures)) + 1}"
        self._predicted = Prediction(name, None if survives is None else bool(survives))
        self._tries += self._predicted != Prediction()
        return self._predicted

    @cached_property
    def answer(self) -> Answer:
        """What the model says."""
        return self._session.ask(self.prompt, max_new_tokens=self._max_new_tokens)

    def reveal(self) -> Reveal:
        """Look: the answer, its ledger, the ablation and the knock-outs, and the points for what was predicted.

        Raises
        ------
        OptionError
            If nothing was predicted: then looking would spoil it. `answer` and `solution` tell all the same.
        """
        if self._predicted == Prediction():
            raise OptionError(
                f"exercise {self.number}: predict before you look, with predict(picture=..., survives=...): a name such as "
                "'image_1', and True or False"
            )
        if self._revealed is None:
            self._revealed = Reveal(self.answer, *self.solution, self._predicted)
        return self._revealed

    @property
    def revealed(self) -> Reveal | None:
        """What `reveal` showed, or None."""
        return self._revealed

    @property
    def result(self) -> Result:
        """What came of it, without what was predicted or is right."""
        if self._revealed is None:
            return Result(self.number, self._tries)
        picture, survives = self._predicted
        right = (picture == self._revealed.picture, survives == self._revealed.survives)
        return Result(self.number, self._tries, *right)

    def anew(self) -> Exercise:
        """The same exercise for the next student: nothing is predicted; what the model did is not computed again."""
        other = copy(self)
        other._predicted, other._tries, other._revealed = Prediction(), 0, None
        return other

    @cached_property
    def solution(self) -> tuple[pd.DataFrame, str, bool]:
        """What happens: the table of `Reveal`, the name of the picture that counts most, and whether the answer survives without it."""
        import pandas as pd

        answer = self.answer
        names = [f"image_{k + 1}" for k in range(len(answer.images))]
        read = answer.ledger().iloc[answer.rows_of()][names].mean()
        needed = answer.attribute("leave_one_out").total()[names]
        without = [self._without(name) for name in names]
        table = pd.DataFrame(
            {"read": read, "needed": needed, "without it": without}, index=pd.Index(names, name="picture")
        )
        picture = str(needed.idxmax())
        return table, picture, without[names.index(picture)] == answer.text

    def _without(self, name: str) -> str:
        with self._session.knockout(f"{name} -> *"):
            return self._session.ask(self.prompt, max_new_tokens=self._max_new_tokens).text

    def __repr__(self) -> str:
        return f"Exercise({self.number}, {self.question!r})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from ..view.pictures import encode, shrink

        shown = [encode(shrink(image, 160), "WEBP", quality=80) for image in self.prompt.images]
        return {"text/html": _html(self.number, self.question, shown), "text/plain": repr(self)}


def _html(number: int, question: str, pictures: Sequence[str]) -> str:
    figures = "".join(
        f'<figure style="display:inline-block;margin:0 8px 8px 0"><img alt="picture {k}" src="{src}"><figcaption>image_{k}</figcaption></figure>'
        for k, src in enumerate(pictures, 1)
    )
    return f"<div><p><b>Exercise {number}</b> <span dir='auto'>{escape(question)}</span></p>{figures}</div>"
