"""How far something is that takes longer than a second: on stderr, or in a notebook's cell. Knows nothing of what is counted.

One line at a time, whatever is counted inside of what; it moves also while nothing is counted, and goes when the work is done.
Where a line can be neither moved nor taken away, as in a script's log, it is written once, when the work has taken its second.
The environment variable ``TQDM_DISABLE=1`` keeps it away; inside `told_to` somebody is told instead.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from time import monotonic
from typing import Any, Protocol, TypeAlias

from tqdm import tqdm
from tqdm.utils import disp_trim

__all__ = ["Bar", "Cell", "Count", "Log", "Terminal", "place", "progress", "told_to"]

Told: TypeAlias = "Callable[[int, int, str], None]"
TOLD: ContextVar[Told | None] = ContextVar("vila_lab_told", default=None)
UNDER_WAY: ContextVar[Bar | None] = ContextVar("vila_lab_under_way", default=None)

PATIENCE = 1.0  # seconds before anything is shown
PERIOD = 0.2  # seconds between two looks at what was counted
COLUMNS = 79


class Count:
    """How much is done, of how many.

    Attributes
    ----------
    total : int or None
        None where nobody knows.
    what : str
        What is counted.
    doing : str
        What is done to them.
    done : int
    """

    def __init__(self, total: int | None, what: str, doing: str = "") -> None:
        self.total, self.what, self.doing = total, what, doing
        self.done, self.started = 0, monotonic()
        self._heard: Any = None
        self._count: Callable[[], int] | None = None

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count

    def follow(self, count: Callable[[], int]) -> None:
        """Ask how many are done, instead of being told."""
        self._count = count

    def listener(self) -> type[Any]:
        """A kind of tqdm for packages that make their own: it shows nothing by itself, and what it counts is shown here."""
        count = self

        class Heard(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)  # of huggingface_hub's own kind
                super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})
                if count._heard is None or self.unit == "B":  # where files are fetched, their bytes tell more
                    count._heard = self

        return Heard

    def line(self) -> str:
        """What is shown of it.

        >>> count = Count(4, "variants")
        >>> count.update()
        >>> count.line().split("|")[0].strip(), Count(None, "", "loading a model").line()
        ('25%', 'loading a model: 0 s')
        """
        seconds = monotonic() - self.started
        heard = self._heard
        if self._count is not None:
            self.done = self._count()
        done, total = (self.done, self.total) if heard is None else (heard.n, heard.total)
        if not total and not done:
            return f"{self.doing or self.what}: {seconds:.0f} s"
        unit = {"unit": f" {self.what}"} if heard is None else {"unit": heard.unit, "unit_scale": heard.unit_scale}
        return str(tqdm.format_meter(done, total, seconds, ncols=COLUMNS, ascii=True, prefix=self.doing, **unit))


class Screen(Protocol):
    """Where a line can be shown, shown anew, and taken away."""

    def show(self, line: str) -> None: ...
    def clear(self) -> None: ...


class Terminal:
    """A line of stderr, cut where a terminal would go on in the next: that one could not be taken away."""

    def __init__(self) -> None:
        self._print = tqdm.status_printer(sys.stderr)

    def show(self, line: str) -> None:
        self._print(disp_trim(line, _room()))

    def clear(self) -> None:
        self._print("")
        sys.stderr.write("\r")
        sys.stderr.flush()


class Log:
    """Lines that stay: what stderr is written to is a file or another program."""

    def __init__(self) -> None:
        self._said = False

    def show(self, line: str) -> None:
        if not self._said:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        self._said = True

    def clear(self) -> None:
        """Nothing is taken away."""


class Cell:
    """An output of a notebook's cell. It has no place when it is cleared: what goes to stderr there leaves an empty strip."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, line: str) -> None:
        from IPython import display

        if self._handle is None:
            publish: Any = display.display  # which has no types
            self._handle = publish({"text/plain": line}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": line}, raw=True)

    def clear(self) -> None:
        self._handle.update({}, raw=True)


class Bar:
    """What is under way, and what is under way inside of it; the innermost is shown.

    A thread looks after it, so that it is shown also while a single long step counts nothing.
    """

    def __init__(self) -> None:
        self.counts: list[Count] = []
        self._started = monotonic()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._screen: Screen | None = None

    def watch(self) -> None:
        """Begin to look after it."""
        threading.Thread(target=copy_context().run, args=(self._watch,), daemon=True).start()

    def _watch(self) -> None:
        wait = PATIENCE
        while not self._ended.wait(wait):
            self.look()
            wait = PERIOD

    def look(self) -> None:
        """Show where it stands, if it takes long."""
        if monotonic() - self._started < PATIENCE:
            return
        with self._lock:
            if self._ended.is_set() or not self.counts:
                return
            if self._screen is None:
                self._screen = place()
            self._screen.show(self.counts[-1].line())

    def end(self) -> None:
        """Take away what is shown."""
        self._ended.set()
        with self._lock:
            screen, self._screen = self._screen, None
            if screen is not None:
                screen.clear()


def place() -> Screen:
    """Where a line is shown in this process."""
    if _is_notebook():
        return Cell()
    return Terminal() if sys.stderr.isatty() else Log()


def _room() -> int:
    """Columns of the terminal that a line may take."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:  # what calls itself a terminal and is none
        columns = 0
    return columns - 1 if columns else COLUMNS


def _is_notebook() -> bool:
    """Whether this runs in a kernel, whose cells show more than text."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def progress(total: int | None, what: str, doing: str = "") -> Iterator[Any]:
    """A `Count` to call ``update()`` on; it is shown only once the work takes a second, and goes when it is done.

    Parameters
    ----------
    total
        How many there are; None where nobody knows.
    what
        What is counted.
    doing
        What is done, in words: "loading a model".
    """
    told, bar = TOLD.get(), UNDER_WAY.get()
    if told is not None:
        yield Telling(told, total, what)
    elif bar is not None:
        with _counted(bar, Count(total, what, doing)) as count:
            yield count
    elif os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        yield Count(total, what, doing)
    else:
        with _shown() as bar, _counted(bar, Count(total, what, doing)) as count:
            yield count


@contextmanager
def _shown() -> Iterator[Bar]:
    bar = Bar()
    before = UNDER_WAY.set(bar)
    try:
        bar.watch()
        yield bar
    finally:
        UNDER_WAY.reset(before)
        bar.end()


@contextmanager
def _counted(bar: Bar, count: Count) -> Iterator[Count]:
    bar.counts.append(count)
    try:
        yield count
        bar.look()
    finally:
        bar.counts.remove(count)


class Telling(Count):
    """In place of a bar: somebody is told how much of it is done."""

    def __init__(self, told: Told, total: int | None, what: str) -> None:
        super().__init__(total, what)
        self._told = told
        self._tell()

    def update(self, count: int = 1) -> None:
        super().update(count)
        self._tell()

    def _tell(self) -> None:
        if self.total is not None:
            self._told(self.done, self.total, self.what)


@contextmanager
def told_to(told: Told) -> Iterator[None]:
    """Work inside shows no bar, and tells how much is done, of how many, of what.

    >>> seen = []
    >>> with told_to(lambda *told: seen.append(told)), progress(2, "passes") as count:
    ...     count.update()
    >>> seen
    [(0, 2, 'passes'), (1, 2, 'passes')]
    """
    before = TOLD.set(told)
    try:
        yield
    finally:
        TOLD.reset(before)
