"""How much did a position, a patch or a picture contribute to a word? One method per file, one registry, one result."""

from ..engine.replay import Replay
from .registry import attribute, methods
from .result import Attribution, Cost

__all__ = ["Attribution", "Cost", "Replay", "attribute", "methods"]
