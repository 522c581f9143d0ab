"""Answers that are kept for whoever asked, within bounds of bytes and time. Knows no HTTP and no model."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..answer import Answer
from .failures import Refused

MOST_BYTES = 2 * 2**30  # all answers together
MOST_EACH = 1_000  # answers of one owner
SECONDS = 3600.0  # since somebody looked at it


@dataclass
class Entry:
    """An answer that is kept."""

    owner: str
    answer: Answer
    nbytes: int
    looked_at: float


class Kept:
    """Answers by ids that nobody can guess; each is known to its owner alone.

    Beyond the bounds those go that were looked at least recently, first of the owner who has most.

    Parameters
    ----------
    most_bytes, most_each, seconds
        Bytes of all, answers of one owner, and how long an answer is kept that nobody looks at.
    clock
        Seconds; another one for tests.
    """

    def __init__(
        self,
        most_bytes: int = MOST_BYTES,
        most_each: int = MOST_EACH,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most_bytes, self.most_each, self.seconds = most_bytes, most_each, seconds
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # looked at last stands last
        self._lock = threading.Lock()

    @staticmethod
    def new_id() -> str:
        """An id for an answer to come."""
        return f"chatcmpl-{secrets.token_urlsafe(18)}"

    @property
    def nbytes(self) -> int:
        """Bytes of all answers."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, owner: str, name: str, answer: Answer) -> None:
        """Keep an answer under an id."""
        with self._lock:
            self._entries[name] = Entry(owner, answer, answer.nbytes, self._clock())
            self._keep_bounds(owner)

    def get(self, owner: str, name: str) -> Answer:
        """An owner's answer.

        Raises
        ------
        Refused
            If there is none, or none of this owner's.
        """
        with self._lock:
            self._drop_old()
            entry = self._entries.get(name)
            if entry is None or entry.owner != owner:
                raise Refused(
                    404, "there is no answer of that id, or it is not kept any more: ask again", kind="AnswerGone"
                )
            entry.looked_at = self._clock()
            self._entries.move_to_end(name)
            return entry.answer

    def drop(self, owner: str, names: Sequence[str]) -> int:
        """Let go of some of an owner's answers; returns how many there were."""
        with self._lock:
            mine = [name for name in names if name in self._entries and self._entries[name].owner == owner]
            for name in mine:
                del self._entries[name]
            return len(mine)

    def of(self, owner: str) -> list[dict[str, Any]]:
        """An owner's answers, those looked at last first, in words and numbers."""
        with self._lock:
            self._drop_old()
            now = self._clock()
            return [
                {
                    "id": name,
                    "object": "vila_lab.answer",
                    "text": entry.answer.text,
                    "bytes": entry.nbytes,
                    "expires_in": round(self.seconds - (now - entry.looked_at), 1),
                }
                for name, entry in reversed(self._entries.items())
                if entry.owner == owner
            ]

    def _drop_old(self) -> None:
        oldest = self._clock() - self.seconds
        for name in [name for name, entry in self._entries.items() if entry.looked_at < oldest]:
            del self._entries[name]

    def _keep_bounds(self, owner: str) -> None:
        self._drop_old()
        mine = [name for name, entry in self._entries.items() if entry.owner == owner]
        for name in mine[: max(0, len(mine) - self.most_each)]:
            del self._entries[name]
        sizes: dict[str, int] = {}
        for entry in self._entries.values():
            sizes[entry.owner] = sizes.get(entry.owner, 0) + entry.nbytes
        while sum(sizes.values()) > self.most_bytes and len(self._entries) > 1:
            most = max(sizes, key=lambda each: sizes[each])
            name = next(name for name, entry in self._entries.items() if entry.owner == most)
            sizes[most] -= self._entries.pop(name).nbytes
