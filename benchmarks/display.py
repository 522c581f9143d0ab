"""Showing an answer beside asking for it: the cell's display, a second one, the page; and saving it with large pictures.

    python benchmarks/display.py                 # two minutes on one core

Times are CPU seconds of one process and one thread, what is compared takes turns on pictures that nobody saw before, values are
medians, ratios are medians of the ratios of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import PIL
import torch
from PIL import Image

import vila_lab
from benchmarks.reporting import table
from vila_lab.answer import Answer
from vila_lab.session import Session

RESULTS = Path(__file__).parent / "results" / "display.json"
AIM = 1.0  # of display over ask
QUESTION = "What is in image 2?"
LARGE = (8000, 6000)  # 48 megapixels
CASES: tuple[tuple[str, int, tuple[int, int] | None], ...] = (
    ("2 logos", 2, None),
    ("4 photographs of 336 × 336", 4, (336, 336)),
    ("16 photographs of 12 megapixels", 16, (4000, 3000)),
)

Row = dict[str, Any]


def photograph(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Soft shapes under grain: as hard to encode as a photograph, and as many colours."""
    width, height = size
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (256, 256, 1), dtype=np.int16)
    grain = np.tile(grain, (-(-height // 256), -(-width // 256), 1))[:height, :width]
    return Image.fromarray(np.clip(np.asarray(soft).astype(np.int16) + grain, 0, 255).astype(np.uint8))


def logos(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """The demo's pictures, one pixel of each changed, so that nothing about them is known yet."""
    found = [Image.open(vila_lab.demo_images() / name).convert("RGB") for name in ("g.png", "m.png")[:count]]
    for image in found:
        image.putpixel((0, 0), tuple(rng.integers(0, 256, 3).tolist()))
    return found


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def showing(lab: Session, name: str, count: int, size: tuple[int, int] | None, rounds: int) -> Row:
    """Ask and display, in turns."""
    rng = np.random.default_rng(0)
    times: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        for _ in range(rounds + 1):  # the first warms up
            pictures = logos(count, rng) if size is None else [photograph(size, rng) for _ in range(count)]
            ask, answer = seconds(lambda pictures=pictures: lab.ask([*pictures, QUESTION], max_new_tokens=24))
            kept = answer.nbytes
            display, bundle = seconds(answer._repr_mimebundle_)
            again, _ = seconds(answer._repr_mimebundle_)
            page, _ = seconds(lambda answer=answer: answer.to_html(Path(folder) / "answer.html"))
            times.append({"ask s": ask, "display s": display, "displayed again s": again, "page after it s": page})
    row: Row = {"case": name} | {key: statistics.median(one[key] for one in times[1:]) for key in times[0]}
    row["display over ask"] = statistics.median(one["display s"] / one["ask s"] for one in times[1:])
    row["kB of html"] = len(bundle["text/html"]) / 1e3
    row["kB kept"] = (answer.nbytes - kept) / 1e3
    return row


def saving(answer: Answer, kind: str, rounds: int) -> list[Row]:
    """Saving an answer about large pictures, with and without its originals, and opening it again."""
    rows = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "answer.safetensors"
        for originals in (True, False):
            times = []
            for _ in range(rounds):
                save, _ = seconds(lambda originals=originals: answer.save(path, originals=originals))
                reopen, _ = seconds(lambda: vila_lab.open(path))
                times.append((save, reopen))
            rows.append(
                {
                    "two pictures of 48 megapixels": kind,
                    "originals": originals,
                    "save s": statistics.median(save for save, _ in times),
                    "open s": statistics.median(reopen for _, reopen in times),
                    "MB": path.stat().st_size / 1e6,
                }
            )
    return rows


def large(lab: Session, rounds: int) -> list[Row]:
    """Noise, which no encoding makes small: from JPEG files, from PNG files, and as PIL images."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (*LARGE[::-1], 3), dtype=np.uint8)) for _ in range(2)]
    rows = saving(lab.ask([*noise, QUESTION], max_new_tokens=24), "noise, PIL images", rounds)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(2)]
        for image, file in zip(noise, files, strict=True):
            image.save(file, quality=90)
        rows += saving(lab.ask([*files, QUESTION], max_new_tokens=24), "noise, JPEG files", rounds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = vila_lab.load()
    report: Row = {
        "python": platform.python_version(), "torch": torch.__version__, "matplotlib": matplotlib.__version__,
        "pillow": PIL.__version__, "load": os.getloadavg()[0], "aim": {"display over ask": AIM},
    }  # fmt: skip
    parts: dict[str, Callable[[], list[Row]]] = {
        "display": lambda: [showing(lab, name, count, size, options.rounds) for name, count, size in CASES],
        "files": lambda: large(lab, options.rounds),
    }
    for name, measure in parts.items():
        report[name] = measure()
        print(f"\n{name}\n\n{table(report[name])}", flush=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
