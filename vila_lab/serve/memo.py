"""Memo: the last answers, for whoever asks the very same again. Knows keys and records, no HTTP.

A question that draws nothing at random has one answer, as long as the model is the same. Weights that change, somebody's hooks in
the model, and memory that runs out empty it, as they empty what the engine keeps (`vila_lab.engine.reuse`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from ..engine.engine import Engine
from ..engine.memory import image_bytes
from ..engine.record import Record

MOST = 64  # questions
MOST_BYTES = 256 * 2**20  # of their pictures, queries and keys


class Memo:
    """Records by what equal questions have in common; in the worker's thread.

    Parameters
    ----------
    engine
        Whose answers they are.
    most, most_bytes
        Bounds; what was asked least recently goes.
    """

    def __init__(self, engine: Engine, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._engine, self._most, self._most_bytes = engine, most, most_bytes
        self._kept: OrderedDict[Hashable, tuple[Record, ...]] = OrderedDict()
        self._cleared = engine.reuse.cleared

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Hashable) -> bool:
        return key is not None and key in self._kept

    def look(self) -> None:
        """Let go of what the model would not say any more. That walks all of it, so it is done once for what is asked together."""
        self._engine.usable()
        self._is_valid()

    def get(self, key: Hashable) -> tuple[Record, ...] | None:
        """The answers to a question, if it was asked lately; behind a `look`."""
        if key not in self:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: Hashable, records: Sequence[Record]) -> None:
        """Keep the answers to a question that was answered just now."""
        if key is None or not self._is_valid():
            return
        self._kept[key] = tuple(records)
        self._kept.move_to_end(key)
        while self._kept and (len(self._kept) > self._most or self._nbytes > self._most_bytes):
            self._kept.popitem(last=False)

    @property
    def _nbytes(self) -> int:
        records = [record for records in self._kept.values() for record in records]
        tapes = sum(record.kept.device_bytes + record.kept.host_bytes for record in records)
        return tapes + image_bytes(image for record in records for image in record.images)

    def _is_valid(self) -> bool:
        """Whether what is kept is what the model would say, as the engine saw it last; if not, it is let go of."""
        if not self._engine.is_alone or self._engine.reuse.cleared != self._cleared:
            self._kept.clear()
            self._cleared = self._engine.reuse.cleared
        return self._engine.is_alone
