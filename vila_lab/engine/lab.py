"""Lab: whoever answers questions and runs experiments on them. Knows none of those who do."""

from __future__ import annotations

from typing import Any, Protocol

from .inputs import Inputs
from .record import Record
from .replay import Replay
from .request import Request


class Lab(Protocol):
    """A session, or what stands for one elsewhere."""

    @property
    def name(self) -> str:
        """What records call its model."""
        ...

    @property
    def state(self) -> Any:
        """Tells its model before from after a change of its weights; None where that cannot be known, like no other while it is not
        itself."""
        ...

    def run(self, request: Request) -> Record:
        """Answer a request."""
        ...

    def experiment(self, record: Record, name: str, **options: Any) -> Any:
        """Run an experiment of `vila_lab.experiments` on an answer."""
        ...

    def replay(self, record: Record) -> Replay:
        """An answer's question, ready to be run again; only where the model is in this process."""
        ...

    def inputs(self, record: Record) -> Inputs:
        """What is kept of an answer's question for its next experiment."""
        ...
