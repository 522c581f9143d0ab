"""Program: which hooks and edits act on a question that is asked here and now. Knows no kind of edit and no model."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

from ..engine.question import Spec
from .handle import ENTERED, Handle


class Program:
    """The hooks and edits of one session; each caller has its own, in the order in which they were made."""

    def __init__(self) -> None:
        self._mine = threading.local()  # those that this thread made
        self._all: weakref.WeakSet[Handle] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self._acting())

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._acting())

    @property
    def specs(self) -> tuple[Spec, ...]:
        """What acts here, for a request to carry."""
        return tuple(handle.spec for handle in self)

    def add(self, spec: Spec) -> Handle:
        """Put a hook or an edit behind those that are there."""
        handle = Handle(spec, self._forget_removed)
        self._mine.handles = [*self._made_here(), handle]
        self._all.add(handle)
        return handle

    def clear(self) -> None:
        """Remove those that act here."""
        for handle in self:
            handle.remove()

    def clear_everywhere(self) -> None:
        """Remove all of them, whoever made them."""
        for handle in list(self._all):
            handle.remove()

    def _acting(self) -> list[Handle]:
        """What acts on a question asked here: blocks that were entered, also before this thread began, and what this thread made."""
        made = self._made_here()
        inherited = [handle for handle in ENTERED.get() if handle in self._all and handle not in made]
        return [handle for handle in [*inherited, *made] if handle.acts_here]

    def _forget_removed(self) -> None:
        """What an edit holds (an answer to patch from) goes with it."""
        self._mine.handles = [handle for handle in self._made_here() if handle.active]

    def _made_here(self) -> list[Handle]:
        found: list[Handle] = getattr(self._mine, "handles", [])
        return found
