"""Questions whose truth is known, drawn or from a file: which picture the answer is about, and where in it. Knows no model.

A file has a JSON object per line with what `vila_lab.evidence.Sample` takes: ``images`` (paths, seen from the file's folder),
``question``, ``picture`` (from 0, or "image_2"), ``boxes`` ([[x0, y0, x1, y1], ...] in that picture's pixels) and ``word`` (of the answer),
and if it is known the whole ``answer``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vila_lab.evidence import Sample
from vila_lab.tiny.names import THINGS, thing
from vila_lab.tiny.probes import EVALUATION_SEED, PICTURES, probes, random_names
from vila_lab.tiny.world import draw_scene


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes
    ----------
    sample : Sample
        With the word of the answer to explain, and boxes.
    answer : str
        The right one; "" where it is not known.
    finds : str or None
        The words of a question that does not name its picture which say what to look for.
    """

    sample: Sample
    answer: str = ""
    finds: str | None = None

    @property
    def parts(self) -> list[Any]:
        """The prompt."""
        return [*self.sample.images, self.sample.question]


def named(seed: int) -> Iterator[Case]:
    """Four drawn pictures; the question names one of them by its number."""
    for probe in probes(seed):
        images = tuple(scene.image for scene in probe.scenes)
        yield Case(Sample(images, probe.question, probe.picture, (probe.box,), probe.word), probe.answer)


def unnamed(seed: int) -> Iterator[Case]:
    """Four drawn pictures; the question asks which of them shows something, and one does. Each place is as frequent."""
    rng = np.random.default_rng([EVALUATION_SEED, 600_000 + seed])
    count = 0
    while True:
        scenes = [draw_scene(rng, random_names(rng), allow_held_out=True) for _ in range(PICTURES)]
        place = count % PICTURES
        elsewhere = {placed.name for k, scene in enumerate(scenes) if k != place for placed in scene.placed}
        alone = [placed for placed in scenes[place].placed if placed.name not in elsewhere]
        if not alone:
            continue
        count += 1
        placed = alone[int(rng.integers(len(alone)))]
        shown, number = thing(placed.name), str(place + 1)
        if rng.random() < 0.5:
            question, answer, finds = f"哪张图像里有{shown.chinese}?", f"图像{number}。", shown.chinese
        else:
            question, answer, finds = f"Which image shows {shown.phrase}?", f"Image {number}.", shown.name
        x0, y0, x1, y1 = placed.box
        yield Case(Sample(tuple(s.image for s in scenes), question, place, ((x0, y0, x1, y1),), number), answer, finds)


def given(path: Path) -> Iterator[Case]:
    """The lines of a file, once."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            told = json.loads(line)
            images = tuple(path.parent / name for name in told["images"])
            boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in told["boxes"])
            yield Case(Sample(images, told["question"], told["picture"], boxes, told["word"]), told.get("answer", ""))


def other_word(rng: np.random.Generator, word: str) -> str:
    """A word that could stand in another one's place: a shuffled label."""
    numbers = [str(k + 1) for k in range(PICTURES)]
    same = numbers if word in numbers else [t.name if word.isascii() else t.chinese for t in THINGS]
    return str(rng.choice([each for each in same if each != word]))
