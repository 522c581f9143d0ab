"""Answers: those of many questions, as a list and as a table. Knows answers and errors, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from .answer import Answer
from .engine.record import Record
from .engine.request import Request
from .errors import Interrupted, OptionError, VilaLabError
from .progress import progress

if TYPE_CHECKING:
    import pandas as pd

OnError: TypeAlias = Literal["raise", "keep"]


class Answers(list[Any]):
    """The answers of `Session.ask_many`, in order; where a question could not be answered stands the error.

    Attributes
    ----------
    questions : tuple of str
        What was asked, in words.

    Examples
    --------
    >>> import vila_lab
    >>> folder = vila_lab.demo_images()
    >>> answers = vila_lab.load().ask_many([[folder / f"{mark}.png", "What is this?"] for mark in "gm"])
    >>> [answer.text for answer in answers]
    ['Google.', 'Microsoft.']
    >>> list(answers.frame().columns)
    ['question', 'answer', 'confidence', 'image_1', 'verdict', 'error']
    """

    def __init__(self, answers: Iterable[Answer | VilaLabError], questions: Sequence[str]) -> None:
        super().__init__(answers)
        self.questions = tuple(questions)

    def frame(self, *, check: bool = False) -> pd.DataFrame:
        """One row per question.

        Parameters
        ----------
        check
            Ask of every answer with each picture left out (`Answer.attribute`, "leave_one_out"), and say in the verdict whether
            that names the picture that attention does. It costs a pass per picture.

        Returns
        -------
        DataFrame
            question, answer; confidence, the geometric mean of the probabilities of the answer's tokens; for each picture the
            share of attention that its tokens got, of all that went to pictures; the verdict, which picture was read most and by
            what; the error of a question that has no answer.

        Examples
        --------
        >>> import vila_lab
        >>> folder = vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> vila_lab.load().ask_many([question]).frame(check=True).verdict[0]
        'attention and leave_one_out: image_2'
        """
        import pandas as pd

        rows = [_row(answer, check) for answer in self]
        count = max((len(answer.images) for answer in self if isinstance(answer, Answer)), default=0)
        columns = ["answer", "confidence", *(f"image_{k + 1}" for k in range(count)), "verdict", "error"]
        table = pd.DataFrame(rows, columns=columns)
        table.insert(0, "question", list(self.questions))
        return table

    def __repr__(self) -> str:
        failed = sum(not isinstance(answer, Answer) for answer in self)
        return f"Answers({len(self)} questions{f', {failed} without an answer' if failed else ''})"

    def _repr_html_(self) -> str:
        shown: str = self.frame().to_html(escape=True, float_format="{:.2f}".format, max_rows=20, na_rep="")
        return f"<div>{escape(repr(self))}{shown}</div>"


def answered(
    prompts: Iterable[Any],
    request_of: Callable[[Any], Request],
    run: Callable[[list[Request]], Iterable[Record | VilaLabError]],
    answer_of: Callable[[Record], Answer],
    errors: OnError,
) -> Answers:
    """Answer many questions, each of which may fail alone.

    Parameters
    ----------
    prompts
        As `Session.ask` takes them.
    request_of, run, answer_of
        What makes a request of one, answers requests in order, and makes an answer of a record.
    errors
        "raise" or "keep"; see `Session.ask_many`.

    Raises
    ------
    OptionError
        If there is one text instead of a list, or `errors` is something else.
    VilaLabError
        With "raise", where a question cannot be answered.
    """
    if errors not in get_args(OnError):
        raise OptionError(f'errors is "raise" or "keep", not {errors!r}')
    if isinstance(prompts, str):
        raise OptionError("ask_many takes a list of questions, and this is one text; ask takes that")
    listed = list(prompts)

    def failed(error: VilaLabError, number: int) -> VilaLabError:
        named = type(error)(f"question {number + 1} of {len(listed)}: {error}")
        named.__cause__ = error
        if errors == "raise":
            raise named
        return named

    found: dict[int, Answer | VilaLabError] = {}
    requests: dict[int, Request] = {}
    for number, prompt in enumerate(listed):
        try:
            requests[number] = request_of(prompt)
        except VilaLabError as error:
            found[number] = failed(error, number)
    try:
        with progress(len(requests), "questions") as bar:
            for number, record in zip(requests, run([*requests.values()]), strict=True):
                found[number] = failed(record, number) if isinstance(record, VilaLabError) else answer_of(record)
                bar.update()
    except KeyboardInterrupt:
        if errors == "raise":
            raise
        late = Interrupted("the call was interrupted before it was answered; ask it again")
        found |= {number: failed(late, number) for number in requests if number not in found}
    words = [requests[k].prompt.text if k in requests else str(prompt) for k, prompt in enumerate(listed)]
    return Answers([found[number] for number in range(len(listed))], words)


def _row(answer: Any, check: bool) -> dict[str, Any]:
    if not isinstance(answer, Answer):
        return {"error": str(answer)}
    record = answer.record
    said = [record.tokens[k].logprob for k in record.said()]
    row = {"answer": record.text, "confidence": float(np.exp(np.mean(said)))}
    if not record.images:
        return row
    pictures = [f"image_{k + 1}" for k in range(len(record.images))]
    shares = record.ledger()[pictures].to_numpy()[record.said()].sum(0)
    shares = shares / shares.sum() if shares.sum() else shares
    row |= dict(zip(pictures, map(float, shares), strict=True))
    first = pictures[int(shares.argmax())]
    row["verdict"] = f"attention: {first}"
    if check:
        scores = answer.attribute("leave_one_out").per_image()[pictures].to_numpy().sum(0)
        other = pictures[int(scores.argmax())]
        agree = other == first
        row["verdict"] = (
            f"attention and leave_one_out: {first}" if agree else f"DISAGREE: attention {first}, leave_one_out {other}"
        )
    return row
