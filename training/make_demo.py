"""Draws the demo pictures and their boxes once: four company marks and six scenes. Nothing imports it.

Needs ``cairosvg`` and the marks as SVG files (``google.svg`` ...)::

    python -m training.make_demo --marks FOLDER --out demo_images
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from vila_lab.tiny.world import draw_scene

from .make_sprites import draw_mark

MARKS = {"g": ("google", "Google"), "m": ("microsoft", "Microsoft"), "a": ("apple", "Apple"), "n": ("nvidia", "NVIDIA")}
SIDE, MARGIN = 256, 40

# name: (things, background, size, seed); none of the sizes is the model's square
SCENES = {
    "cat_and_dog": (["cat", "dog"], "plain", (480, 320), 11),
    "cat_and_rocket": (["cat", "rocket"], "gradient", (320, 480), 12),
    "pizza": (["pizza"], "noise", (400, 400), 13),
    "three_things": (["guitar", "football", "sunflower"], "gradient", (512, 384), 14),
    "wide_train": (["train", "house"], "plain", (512, 320), 17),
    "dog_alone": (["dog"], "gradient", (360, 480), 16),
}


def draw_mark_picture(slug: str, icons: Path) -> tuple[Image.Image, tuple[int, ...]]:
    mark = draw_mark(slug, icons)
    mark = mark.crop(mark.getchannel("A").getbbox())
    scale = (SIDE - 2 * MARGIN) / max(mark.size)
    mark = mark.resize((round(mark.width * scale), round(mark.height * scale)), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (SIDE, SIDE), "white")
    left, top = (SIDE - mark.width) // 2, (SIDE - mark.height) // 2
    picture.alpha_composite(mark, (left, top))
    return picture.convert("RGB"), (left, top, left + mark.width, top + mark.height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    boxes = {}
    for short, (slug, name) in MARKS.items():
        picture, box = draw_mark_picture(slug, options.marks)
        picture.save(options.out / f"{short}.png", optimize=True)
        boxes[f"{short}.png"] = [{"name": name, "box": box}]
    for stem, (names, style, size, seed) in SCENES.items():
        scene = draw_scene(np.random.default_rng(seed), names, style=style, size=size, allow_held_out=True)
        scene.image.save(options.out / f"{stem}.png", optimize=True)
        boxes[f"{stem}.png"] = [{"name": placed.name, "box": placed.box} for placed in scene.placed]
    (options.out / "boxes.json").write_text(json.dumps(boxes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
