"""Handle: what a hook or an edit gives back, to take it out again, and for whom it acts. Knows no kind."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

from ..engine.question import Spec

ENTERED: ContextVar[tuple[Handle, ...]] = ContextVar("vila_lab_entered", default=())
"""The handles whose ``with`` block this thread and task is in; a task or thread that is started there inherits them."""


class Handle:
    """A hook or an edit that acts on the questions that this thread asks from now on, until it is removed.

    It is also a context manager, ``with lab.knockout("image_2 -> answer"): lab.ask(...)``: then it acts inside the block only,
    for the thread and the task that entered it, and for those started from there. Nobody else's questions are touched.

    Attributes
    ----------
    spec : Spec
        What it does, as a request carries it.
    active : bool
        Until it is removed.
    is_entered : bool
        Whether it acts inside a block only.

    Examples
    --------
    >>> import vila_lab
    >>> lab = vila_lab.load()
    >>> handle = lab.knockout("image_2 -> answer", layers=4)
    >>> handle.label, handle.acts_here, lab.edits == (handle,)
    ('knock-out of image_2 -> answer in all heads of layer 4', True, True)
    >>> handle.remove()
    >>> handle.acts_here, lab.edits
    (False, ())
    """

    def __init__(self, spec: Spec, removed: Callable[[], None]) -> None:
        self.spec = spec
        self._removed = removed
        self.active = True
        self.is_entered = False

    @property
    def label(self) -> str:
        """What it does, in words."""
        return self.spec.label

    @property
    def acts_here(self) -> bool:
        """Whether it acts on what this thread and task asks, which one that was entered as a block elsewhere does not."""
        return self.active and (not self.is_entered or self in ENTERED.get())

    def remove(self) -> None:
        """Take it out; a second time does nothing.

        Examples
        --------
        >>> import vila_lab
        >>> handle = vila_lab.load().knockout("image_2 -> answer")
        >>> handle.remove()
        >>> handle
        Handle(knock-out of image_2 -> answer in all layers and heads, removed)
        """
        self.active = False
        self._removed()

    def __enter__(self) -> Handle:
        ENTERED.set((*ENTERED.get(), self))
        self.is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        ENTERED.set(tuple(each for each in ENTERED.get() if each.active))

    def __repr__(self) -> str:
        return f"Handle({self.label}{'' if self.active else ', removed'})"
