"""Does an answer need the heads that a ranking finds? Sets of heads ablated beside other heads of the same layers, on drawn scenes.

    python benchmarks/heads.py --scenes 200
    python benchmarks/heads.py --show    # the table of the last run
    python benchmarks/heads.py --model tests/goldens/second    # of another family; kept in heads_second.json

Four drawn pictures, a question about one of them; only scenes count that the model answers right, word for word. The best heads of a
ranking (training/rank_heads.py made it, on other scenes), at most half of any layer's, are replaced by their mean over the prompt, in
all rows behind the pictures, where answers come from; then as many control heads, which are outside of the set and of the same
layers, several draws in each scene. Counted are the right answers that are lost. A set beats its controls where their 95 % intervals,
by bootstrap over scenes, have nothing in common.
Ctrl-C ends early with what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.checkpoints import loaded, parsed, rankings_of
from benchmarks.edits import LONGEST, parts, percent, right_answers
from vila_lab.answer import Answer
from vila_lab.errors import NoEffect
from vila_lab.evidence.bootstrap import interval
from vila_lab.evidence.causal import most
from vila_lab.evidence.heads import Head, HeadRanking, controls
from vila_lab.session import Session
from vila_lab.tiny.probes import Probe

RESULTS = Path(__file__).parent / "results" / "heads.json"
SIZES = (2, 4, 6, 8)  # heads in a set
DRAWS = 2  # control sets per scene and set


def set_of(ranking: HeadRanking, size: int) -> list[Head]:
    """The best heads of a ranking, at most half of any layer's."""
    scores = np.zeros(ranking.shape)
    for row in ranking.ranking:
        scores[row["layer"], row["head"]] = row["score"]
    return most(scores, size)


def behind_pictures(answer: Answer) -> list[int]:
    """Rows of words behind the last picture, and of the longest answer."""
    length = answer.token_map.prompt_length
    return [*range(int(np.flatnonzero(answer.token_map.picture[:length] >= 0)[-1]) + 1, length + LONGEST)]


def is_lost(session: Session, probe: Probe, right: Answer, heads: list[Head]) -> bool:
    """Whether the answer is another one without these heads."""
    try:
        with session.ablate_heads(heads, mode="mean", rows=behind_pictures(right)):
            return session.ask(parts(probe), max_new_tokens=LONGEST).text != right.text
    except NoEffect:
        return False


def run(session: Session, rankings: dict[str, HeadRanking], scenes: int, seed: int) -> dict[str, Any]:
    sets = {(kind, size): set_of(ranking, size) for kind, ranking in rankings.items() for size in SIZES}
    ranking_shape = next(iter(rankings.values())).shape
    lost: dict[Any, list[float]] = defaultdict(list)
    rng = np.random.default_rng(seed)
    drawn = 0
    chosen = tqdm(islice(right_answers(session, scenes, seed), scenes), "heads", scenes, unit=" scenes", ascii=True)
    with contextlib.suppress(KeyboardInterrupt):
        for number, probe, answer in chosen:
            drawn = number
            found = {}
            for (kind, size), heads in sets.items():
                others = [controls(heads, ranking_shape, rng) for _ in range(DRAWS)]
                found[kind, size, "set"] = float(is_lost(session, probe, answer, heads))
                found[kind, size, "controls"] = float(
                    np.mean([is_lost(session, probe, answer, other) for other in others])
                )
            for key, value in found.items():  # of whole scenes alone
                lost[key].append(value)
    rows = [
        row(kind, heads, lost[kind, size, "set"], lost[kind, size, "controls"]) for (kind, size), heads in sets.items()
    ]
    return {"scenes": len(next(iter(lost.values()))), "drawn": drawn, "rows": rows}


def row(kind: str, heads: list[Head], mine: list[float], others: list[float]) -> dict[str, Any]:
    one, two = interval(mine), interval(others)
    return {
        "kind": kind,
        "heads": [list(head) for head in heads],
        "set": one,
        "controls": two,
        "beats": one.low > two.high,
    }


def printed(report: dict[str, Any]) -> str:
    lines = [
        "| ranking | heads | layer.head | right answers lost without them | without controls of the same layers | beats controls |",
        "| --- " * 6 + "|",
    ]
    for each in report["rows"]:
        names = ", ".join(f"{layer}.{head}" for layer, head in each["heads"])
        found = f"{percent(each['set'])} | {percent(each['controls'])} | {'yes' if each['beats'] else 'no'}"
        lines.append(f"| {each['kind']} | {len(each['heads'])} | {names} | {found} |")
    causal = [each for each in report["rows"] if each["kind"] == "causal" and each["beats"]]
    sizes = ", ".join(str(len(each["heads"])) for each in causal)
    verdict = (
        f"Causal sets of {sizes} heads beat their controls."
        if causal
        else "No causal set beats its controls: the answer does not hang on few heads of a layer more than on the others of it."
    )
    return "\n".join([*lines, "", f"{report['scenes']} right answers, {DRAWS} draws of controls in each. {verdict}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parsed(parser, RESULTS, printed)
    if asked is None:
        return
    options, out = asked
    torch.set_num_threads(1)
    report = run(loaded(options.model), rankings_of(options.model), options.scenes, options.seed)
    report |= {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
