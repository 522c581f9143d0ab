"""Worker: the one thread that puts a model to work, a question at a time, fair to all who wait. Knows no HTTP.

Who asked least recently comes first, and among the questions of one client the oldest: a client with a hundred questions in the
queue does not keep one with a single question waiting.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .failures import Busy, Refused, closing, gone

WAITING = 256  # questions in the queue, at most
WAITING_EACH = 64  # of one client


@dataclass(eq=False)
class Job:
    """A question that waits, or is being answered.

    Attributes
    ----------
    client : str
        Whose it is.
    work : callable
        Given the job, in the worker's thread.
    failed : callable
        Given the error, where the work raised one, or the job was never begun.
    limit : float
        Seconds that it may take, from its begin.
    alike
        What `Worker` gives to its ``together``, where this may be done beside others; None for work by itself.
    """

    client: str
    work: Callable[[Job], None]
    failed: Callable[[BaseException], None]
    limit: float = float("inf")
    alike: Any = None
    stop: Callable[[], None] | None = None
    is_cancelled: bool = False
    why: Callable[[], Refused] | None = None
    ends_at: float = float("inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raise what the work has to end with: nobody waits for it any more, or it takes too long.

        Raises
        ------
        Refused
        """
        if self.is_cancelled:
            raise (self.why or gone)()
        if time.monotonic() > self.ends_at:
            raise Refused(400, f"this took more than the {self.limit:g} s that one request may take; ask for less")

    def forget(self) -> None:
        """It is done: a job that still held its question would hold that one's keys and values, and be held by it."""
        with self._lock:
            self.work = self.failed = _nothing
            self.stop = self.alike = None

    def follow(self, stop: Callable[[], None]) -> None:
        """Let `cancel` call this; one that came earlier calls it now."""
        with self._lock:
            self.stop = stop
            if self.is_cancelled:
                stop()

    def cancel(self, why: Callable[[], Refused] | None = None) -> None:
        """Nobody waits for the answer any more, or there is another reason to end; from any thread."""
        with self._lock:
            self.why = self.why if self.is_cancelled else why
            self.is_cancelled = True
            if self.stop is not None:
                self.stop()


class Worker:
    """One thread for one model.

    Parameters
    ----------
    most
        How many jobs are done side by side.
    together
        Does several that are alike: given the jobs, and `more`.

    Examples
    --------
    >>> import queue
    >>> worker, done = Worker(), queue.Queue()
    >>> _ = worker.submit("me", lambda job: done.put("done"), done.put)
    >>> done.get(), worker.close(1)
    ('done', True)
    """

    def __init__(self, most: int = 1, together: Together | None = None) -> None:
        self._most, self._together = most, together
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by client, who was served last stands last
        self._running: list[Job] = []
        self._is_open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="vila_lab worker", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether work is taken."""
        return self._is_open

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """Questions being answered."""
        return len(self._running)

    def submit(
        self,
        client: str,
        work: Callable[[Job], None],
        failed: Callable[[BaseException], None],
        limit: float = float("inf"),
        alike: Any = None,
    ) -> Job:
        """Have some work done in the worker's thread, for some seconds at most.

        Raises
        ------
        Busy
            If too many wait.
        Refused
            If the worker is closing.
        """
        job = Job(client, work, failed, limit, alike)
        with self._changed:
            self._check_room(client)
            self._waiting.setdefault(client, deque()).append(job)
            self._changed.notify_all()
        return job

    def check_room(self, client: str) -> None:
        """Whether a client may bring more work, before anything is done for it; raises what `submit` does."""
        with self._changed:
            self._check_room(client)

    def _check_room(self, client: str) -> None:
        if not self._is_open:
            raise closing()
        mine = self._waiting.get(client, ())
        if len(mine) >= WAITING_EACH or sum(map(len, self._waiting.values())) >= WAITING:
            raise Busy("too many questions wait already; ask again later", 2)

    def close(self, seconds: float) -> bool:
        """Begin nothing more, and let what runs end within some seconds; what does not is stopped.

        Returns
        -------
        bool
            Whether the thread has ended.
        """
        with self._changed:
            self._is_open = False
            left = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job.failed(closing())
            job.forget()
        self._thread.join(seconds)
        running = list(self._running)
        if running:
            for job in running:
                job.cancel(closing)
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._do(jobs)
            except BaseException as error:  # the thread outlives whatever a question does
                for job in self._running:
                    job.failed(error)
            finally:
                done, self._running = self._running, []
                for job in done:
                    job.forget()

    def _do(self, jobs: list[Job]) -> None:
        if jobs[0].alike is not None and self._together is not None:
            self._together(jobs, self.more)
            return
        jobs[0].check()
        jobs[0].work(jobs[0])

    def _next(self) -> list[Job]:
        """The next job, and those that may be done beside it; none at the end."""
        with self._changed:
            while self._is_open and not self._waiting:
                self._changed.wait()
            if not self._waiting:
                return []
            self._running = [self._taken(next(iter(self._waiting)))]
            if self._running[0].alike is not None and self._together is not None:
                self._take_alike(self._most - 1)
            return list(self._running)

    def more(self, count: int, seconds: float) -> list[Job]:
        """For what is done side by side, in the worker's thread: further jobs of the kind, so many at most, as soon as there are any
        within some seconds."""
        end = time.monotonic() + seconds
        with self._changed:
            while not (found := self._take_alike(count)) and self._is_open and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        return found

    def _take_alike(self, most: int) -> list[Job]:
        """One of each client, and again, as long as the oldest of one is of those that may stand beside others."""
        taken: list[Job] = []
        found = True
        while found:
            found = False
            for client in list(self._waiting):
                if len(taken) < most and self._waiting[client][0].alike is not None:
                    taken.append(self._taken(client))
                    found = True
        self._running += taken
        return taken

    def _taken(self, client: str) -> Job:
        """A client's oldest, whose time begins; the client stands behind all others then."""
        jobs = self._waiting.pop(client)
        job = jobs.popleft()
        job.ends_at = time.monotonic() + job.limit
        if jobs:
            self._waiting[client] = jobs
        return job


class Together(Protocol):
    """What does jobs side by side."""

    def __call__(self, jobs: list[Job], more: Callable[[int, float], list[Job]]) -> None: ...


def _nothing(_: object) -> None:
    """What is left of work that is done."""
