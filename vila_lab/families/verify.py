"""Proves a family on a checkpoint and writes down what was proven. Knows the seam and the hooks, and no family.

    python -m vila_lab.families.verify                      # the tiny checkpoints of a source tree
    python -m vila_lab.families.verify Qwen/Qwen2.5-VL-7B-Instruct ./my-checkpoint

Nothing is written where something fails; the first failure ends it with a sentence and status 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import VilaLabError
from ..hooks import Capture
from ..hooks.sites import select_sites
from ..prompt import Picture, Prompt
from ..upstream import attention_name
from ..versions import installed
from ..writing import check_place, write_file
from . import FAMILIES, name_of
from .base import Family, Prepared
from .loading import load_family
from .verified import FILE, read

TINY = Path("tests/goldens/families/checkpoints")
SIZES = ((300, 200), (200, 200), (150, 290), (500, 120))
COUNTS = (0, 1, 2, 4)
SQUARE, SQUARES = 24, 10  # pixels, and how many of a picture are changed one by one
LIMITS = {
    "own forward": 1e-4,  # of a logit, in float32
    "behind a cache": 1e-4,
    "eager attention": 5e-4,  # weights of layers with a window are kept in float16
    "picture alone": 1e-4,
    "changed rows miss by": 3.0,  # pixels: filters reach beyond a square
    "unchanged rows reach in": 1.0,  # pixels: bytes of pixels are rounded
}


class NotProven(VilaLabError, AssertionError):
    """A family does not do what the seam asks of it."""


def verify(source: str | Path, name: str = "") -> tuple[str, dict[str, Any]]:
    """Prove a family on a checkpoint.

    Parameters
    ----------
    source
        A folder or hub id.
    name
        What it is called in the record; by default `source`.

    Returns
    -------
    (str, dict)
        The family, and what is written of it.

    Raises
    ------
    NotProven
        If an error is larger than its limit in `LIMITS`.
    """
    family = load_family(source, device="cpu", dtype="float32")
    kind = name_of(type(family))
    counts = [count for count in COUNTS if count or family.needs_no_picture]
    with torch.no_grad():
        errors = [passes(family, family.prepare(prompt(count))) for count in counts]
        near, apart = zip(*(boxes(family, count) for count in (1, 2)), strict=True)
        found = {
            "own forward": max(first for first, _ in errors),
            "behind a cache": max(second for _, second in errors),
            "eager attention": max(rows(family, family.prepare(prompt(count))) for count in (1, 2)),
            "picture alone": max(alone(family, count) for count in (1, 2)),
            "changed rows miss by": max(near),
            "unchanged rows reach in": max(apart),
        }
    for what, error in found.items():
        limit = family.box_tolerance if what == "changed rows miss by" else LIMITS[what]
        if not error <= limit:
            raise NotProven(f"{kind} on {name or source}: {what} {error:.2g}, and {limit:g} is allowed")
    return kind, {
        "model_class": type(family.model).__name__,
        "processor_class": type(family.processor).__name__,
        "image_processor": type(family.processor.image_processor).__name__,
        "checkpoint": name or str(source),
        "transformers": installed("transformers"),
        "torch": installed("torch"),
        "date": datetime.date.today().isoformat(),
        "pictures": counts,
        "proven": {what: float(f"{error:.2g}") for what, error in found.items()},
    }


def prompt(count: int) -> Prompt:
    """A question about so many pictures, words between them."""
    parts = [part for k in range(count) for part in (f"Picture {k + 1}: ", Picture.of(drawn(k)))]
    return Prompt((*parts, "What are the differences?"))


def drawn(number: int) -> Image.Image:
    """A picture of soft spots, the same every time."""
    width, height = SIZES[number]
    coarse = np.random.default_rng(number).integers(40, 216, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# -- numbers ---------------------------------------------------------------------------------------------------------------


def passes(family: Family, prepared: Prepared) -> tuple[float, float]:
    """How far the logits of the one pass, and of two parts behind a cache, are from the model's own forward."""
    embedded = family.embed(prepared)
    own = family.model(**prepared.inputs).logits[0].float()
    once = float((family.decode(embedded)[0] - own).abs().max())
    cut = next((place for place in range(len(embedded) // 2, len(embedded)) if not embedded.has_block_over(place)), 0)
    if not cut:
        return once, once
    first, cache = family.decode(embedded[:cut], family.new_cache())
    second, _ = family.decode(embedded[cut:], cache)
    return once, float((torch.cat([first, second]) - own).abs().max())


def rows(family: Family, prepared: Prepared) -> float:
    """How far recorded attention of the prompt's last row is from the model's own eager attention."""
    embedded = family.embed(prepared)
    with Capture(family.model) as tape:
        family.decode(embedded, family.new_cache(), keep=[len(embedded) - 1])
    before = attention_name(family.model.config.get_text_config(decoder=True))
    family.model.set_attn_implementation("eager")
    try:
        own = family.model(**prepared.inputs, output_attentions=True).attentions
    finally:
        family.model.set_attn_implementation(before)
    return max(float((tape.weights(layer)[0] - own[layer][0, :, -1]).abs().max()) for layer in tape.layers)


def alone(family: Family, count: int) -> float:
    """How far a picture's features by itself are from those in the prompt."""
    prepared = family.prepare(prompt(count))
    embedded = family.embed(prepared).features
    errors = []
    for number in range(count):
        mine = prepared.token_map.rows_of(number)
        errors.append(float((family.picture_features(drawn(number), prepared, number) - embedded[mine]).abs().max()))
    return max(errors)


# -- places ----------------------------------------------------------------------------------------------------------------


def boxes(family: Family, count: int) -> tuple[float, float]:
    """How far rows that a changed square of pixels changes lie from it, and how far others reach into it, in pixels.

    The tower's attention is silenced, so that a row holds its own patches alone.
    """
    prepared = family.prepare(prompt(count))
    near = apart = 0.0
    with _local_tower(family):
        for number in range(count):
            mine = prepared.token_map.rows_of(number)
            squares = _squares(drawn(number).size)
            pictures = [drawn(number), *(_changed(drawn(number), square) for square in squares)]
            features = torch.stack(family.pictures_features(pictures, prepared, number))  # (1 + squares, n, F)
            response = _response(features)
            for square, moved in zip(squares, response, strict=True):
                missed, reached = _misses(prepared.token_map.box[mine], square, moved)
                near, apart = max(near, missed), max(apart, reached)
    return near, apart


def _squares(size: tuple[int, int]) -> NDArray[np.int64]:
    """Places of a picture.  # (squares, 4)"""
    corners = np.random.default_rng(0).integers(0, np.array(size) - SQUARE, (SQUARES, 2))
    return np.concatenate([corners, corners + SQUARE], 1)


def _changed(image: Image.Image, square: NDArray[np.int64]) -> Image.Image:
    left, top, right, bottom = square.tolist()
    pixels = np.array(image)
    pixels[top:bottom, left:right] += 128  # bytes go round
    return Image.fromarray(pixels)


def _response(features: Tensor) -> NDArray[np.float32]:
    """How much each row moved, in units of the features' root mean square.  # (squares, n)"""
    first, *others = features.float()
    scale = first.square().mean().sqrt()
    return np.stack([((other - first).abs().amax(-1) / scale).cpu().numpy() for other in others])


def _misses(box: NDArray[np.float64], square: NDArray[np.int64], moved: NDArray[np.float32]) -> tuple[float, float]:
    if moved.max(initial=0) <= 0.02:  # a place that nobody sees
        return 0.0, 0.0
    gap = np.maximum(box[:, :2] - square[2:], square[:2] - box[:, 2:]).max(1)  # (n,), negative where they meet
    changed, has_box = moved > 0.05 * moved.max(), ~np.isnan(gap)
    near = gap[changed & has_box].max(initial=0)
    apart = (-gap[has_box & (moved <= 0.01)]).max(initial=0)
    return float(near), float(apart)


@contextmanager
def _local_tower(family: Family) -> Iterator[None]:
    """No patch takes anything from another inside."""

    def silent(module: Any, given: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    with ExitStack() as stack:
        for site in select_sites(family.model, ("vision",))["vision"]:
            stack.callback(site.module.register_forward_hook(silent).remove)
        yield


# -- writing ---------------------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> int:
    """Verify checkpoints and write `verified.json` beside this file."""
    parser = argparse.ArgumentParser(
        prog="python -m vila_lab.families.verify", description="prove families on checkpoints"
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="folders or hub ids; by default the tiny checkpoints"
    )
    models = parser.parse_args(given).models or [str(folder) for folder in sorted(TINY.glob("*")) if folder.is_dir()]
    if not models:
        parser.error(f"there is no {TINY} here: name the checkpoints")
    file = Path(__file__).with_name(FILE)
    check_place(file)
    for model in models:
        try:
            kind, entry = verify(model)
        except VilaLabError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        known = read() | {kind: entry}
        ordered = {name: known[name] for name in FAMILIES if name in known}
        write_file(file, json.dumps(ordered, indent=1) + "\n")
        sys.stdout.write(f"{kind}: {', '.join(f'{what} {error:g}' for what, error in entry['proven'].items())}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
