"""Stream: an answer as it comes, token by token, and whole at its end or wherever it was stopped. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from types import TracebackType
from typing import Any, Protocol, Self

from .answer import Answer
from .engine.answering import Stopped
from .engine.record import Record
from .errors import MissingExtra
from .tokens import Token


class UnderWay(Protocol):
    """A request that is being answered, a token a step: in this process (`Answering`) or by a server."""

    @property
    def tokens(self) -> tuple[Token, ...]:
        """What was said so far."""
        ...

    @property
    def reused(self) -> int:
        """How many positions of the prompt were not computed again."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether there are no more tokens to come."""
        ...

    def step(self) -> Token:
        """The next token; raises `Stopped` after `stop`."""
        ...

    def stop(self) -> None:
        """Have no other token come; from any thread."""
        ...

    def record(self) -> Record:
        """What was said, as a record."""
        ...


class Stream(Iterator[Token]):
    """An answer as it comes.

    Made by `Session.stream`. It yields tokens; between two of them the model is free for other questions, and a stream that is
    closed, left or let go of computes nothing more. As the last value of a notebook's cell it shows the answer growing.

    Parameters
    ----------
    answering
        The request under way.
    answer_of
        From a record to an answer of the session's.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> stream = lab.stream([folder / "g.png", folder / "m.png", "What is in image 2?"])
    >>> [token.text for token in stream], stream.answer.text
    (['Microsoft', '.', ''], 'Microsoft.')
    >>> stream.text, stream.reused >= 0  # of the prompt's positions some may have been computed for a question before
    ('Microsoft.', True)
    """

    def __init__(self, answering: UnderWay, answer_of: Callable[[Record], Answer]) -> None:
        self._answering = answering
        self._answer_of = answer_of
        self._answer: Answer | None = None
        self._is_open = True
        self._then: list[Callable[[Answer], None]] = []

    def __next__(self) -> Token:
        if not self._is_open or self._answering.has_ended:
            self._tell()
            raise StopIteration
        try:
            return self._answering.step()
        except Stopped:
            pass
        except BaseException:
            self.close()
            raise
        self._tell()
        raise StopIteration

    def then(self, function: Callable[[Answer], None]) -> Stream:
        """Have a function called with the answer, once there is one: at the stream's end, or when it is asked for.

        Examples
        --------
        >>> import vila_lab
        >>> lab, said = vila_lab.load(), []
        >>> stream = lab.stream([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> stream.then(lambda answer: said.append(answer.text)).answer.text, said
        ('Google.', ['Google.'])
        """
        self._then.append(function)
        return self

    @property
    def text(self) -> str:
        """What was said so far, whole characters only."""
        return "".join(token.text for token in self._answering.tokens)

    @property
    def reused(self) -> int:
        """How many positions of the prompt were not computed again, once the first token is there."""
        return self._answering.reused

    @property
    def answer(self) -> Answer:
        """The answer: to its end, or what there is of it where the stream was closed or interrupted, which its notes say.

        Raises
        ------
        CaptureError
            If the stream was closed before the first token.
        """
        for _ in self:
            pass
        return self._finish()

    def _tell(self) -> None:
        """Have the answer, of whatever was said, if somebody waits for it."""
        if self._then and self._answering.tokens:
            self._finish()

    def _finish(self) -> Answer:
        if self._answer is None:
            self._answer = self._answer_of(self._answering.record())
            for function in self._then:
                function(self._answer)
        return self._answer

    def close(self) -> None:
        """Stop: a step that is at work in another thread ends within a layer, and no other begins.

        Examples
        --------
        >>> import vila_lab
        >>> stream = vila_lab.load().stream([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> first = next(stream)
        >>> stream.close()
        >>> stream.answer.text, stream.answer.notes
        ('Google', ('the answer was interrupted after 1 token',))
        """
        self._is_open = False
        self._answering.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._tell()

    def __repr__(self) -> str:
        state = "open" if self._is_open and not self._answering.has_ended else "ended"
        return f"Stream({self.text!r}, {state})"

    def _ipython_display_(self) -> None:
        """The answer grows in place, and ends as its full display; Ctrl-C keeps what was said."""
        try:
            from IPython.display import display
        except ImportError as error:
            raise MissingExtra(
                "a stream shows itself in a notebook alone: iterate over it, or take its answer"
            ) from error
        shown: Any = display(self._growing(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        try:
            for _ in self:
                shown.update(self._growing(), raw=True)
        except KeyboardInterrupt:
            if not self._answering.tokens:
                raise
        shown.update(self.answer)

    def _growing(self) -> dict[str, Any]:
        return {
            "text/plain": self.text,
            "text/html": f'<div style="white-space: pre-wrap">{escape(self.text)}▌</div>',
        }
