"""What an engine computed of a question and keeps for its next experiment. Knows no model and no experiment."""

from __future__ import annotations

from ..families.base import Embedded, Prepared


class Inputs:
    """Model inputs and embeddings of one question, kept for its next experiment."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self.embedded: Embedded | None = None

    @property
    def nbytes(self) -> int:
        held = 0 if self.prepared is None else self.prepared.nbytes
        return held + (0 if self.embedded is None else self.embedded.nbytes)

    def release(self) -> None:
        """Forget them; they are computed again when needed."""
        self.prepared = self.embedded = None
