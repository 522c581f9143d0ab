"""How time grows with pictures and with the answer's length: asking, showing, attributing, beside plain generation and beside the work.

    python benchmarks/growth.py                  # two minutes on one core

On the embedded model, whose answers are forced to their length, with pictures nobody saw before and nothing kept between questions;
what is shown of a longer answer also on twelve layers of random weights, four pictures of 256 positions each.
An exponent is the slope of log time over log size, 1 where twice as many take twice as long; its interval is over rounds. "Last" is
the one between the two largest sizes, where what a call costs anyway counts least. There nothing may grow faster than its work:
asking than transformers' own generation of the same answer, a method than plain forwards of as many positions as it put through
the decoder, and what is shown than tokens times positions, as each token's attention to every position is in it. Times are CPU
seconds of one process and thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig

from benchmarks.random_nvila import SMALL, question, random_session
from benchmarks.reporting import table
from vila_lab.answer import Answer
from vila_lab.attribution.registry import attribute
from vila_lab.evidence import evidence
from vila_lab.evidence.bootstrap import interval
from vila_lab.families.base import Family
from vila_lab.families.loading import load_family
from vila_lab.prompt import Prompt
from vila_lab.session import Session
from vila_lab.tiny import weights_folder

RESULTS = Path(__file__).parent / "results" / "growth.json"
PICTURES, ANSWERS = (1, 2, 4, 8, 16), (16, 64, 256)
FEW, SHORT = 2, 16  # pictures where the answer grows, and tokens where the pictures do
SIDE = 96  # pixels
TWELVE = replace(SMALL, layers=12, width=112, inner=128, heads=14, rows=4096, tile=448, context=8192)
METHODS: dict[str, dict[str, Any]] = {
    "attention": {}, "grad_x_attention": {"token": 0}, "integrated_gradients": {"token": 0, "steps": 8},
    "leave_one_out": {}, "logit_lens": {},
}  # fmt: skip
FASTER = 0.2  # by how much an exponent must be above its work's to be called so: rounds differ by as much

Row = dict[str, Any]
Cost = tuple[float, float]  # CPU seconds, and what they are held against


class Counter:
    """A session whose answers have the length they are asked for, and how many positions went through its decoder."""

    def __init__(self) -> None:
        self.family: Family = load_family(weights_folder(), device="cpu", dtype="float32")
        self.lab = Session(self.family, "the embedded model", cache_bytes=0)
        self.positions = 0
        ending, decoding = self.family.generation_config, self.family.decode

        def endless(options: Any) -> GenerationConfig:
            config = ending(options)
            config.eos_token_id = []
            return config

        def counting(embedded: Any, *rest: Any, **options: Any) -> Any:
            self.positions += len(embedded)
            return decoding(embedded, *rest, **options)

        self.family.generation_config, self.family.decode = endless, counting  # type: ignore[method-assign]

    def of(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """CPU seconds of some work, and what it gives."""
        self.positions = 0
        return cpu_seconds(work)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, and what it gives."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def costs(counter: Counter, pictures: int, tokens: int, rng: np.random.Generator) -> dict[str, Cost]:
    """What everything costs at one size."""
    images = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(pictures)]
    question = [*images, "What is in image 1?"]

    def generate() -> int:
        inputs = counter.family.prepare(Prompt.of(question)).inputs
        found = counter.lab.model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens)
        return int(found.shape[1]) - 1

    @torch.no_grad()
    def forward() -> None:
        replay = answer.replay
        counter.family.decode(replay.followed(replay.embedded, [token.id for token in answer.tokens]), keep=[-1])

    plain, length = counter.of(generate)
    found = {"plain generate": (plain, plain)}
    asked, answer = counter.of(lambda: counter.lab.ask(question, max_new_tokens=tokens))
    assert len(answer.tokens) == tokens
    found["ask"] = asked, plain
    found |= shown(answer)
    once = min(counter.of(forward)[0] for _ in range(3))
    found["plain forward"] = once, once
    for name, options in METHODS.items():
        run = partial(attribute, answer.replay, name, **options)
        found[name] = counter.of(run)[0], once * counter.positions / length
    found["evidence"] = counter.of(partial(evidence, answer.replay, 0))[0], once * counter.positions / length
    return found


def shown(answer: Answer, where: str = "") -> dict[str, Cost]:
    """What showing an answer costs, in the notebook and as a page."""
    work = len(answer.tokens) * len(answer.token_map)
    with TemporaryDirectory() as folder:
        return {
            f"display{where}": (cpu_seconds(answer._repr_mimebundle_)[0], work),
            f"page{where}": (cpu_seconds(lambda: answer.to_html(Path(folder) / "answer.html"))[0], work),
        }


def slope(sizes: Sequence[float], values: Any) -> float:
    """The exponent with which values grow with sizes.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def exponents(sizes: Sequence[int], rounds: Sequence[Sequence[dict[str, Cost]]], what: str) -> list[Row]:
    """A row for everything that was measured: of each round, the costs at each size."""
    rows = []
    for name in rounds[0][0]:
        seconds = [[at[name][0] for at in one] for one in rounds]
        work = np.median([[at[name][1] for at in one] for one in rounds], 0)
        last = float(np.median([slope(sizes[-2:], one[-2:]) for one in seconds]))
        of_work = slope(sizes[-2:], work[-2:])
        rows.append(
            {
                f"with {what}": name,
                "ms at the first": float(np.median([one[0] for one in seconds])) * 1e3,
                "ms at the last": float(np.median([one[-1] for one in seconds])) * 1e3,
                "exponent": str(interval([slope(sizes, one) for one in seconds])),
                "last": last,
                "of its work": of_work,
                "faster than its work": "yes" if last > of_work + FASTER else "no",
            }
        )
    return rows


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measure(rounds: int, pictures: Sequence[int] = PICTURES, answers: Sequence[int] = ANSWERS) -> Row:
    """Both tables."""
    counter, rng = Counter(), np.random.default_rng(0)
    costs(counter, FEW, SHORT, rng)  # warms up
    by_pictures = [[costs(counter, count, SHORT, rng) for count in pictures] for _ in range(rounds)]
    twelve = random_session(TWELVE, "cpu", torch.float32)

    def by_length(tokens: int) -> dict[str, Cost]:
        answer = twelve.ask(question(TWELVE, 4), max_new_tokens=tokens)
        return costs(counter, FEW, tokens, rng) | shown(answer, " of twelve layers")

    by_answer = [[by_length(tokens) for tokens in answers] for _ in range(rounds)]
    return {
        "torch": torch.__version__, "load": os.getloadavg()[0], "rounds": rounds,
        "pictures": list(pictures), "answers": list(answers),
        "by pictures": exponents(pictures, by_pictures, f"{pictures[0]} to {pictures[-1]} pictures"),
        "by answer": exponents(answers, by_answer, f"{answers[0]} to {answers[-1]} tokens"),
    }  # fmt: skip


def printed(report: Row) -> str:
    """What was measured, as Markdown."""
    return f"{table(report['by pictures'])}\n\n{table(report['by answer'])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    with one_thread():
        report = measure(options.rounds)
    print(printed(report))
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
