"""What keeping a session saves: a second question about the same pictures, attribution, many questions at once; and what it holds.

    python benchmarks/session.py                 # ten minutes on one core
    python benchmarks/session.py --rounds 1 --asks 50 --questions 16

Times are CPU seconds of one process and one thread, variants take turns, values are medians, ratios are medians of the ratios of
one round. A first token is counted from the prompt's parts on: reading pictures, tower, prefill. The decoder of Qwen2-0.5B's
shape has random weights and a small tower, so that its ratios are the decoder's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers

import vila_lab
from benchmarks.random_nvila import HALF_B, random_session
from benchmarks.reporting import table
from vila_lab.engine import generation
from vila_lab.session import Session

RESULTS = Path(__file__).parent / "results" / "session.json"
AIMS = {"second question": 0.08, "cuts on a first question": 1.03, "one by one over side by side": 1.5}
MARKS = ("g.png", "m.png", "a.png", "n.png")
CACHE = 8 * 2**20  # bytes; small, so that it is full early
PAGE = os.sysconf("SC_PAGE_SIZE")

Row = dict[str, Any]


def noise(count: int, side: int, seed: int) -> list[Any]:
    """Pictures nobody saw before."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


class Cpu:
    """CPU seconds of a block."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._start = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.process_time() - self._start


# ---- a second question -----------------------------------------------------------------------------------------------------


@contextmanager
def uncut() -> Iterator[None]:
    """Prompts are read in one go."""
    before = generation.stretches_of
    generation.stretches_of = lambda question: ()
    try:
        yield
    finally:
        generation.stretches_of = before


def first_tokens(lab: Session, side: int, rounds: int) -> Row:
    """Seconds to a first token: of a first question, uncut and cut, and of the second about the same pictures."""
    found: dict[str, list[float]] = {"uncut": [], "first": [], "second": []}
    for number in range(rounds + 1):  # the first round warms up
        parts = [*noise(4, side, number), "What is in image 1?"]
        spent = {name: Cpu() for name in found}
        for name in ("uncut", "first") if number % 2 else ("first", "uncut"):
            lab.forget()
            with uncut() if name == "uncut" else nullcontext(), spent[name]:
                next(lab.stream(parts))
        lab.forget()
        lab.ask(parts, max_new_tokens=1)
        with spent["second"]:
            next(lab.stream([*parts[:-1], "Which picture is the darkest, and why?"]))
        if number:
            for name, each in spent.items():
                found[name].append(each.seconds)
    ratios = [b / a for a, b in zip(found["first"], found["second"], strict=True)]
    cuts = [b / a for a, b in zip(found["uncut"], found["first"], strict=True)]
    return {
        "first s": statistics.median(found["first"]),
        "second s": statistics.median(found["second"]),
        "second question": statistics.median(ratios),
        "cuts on a first question": statistics.median(cuts),
    }


# ---- attribution -----------------------------------------------------------------------------------------------------------


def attributions(lab: Session, rounds: int) -> list[Row]:
    """Tower passes and seconds of methods that exchange pictures, with nothing kept, after an ask, and a second time."""
    folder, seen = vila_lab.demo_images(), lab.model.get_vision_features
    tiles = [0]

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        tiles[0] += len(pixels)
        features: torch.Tensor = seen(pixels)
        return features

    lab.model.get_vision_features = counted
    rows = []
    for method in ("leave_one_out", "shapley"):
        found: dict[str, list[tuple[int, float]]] = {"nothing kept": [], "asked before": [], "explained before": []}
        for _ in range(rounds):
            answer = lab.ask([*(folder / mark for mark in MARKS), "What is in image 2?"])
            for name in found:
                if name == "nothing kept":
                    lab.forget()
                elif name == "asked before":
                    lab.forget()
                    answer = lab.ask([*(folder / mark for mark in MARKS), "What is in image 2?"])
                else:
                    answer = lab.ask([*(folder / mark for mark in MARKS), "What is in image 2?"])
                tiles[0] = 0
                with Cpu() as spent:
                    answer.attribute(method, baseline="mean")
                found[name].append((tiles[0], spent.seconds))
                answer.release()
        for name, runs in found.items():
            rows.append(
                {"method": method, "state": name, "pictures through the tower": runs[-1][0],
                 "s": statistics.median(seconds for _, seconds in runs)}
            )  # fmt: skip
    del lab.model.get_vision_features
    return rows


# ---- many questions --------------------------------------------------------------------------------------------------------


def many(lab: Session, questions: int, rounds: int) -> list[Row]:
    """Seconds of questions one by one and eight side by side, about four pictures and about four new ones each."""
    folder = vila_lab.demo_images()
    same = [[*(folder / mark for mark in MARKS), f"What is in image {k % 4 + 1}?"] for k in range(questions)]
    other = [[*noise(4, 64, 1000 + k), f"What is in image {k % 4 + 1}?"] for k in range(questions)]
    rows = []
    for name, prompts in (("the same four", same), ("four new ones each", other)):
        times: list[tuple[float, float]] = []
        for _ in range(rounds):
            lab.forget()
            with Cpu() as one:
                alone = [lab.ask(prompt, max_new_tokens=16).text for prompt in prompts]
            lab.forget()
            with Cpu() as batch:
                beside = [answer.text for answer in lab.ask_many(prompts, batch_size=8, max_new_tokens=16)]
            times.append((one.seconds, batch.seconds))
            assert alone == beside
        rows.append(
            {"pictures": name, "questions": questions, "one by one s": statistics.median(one for one, _ in times),
             "side by side s": statistics.median(batch for _, batch in times),
             "one by one over side by side": statistics.median(one / batch for one, batch in times)}
        )  # fmt: skip
    return rows


# ---- memory ----------------------------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of the resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def memory(lab: Session, asks: int) -> list[Row]:
    """Resident memory over many questions with new pictures, and then with the same, and whether what is kept is in bounds."""
    lab.forget()
    before, lab.cache_bytes = lab.cache_bytes, CACHE
    rows = []
    for name in ("new pictures", "the same pictures"):
        sizes, within = [], True
        for number in range(asks):
            pictures = noise(2, 96, 10_000 + (number if name == "new pictures" else 0))
            lab.ask([*pictures, "What is in image 1?"], max_new_tokens=4)
            sizes.append(resident())
            held = lab.memory()
            within = within and held.prefix + held.features == lab.engine.reuse.nbytes <= CACHE
        warm = sizes[asks // 4 :]
        rows.append(
            {"asks": asks, "pictures": name, "resident MB": sizes[-1] / 1e6, "growth after a quarter": warm[-1] / warm[0] - 1,
             "largest after a quarter": max(warm) / warm[0] - 1, "kept within bounds": within,
             "kept MB": lab.engine.reuse.nbytes / 1e6}
        )  # fmt: skip
    lab.cache_bytes = before
    return rows


# ---- the table -------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--asks", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: Row = {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "load": os.getloadavg()[0], "aims": AIMS,
    }  # fmt: skip
    lab = vila_lab.load()
    parts: dict[str, Callable[[], list[Row]]] = {
        "first tokens": lambda: [
            {"decoder": "Qwen2-0.5B's shape, four pictures of 256 tokens"}
            | first_tokens(random_session(HALF_B, "cpu", torch.float32), 448, options.rounds),
            {"decoder": "embedded, four pictures of 36 tokens"} | first_tokens(lab, 96, 3 * options.rounds),
        ],
        "attribution": lambda: attributions(lab, options.rounds),
        "many questions": lambda: many(lab, options.questions, options.rounds),
        "memory": lambda: memory(lab, options.asks),
    }
    for name, measure in parts.items():
        report[name] = measure()
        print(f"\n{name}\n\n{table(report[name])}", flush=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
