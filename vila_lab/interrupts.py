"""What must not stay half done: Ctrl-C waits for it, and a model in which it stayed so is refused. Knows no layers.

And how work is given up by whoever waits for it in another thread: `stoppable` around it, `check_stop` before each of its passes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch

from .errors import CaptureError

__all__ = ["UNFINISHED", "check_finished", "check_stop", "keeps_gradients", "stoppable", "uninterrupted"]

P = ParamSpec("P")
R = TypeVar("R")

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


def keeps_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Whether torch computes gradients is after the function as it was before, also after Ctrl-C at any line of it.

    ``torch.no_grad`` alone does not promise that: it is Python, and an interrupt as it ends leaves gradients off for good.

    >>> import torch
    >>> _ = keeps_gradients(lambda: torch.set_grad_enabled(False))()
    >>> torch.is_grad_enabled()
    True
    """

    @wraps(function)
    def kept(*args: P.args, **kwargs: P.kwargs) -> R:
        before = torch.is_grad_enabled()
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_grad_enabled(before)

    return kept


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


CHECK: ContextVar[Callable[[], None] | None] = ContextVar("vila_lab_check", default=None)


@contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """Work inside ends at its next pass once the check raises; it leaves things as after Ctrl-C.

    >>> with stoppable(lambda: None):
    ...     check_stop()
    """
    before = CHECK.set(check)
    try:
        yield
    finally:
        CHECK.reset(before)


def check_stop() -> None:
    """Raise what the work around this ends with, if it is to end."""
    check = CHECK.get()
    if check is not None:
        check()
