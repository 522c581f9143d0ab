"""Turn: whose turn it is to use a model; others wait, and who asks during its own turn is told. Knows no model."""

from __future__ import annotations

import threading
from types import TracebackType

from .errors import CaptureError


class Turn:
    """A lock for one model.

    A plain lock would let a hook that asks its own session wait for ever, and one that lets the same thread in again would
    run a second question in the middle of the first.

    Examples
    --------
    >>> turn = Turn()
    >>> with turn:
    ...     turn.locked()
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def locked(self) -> bool:
        """Whether somebody has the turn."""
        return self._lock.locked()

    def __enter__(self) -> Turn:
        if self._owner == threading.get_ident():
            raise CaptureError(
                "this model is at work for this very call (a hook asked it something): keep what you need in the hook, and ask afterwards"
            )
        self._lock.acquire()
        self._owner = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner = None
        self._lock.release()
