"""The words that options of attribution methods take, for signatures and checks. Knows no method and no model."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Baseline", "Cover", "On", "Readers", "Score", "Unit"]

Score: TypeAlias = Literal["logprob", "logodds"]
Baseline: TypeAlias = Literal["remove", "mean", "grey", "blur"]
On: TypeAlias = Literal["embeddings", "pixels"]
Readers: TypeAlias = Literal["all", "answer"]
Cover: TypeAlias = Literal["cells", "tiles"]
Unit: TypeAlias = Literal["clause", "word"]
