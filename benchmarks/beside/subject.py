"""What every tool is asked about: a model, a prompt of pictures, an answer's length. Knows no tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vila_lab
from benchmarks.random_nvila import HALF_B, SMALL, Shape, question, random_session
from vila_lab.picture import Picture
from vila_lab.prompt import Prompt
from vila_lab.session import Session


@dataclass(frozen=True)
class Asked:
    """One prompt as a model reads it.

    Attributes
    ----------
    parts
        Pictures and texts, in order.
    inputs
        Keyword arguments of the model's `forward` and `generate`.
    pictures : Tensor (T,)
        The picture of each position, -1 for none.
    tokens
        How many are generated.
    """

    parts: list[Any]
    inputs: Mapping[str, Tensor]
    pictures: Tensor
    tokens: int

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return int(self.pictures.max()) + 1


@dataclass(frozen=True)
class Subject:
    """A model, and the question about several pictures that all are asked."""

    lab: Session
    parts: list[Any]
    tokens: int

    def asked(self, pictures: int | None = None, tokens: int | None = None) -> Asked:
        """The prompt, or a shorter one about its last pictures."""
        parts = self.parts if pictures is None else self.parts[-1 - pictures :]
        prepared = self.lab.family.prepare(Prompt.of(parts))
        of_position = torch.from_numpy(prepared.token_map.picture)
        return Asked(parts, prepared.inputs, of_position, tokens or self.tokens)


def noise(shape: Shape, pictures: int, tokens: int) -> Subject:
    """Random weights, and pictures of noise."""
    return Subject(random_session(shape, "cpu", torch.float32), question(shape, pictures), tokens)


def trained(where: str | None = None) -> Subject:
    """A trained model and four marks. It answers at length, and up to its end: not every tool can keep a model from ending."""
    lab, folder = vila_lab.load(where), vila_lab.demo_images()
    parts = [*(Picture.of(folder / f"{name}.png").image for name in "gman"), "What is in each image?"]
    return Subject(lab, parts, len(lab.ask(parts).tokens) - 1)


ROOT = Path(__file__).parents[2]
WHOLE = "12 layers of Qwen2-0.5B's width"
EMBEDDED, SECOND, SMALLEST = "embedded model", "embedded model as an Idefics 3", "smallest model"
SUBJECTS: dict[str, Callable[[], Subject]] = {
    WHOLE: partial(noise, replace(HALF_B, layers=12), 4, 32),
    EMBEDDED: trained,
    SECOND: partial(trained, str(ROOT / "tests" / "goldens" / "second")),
    SMALLEST: partial(noise, SMALL, 3, 4),
}
