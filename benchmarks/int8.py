"""What 8 bits on a CPU do to answers, and to their time: the embedded model's greedy answers, and a decoder of Qwen2-0.5B's shape.

    python benchmarks/int8.py                    # two minutes on one core

Questions are drawn from scenes of `vila_lab.tiny.probes`. Times are CPU seconds of one process and one thread, the two decoders
take turns, values are medians and ratios are medians of the ratios of one round.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vila_lab
from benchmarks.capture import decoder, run
from benchmarks.reporting import table
from vila_lab.families.int8 import quantise
from vila_lab.tiny.probes import probes

RESULTS = Path(__file__).parent / "results" / "int8.json"
AIM = 0.65  # of time over float32

Row = dict[str, Any]


def answers(count: int) -> Row:
    """The same questions of both."""
    full, small = vila_lab.load(), vila_lab.load(quantization="int8")
    same, right, moved = [], {"float32": 0, "int8": 0}, []
    for probe in islice(probes(), count):
        question = [*(scene.image for scene in probe.scenes), probe.question]
        one, other = full.ask(question), small.ask(question)
        same.append(one.text == other.text)
        right["float32"] += one.text == probe.answer
        right["int8"] += other.text == probe.answer
        if one.text == other.text:
            moved += [abs(a.logprob - b.logprob) for a, b in zip(one.tokens, other.tokens, strict=True)]
    return {
        "questions": count, "same answer": float(np.mean(same)), "right in float32": right["float32"] / count,
        "right in int8": right["int8"] / count, "nats a token moves, mean": float(np.mean(moved)),
        "95 % move less than": float(np.quantile(moved, 0.95)),
    }  # fmt: skip


def times(size: int, rounds: int, tokens: int) -> list[Row]:
    """Reading a prompt, and a token behind it."""
    full: Any = decoder()
    small = copy.deepcopy(full)
    quantise(small.model.layers)
    pairs = [(run(full, "plain", size, tokens), run(small, "plain", size, tokens)) for _ in range(rounds + 1)][1:]
    return [
        {
            "what": what,
            "float32 s": statistics.median(one[key] for one, _ in pairs),
            "int8 s": statistics.median(other[key] for _, other in pairs),
            "int8 over float32": statistics.median(other[key] / one[key] for one, other in pairs),
        }
        for what, key in ((f"prompt of {size} tokens", "prefill"), ("a token behind it", "decode"))
    ]


def printed(report: Row) -> str:
    """What was measured, as Markdown."""
    return f"{table([report['answers']])}\n\n{table(report['times'])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024, help="prompt tokens of the decoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "torch": torch.__version__, "aim": AIM, "answers": answers(options.questions),
        "times": times(options.size, options.rounds, options.tokens),
    }  # fmt: skip
    print(printed(report))
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
