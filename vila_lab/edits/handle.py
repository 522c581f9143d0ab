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
        """Whether it acts on what this thread and task asks; one without a block is only known to the thread it acts for."""
        return self.active and (not self.is_entered or self in ENTERED.get())

    def remove(self) -> None:
        """Take it out; a second time does nothing."""
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
