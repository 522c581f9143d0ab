"""How much did a position, a patch or a picture contribute to a word? One method per file, one registry, one result."""

from .registry import attribute, methods
from .replay import Replay
from .result import Attribution, Cost
from .target import Said

__all__ = ["Attribution", "Cost", "Replay", "Said", "attribute", "methods"]
