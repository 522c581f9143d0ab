"""A pool of drawn pictures in arrays, so that training neither draws nor encodes twice. Knows nothing of models.

``python -m training.pool --size 60000 --seed 1 --out pool.npz``
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vila_lab.tiny.backgrounds import TEXTURES
from vila_lab.tiny.names import INDEX
from vila_lab.tiny.probes import random_names
from vila_lab.tiny.world import Scene, draw_scene, held_out

from .weather import weathered

SIDE = 96  # pixels of the model's square
CELLS = 12  # patches along one side
MOST = 4  # things in a picture
TEXTURED, WEATHERED = 0.6, 0.5  # shares of the pictures


@dataclass
class Pool:
    """Pictures and what is in them, one row each.

    Attributes
    ----------
    pixels
        (N, 96, 96, 3) uint8, squashed as the image processor does it.
    labels
        (N, 12, 12) int8: the thing that each patch shows, -1 for background.
    things
        (N, 4) int8: the things from left to right, padded with -1.
    centres
        (N, 4, 2) float32: their centres, as shares of width and height.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int8]
    things: NDArray[np.int8]
    centres: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        return np.asarray((self.things >= 0).sum(1))

    @cached_property
    def with_thing(self) -> dict[tuple[int, int], list[int]]:
        """Rows by (thing, number of things in the picture)."""
        rows = defaultdict(list)
        for row, things in enumerate(self.things):
            held = [int(t) for t in things if t >= 0]
            for t in held:
                rows[t, len(held)].append(row)
        return dict(rows)

    def save(self, path: Path) -> None:
        np.savez(path, pixels=self.pixels, labels=self.labels, things=self.things, centres=self.centres)

    @classmethod
    def load(cls, path: Path) -> Pool:
        with np.load(path) as file:
            return cls(*(file[name] for name in ("pixels", "labels", "things", "centres")))


def squash(image: Image.Image) -> NDArray[np.uint8]:
    """What the model sees of a picture: the whole of it in its square."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def pack(scenes: list[Scene]) -> Pool:
    """The arrays of some scenes."""
    things = np.full((len(scenes), MOST), -1, np.int8)
    centres = np.zeros((len(scenes), MOST, 2), np.float32)
    for row, scene in enumerate(scenes):
        for k, placed in enumerate(scene.placed):
            things[row, k] = INDEX[placed.name]
            centres[row, k] = np.array(placed.centre) / scene.image.size
    pixels = np.stack([squash(scene.image) for scene in scenes])
    labels = np.stack([scene.labels(CELLS) for scene in scenes]).astype(np.int8)
    return Pool(pixels, labels, things, centres)


def draw_one(rng: np.random.Generator) -> Scene:
    """A scene to learn from: on any background but those held out, half of them weathered."""
    names = random_names(rng)
    style = None
    if rng.random() < TEXTURED:
        allowed = [s for s in TEXTURES if not any(held_out(name, s) for name in names)]
        style = str(rng.choice(allowed or TEXTURES))
    scene = draw_scene(rng, names, style=style)
    return replace(scene, image=weathered(rng, scene.image)) if rng.random() < WEATHERED else scene


def _draw_chunk(seed: int, size: int) -> Pool:
    rng = np.random.default_rng(seed)
    return pack([draw_one(rng) for _ in range(size)])


def draw_pool(size: int, seed: int, workers: int = 2) -> Pool:
    """Draw ``size`` pictures; the same size and seed give the same pool on any number of workers."""
    chunk = 250
    seeds = [seed * 1000 + k for k in range(-(-size // chunk))]
    with ProcessPoolExecutor(workers) as executor:
        parts = list(
            tqdm(
                executor.map(_draw_chunk, seeds, [chunk] * len(seeds)),
                total=len(seeds),
                desc="drawing",
                unit=f"x{chunk}",
            )
        )
    fields = ("pixels", "labels", "things", "centres")
    return Pool(*(np.concatenate([getattr(part, field) for part in parts])[:size] for field in fields))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw_pool(options.size, options.seed).save(options.out)


if __name__ == "__main__":
    main()
