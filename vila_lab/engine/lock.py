"""ModelLock: whose turn it is to use a model; others wait, and who asks during its own turn is told. Knows no model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..errors import CaptureError

if TYPE_CHECKING:  # a type checker holds the built-in lock for final; it is not

    class RLock:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def _is_owned(self) -> bool: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, *error: object) -> None: ...
else:
    RLock = type(threading.RLock())


class ModelLock(RLock):
    """A lock for one model.

    A plain lock would let a hook that asks its own session wait for ever, and one that lets the same thread in again would
    run a second question in the middle of the first.

    Leaving is the built-in lock's own, which no interrupt can come into: written in Python, a Ctrl-C at its first line
    would leave the model locked for good.

    It is taken itself, never through a context manager written as a generator: that would hold it for as long as a traceback
    does, where a Ctrl-C came between its beginning and the block.

    Examples
    --------
    >>> turn = ModelLock()
    >>> with turn:
    ...     turn.locked()
    True
    """

    def locked(self) -> bool:
        """Whether somebody has the turn."""
        if self._is_owned():  # what `threading.Condition` asks of a lock, too
            return True
        if not self.acquire(blocking=False):
            return True
        self.release()
        return False

    def __enter__(self) -> bool:
        if self._is_owned():
            raise CaptureError(
                "this model is at work for this very call (a hook asked it something): keep what you need in the hook, and ask afterwards"
            )
        try:
            return super().__enter__()
        except BaseException:
            if self._is_owned():  # interrupted after the lock was taken
                self.release()
            raise
