"""What must not stay half done: Ctrl-C waits for it, and a model in which it stayed so is refused. Knows no layers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .errors import CaptureError

__all__ = ["UNFINISHED", "check_finished", "uninterrupted"]


UNFINISHED = "_vila_lab_unfinished"
"""Attribute of a model in which something stands that must be put back: what it is, in words."""


def check_finished(model: Any, name: str) -> None:
    """Refuse a model in which an interrupt left something behind.

    Raises
    ------
    CaptureError
        With the way out.
    """
    left = model.__dict__.get(UNFINISHED)
    if left is not None:
        raise CaptureError(
            f"{name} was left in the middle of something ({left}): call lab.unload() and vila_lab.load() again"
        )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C inside the block takes effect at its end. Other threads than the main one never receive any.

    >>> with uninterrupted():
    ...     pass
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    try:
        try:
            signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    finally:  # again: an exception may have come just before the handler was put back
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])
