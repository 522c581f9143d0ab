"""Which of transformers' common tests are exempt, and why. Only data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exemption:
    """A test that fails for a reason; `versions` are those of transformers in which it does."""

    test: str
    reason: str
    versions: str = ""


EXEMPTIONS: tuple[Exemption, ...] = ()
