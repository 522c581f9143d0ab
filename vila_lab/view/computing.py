"""Computing: a piece of work in a thread of its own, which tells how far it is and can be given up. Knows no widget and no model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import VilaLabError
from ..interrupts import stoppable
from ..progress import told_to

PAUSE = 0.1  # seconds between two reports, at least: a browser draws no more


class GivenUp(VilaLabError, RuntimeError):
    """What work ends with that nobody waits for any more."""


class Computing:
    """A piece of work, begun at once.

    Whoever asks the model for something meanwhile waits for its turn, as it is with any two threads of a session.

    Parameters
    ----------
    work
        Called in the thread.
    told
        Hears how much is done: (done, total, what).
    ended
        Hears the result, and "", or None and what went wrong; not called once it was given up.

    Examples
    --------
    >>> import queue
    >>> heard = queue.Queue()
    >>> _ = Computing(lambda: 6 * 7, lambda *told: None, lambda *ended: heard.put(ended))
    >>> heard.get()
    (42, '')
    """

    def __init__(
        self, work: Callable[[], Any], told: Callable[[int, int, str], None], ended: Callable[[Any, str], None]
    ) -> None:
        self._work, self._told, self._ended = work, told, ended
        self._is_given_up = threading.Event()
        self._said_at = -PAUSE
        self._thread = threading.Thread(target=self._run, name="vila_lab computing", daemon=True)
        self._thread.start()

    def give_up(self) -> None:
        """Let it end before its next pass through the model; from any thread."""
        self._is_given_up.set()

    def join(self, seconds: float) -> bool:
        """Wait for its end; returns whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with stoppable(self._check), told_to(self._tell):
                found, error = self._work(), ""
        except Exception as failure:  # whoever waits is to hear of it: in a thread it would be lost
            is_said = isinstance(failure, VilaLabError)
            found, error = None, str(failure) if is_said else f"{type(failure).__name__}: {failure}"
        if not self._is_given_up.is_set():
            self._ended(found, error)

    def _check(self) -> None:
        if self._is_given_up.is_set():
            raise GivenUp("this was given up")

    def _tell(self, done: int, total: int, what: str) -> None:
        self._check()  # a server's work is stopped here, where its events are heard
        now = time.monotonic()
        if now - self._said_at >= PAUSE:
            self._said_at = now
            self._told(done, total, what)
