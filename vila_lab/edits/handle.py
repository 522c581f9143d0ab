"""Handle: what a hook or an edit gives back, to take it out again. Knows no kind."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from .spec import Spec


class Handle:
    """A hook or an edit that acts on every question from now on, until it is removed.

    It is also a context manager: ``with lab.knockout("image_2 -> answer"): lab.ask(...)``.
    """

    def __init__(self, spec: Spec, remove: Callable[[Handle], None]) -> None:
        self.spec = spec
        self._remove = remove
        self.active = True

    @property
    def label(self) -> str:
        """What it does, in words."""
        return self.spec.label

    def remove(self) -> None:
        """Take it out; a second time does nothing."""
        if self.active:
            self.active = False
            self._remove(self)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Handle({self.label}{'' if self.active else ', removed'})"
