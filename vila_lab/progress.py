"""A plain progress bar on stderr for what takes more than two seconds. Knows nothing of what is counted.

The environment variable ``TQDM_DISABLE=1`` keeps all bars away, in a script's log say; inside `told_to` somebody is told instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

Told: TypeAlias = "Callable[[int, int, str], None]"
TOLD: ContextVar[Told | None] = ContextVar("vila_lab_told", default=None)

PATIENCE = 2.0  # seconds before a bar appears


@contextmanager
def progress(total: int, what: str) -> Iterator[Any]:
    """A bar to call ``update()`` on; it shows only once the work has taken two seconds, and goes when it is done."""
    told = TOLD.get()
    if told is not None:
        yield Telling(told, total, what)
        return
    from tqdm import tqdm

    # tqdm itself looks at the variable only once, when it is imported.
    off = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    with tqdm(
        total=total, unit=f" {what}", delay=PATIENCE, leave=False, file=sys.stderr, ascii=True, disable=off
    ) as bar:
        yield bar


class Telling:
    """In place of a bar: somebody is told how much of it is done."""

    def __init__(self, told: Told, total: int, what: str) -> None:
        self._told, self._total, self._what = told, total, what
        self._done = 0
        told(0, total, what)

    def update(self, count: int = 1) -> None:
        self._done += count
        self._told(self._done, self._total, self._what)


@contextmanager
def told_to(told: Told) -> Iterator[None]:
    """Work inside shows no bar, and tells how much is done, of how many, of what.

    >>> seen = []
    >>> with told_to(lambda *told: seen.append(told)), progress(2, "passes") as bar:
    ...     bar.update()
    >>> seen
    [(0, 2, 'passes'), (1, 2, 'passes')]
    """
    before = TOLD.set(told)
    try:
        yield
    finally:
        TOLD.reset(before)
