"""Band: the layers, and the strength, at which steering to another picture decides the answer. Plain data; knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Band:
    """Layers of a decoder, and a strength in nats.

    Attributes
    ----------
    layers : tuple of int
    strength : float
        Added to the scores of the picture steered to.
    followed : float
        Share of the questions it was chosen on that were then answered word for word as with the two pictures exchanged.
    questions : int
        On how many it was chosen; 0 where it was given.

    Examples
    --------
    >>> Band((3, 4, 5), 6.0, 0.9, 20)
    Band(layers 3 to 5 at strength 6: 90 % of 20 questions followed)
    >>> Band.from_json(Band((3, 4), 6.0).to_json())
    Band(layers 3 to 4 at strength 6, given)
    """

    layers: tuple[int, ...]
    strength: float
    followed: float = 0.0
    questions: int = 0

    def __repr__(self) -> str:
        found = f": {self.followed:.0%} of {self.questions} questions followed".replace("%", " %")
        said = f"layers {self.layers[0]} to {self.layers[-1]} at strength {self.strength:g}"
        return f"Band({said}{found if self.questions else ', given'})"

    def to_json(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Band:
        """A band from what `to_json` made."""
        layers = tuple(int(layer) for layer in content["layers"])
        return cls(layers, float(content["strength"]), float(content["followed"]), int(content["questions"]))
