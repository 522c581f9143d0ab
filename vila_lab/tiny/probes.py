"""Questions whose answer is about one known thing in one known picture: ground truth for maps. Knows scenes, no model.

Every set has four pictures; the one asked about holds two things, so that each covers well under a quarter of it, and
stands at each of the four places equally often. The pictures are drawn from seeds that no training picture came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .names import COMPANIES, OBJECTS, THINGS, thing
from .world import Scene, draw_scene

PICTURES = 4
LEFT_TO_RIGHT = 0.1  # share of the width by which two things must differ for their order to be plain

EVALUATION_SEED = 1_000_000  # seeds from here on are never drawn for training


@dataclass(frozen=True)
class Probe:
    """A question about one picture of a set.

    Attributes
    ----------
    scenes : tuple of Scene
    question, answer : str
    picture : int
        What the question is about, counted from 0.
    word : str
        One thing of the answer, as the answer says it.
    box : (x0, y0, x1, y1)
        Where that thing is, in pixels of its picture.
    """

    scenes: tuple[Scene, ...]
    question: str
    answer: str
    picture: int
    word: str
    box: tuple[float, float, float, float]


def probes(seed: int = 0) -> Iterator[Probe]:
    """An endless stream of probes; the same seed gives the same ones.

    >>> first = next(probes())
    >>> first.picture, len(first.scenes), first.word in first.answer
    (0, 4, True)
    """
    rng = np.random.default_rng(EVALUATION_SEED + 500_000 + seed)
    place = 0
    while True:
        yield probe(rng, place % PICTURES)
        place += 1


def probe(rng: np.random.Generator, picture: int) -> Probe:
    """One probe about the given place."""
    scenes = []
    for k in range(PICTURES):
        while True:
            names = _two(rng) if k == picture else random_names(rng)
            scene = draw_scene(rng, names, allow_held_out=True)
            if k != picture or _is_ordered(scene):
                break
        scenes.append(scene)
    held = scenes[picture].placed
    chosen = held[int(rng.integers(len(held)))]
    x0, y0, x1, y1 = chosen.box
    things = [thing(each.name) for each in held]
    if rng.random() < 0.5:
        question, answer = f"图像{picture + 1}里有什么?", f"{'和'.join(each.chinese for each in things)}。"
        word = thing(chosen.name).chinese
    else:
        said = " and ".join(each.phrase for each in things)
        question, answer = f"What is in image {picture + 1}?", said[0].upper() + said[1:] + "."
        word = chosen.name
    return Probe(tuple(scenes), question, answer, picture, word, (x0, y0, x1, y1))


def _two(rng: np.random.Generator) -> list[str]:
    return [str(name) for name in rng.choice([each.name for each in OBJECTS], 2, replace=False)]


def _is_ordered(scene: Scene) -> bool:
    first, second = scene.placed
    return second.centre[0] - first.centre[0] > LEFT_TO_RIGHT * scene.image.width


def random_names(rng: np.random.Generator) -> list[str]:
    """What a drawn picture holds: often one thing; company marks mostly stand alone."""
    if rng.random() < 0.28:
        return [str(rng.choice([t.name for t in COMPANIES]))]
    count = int(rng.choice([1, 2, 3, 4], p=[0.5, 0.34, 0.11, 0.05]))
    from_all = rng.random() < 0.15
    names = [t.name for t in (THINGS if from_all else OBJECTS)]
    return [str(name) for name in rng.choice(names, count, replace=False)]
