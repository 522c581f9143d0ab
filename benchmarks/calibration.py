"""How far can a reader go by what `evidence()` says? How often answers are right, by their probability and by the verdict.

    python benchmarks/calibration.py --answers 600
    python benchmarks/calibration.py --show    # the tables of the last run
    python benchmarks/calibration.py --draw    # docs/calibration.png from the last run

Drawn scenes as in `benchmarks/verdict.py`, and answers as they come, right and wrong, a fifth of each kind: grounded (the picture asked
about is there), duplicate (it is there twice), swapped (it stands in another one's place, and that one in its), missing (the question
names a picture that was not given) and blank (all are of one colour or noise). The first three have a right answer, and are right or
wrong; to the others every answer is wrong.

*Reliability*: answers in bins of `Evidence.probability`, and the share of each bin that is right; well calibrated is the diagonal.
Three curves: answers that have a truth; all of them; and those of all whose verdict rests on pictures and that carry no note of a
picture that is not there. *Error* is the expected calibration error: the distance of share and probability, averaged over the answers
(Guo et al. 2017, "On Calibration of Modern Neural Networks"; Naeini et al. 2015). Intervals are 95 %, by bootstrap over answers. Ctrl-C
ends early with what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import vila_lab
from benchmarks.edits import percent
from benchmarks.verdict import LANGUAGES, METHODS, Asked, absent, blanks, grounded, held, measure, moved
from training.questions import ask_name
from vila_lab.evidence.bootstrap import DRAWS, interval
from vila_lab.session import Session
from vila_lab.tiny import MOST_PICTURES
from vila_lab.tiny.probes import EVALUATION_SEED, random_names
from vila_lab.tiny.world import draw_scene

RESULTS = Path(__file__).parent / "results" / "calibration.json"
FIGURE = Path(__file__).parents[1] / "docs" / "calibration.png"
EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the bins: most answers are nearly sure
Rng = np.random.Generator


def duplicated(rng: Rng) -> Iterator[Asked]:
    """The picture asked about stands in a second place too."""
    while True:
        count = int(rng.integers(2, MOST_PICTURES + 1))
        scenes = [draw_scene(rng, random_names(rng), allow_held_out=True) for _ in range(count)]
        turn = ask_name([held(scene) for scene in scenes], rng, LANGUAGES[int(rng.integers(2))])
        if turn is None or turn.picture is None:
            continue
        other = int((turn.picture + rng.integers(1, count)) % count)
        scenes[other] = scenes[turn.picture]
        yield Asked(tuple(scene.image for scene in scenes), turn.question, turn.answer, turn.picture)


KINDS: dict[str, Callable[[Rng], Iterator[Asked]]] = {
    "grounded": grounded,
    "duplicate": duplicated,
    "swapped": moved,
    "missing": absent,
    "blank": blanks,
}
TRUE = ("grounded", "duplicate", "swapped")  # kinds with a right answer
VERDICTS = ("one", "rests on several pictures", "methods disagree", "hardly rests on any picture")


def run(session: Session, count: int, seed: int) -> list[dict[str, Any]]:
    """Answers of all kinds by turns."""
    streams = {
        kind: draw(np.random.default_rng([EVALUATION_SEED, 1000 + seed, number]))
        for number, (kind, draw) in enumerate(KINDS.items())
    }
    rows = []
    with contextlib.suppress(KeyboardInterrupt), tqdm(total=count, unit=" answers", ascii=True) as bar:
        for kind in chain.from_iterable([KINDS] * (count // len(KINDS))):
            asked = next(streams[kind])
            answer = session.ask([*asked.images, asked.question], max_new_tokens=32)
            right = bool(asked.answer) and answer.text == asked.answer
            rows.append({"kind": kind, "right": right, **measure(asked, answer)})
            bar.update()
    return rows


def is_believed(row: dict[str, Any]) -> bool:
    """Whether the verdict rests on pictures, and no note speaks of a picture that is not there."""
    return row["head"] in VERDICTS[:2] and not row["note"]


CURVES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "answers that have a truth": lambda row: row["kind"] in TRUE,
    "all answers": lambda row: True,
    "those that the verdict rests on pictures": is_believed,
}


def reliability(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bins of probability with the share that is right, and the expected calibration error with its interval."""
    probable, right = (np.array([row[name] for row in rows], float) for name in ("probability", "right"))
    places = np.digitize(probable, EDGES[1:-1])
    bins = [
        {
            "probability": float(probable[places == k].mean()),
            "right": interval(right[places == k]),
            "answers": int((places == k).sum()),
        }
        for k in range(len(EDGES) - 1)
        if (places == k).any()
    ]
    drawn = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    errors = [_error(probable[some], right[some], places[some]) for some in drawn]
    low, high = np.quantile(errors, (0.025, 0.975))
    return {
        "answers": len(rows),
        "probability": float(probable.mean()),
        "right": interval(right),
        "error": [_error(probable, right, places), float(low), float(high)],
        "bins": bins,
    }


def _error(probable: Any, right: Any, places: Any) -> float:
    gaps = [abs((probable - right)[places == k].sum()) for k in range(len(EDGES) - 1)]
    return float(sum(gaps) / len(probable))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kinds = {}
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        kinds[kind] = {
            "answers": len(some),
            "probability": float(np.mean([row["probability"] for row in some])),
            "right": interval([float(row["right"]) for row in some]),
            "verdicts": {
                head: {
                    "answers": len(these),
                    "right": sum(row["right"] for row in these),
                    "right picture": sum(row["right picture"] for row in these),
                }
                for head in VERDICTS
                if (these := [row for row in some if row["head"] == head])
            },
            "believed": interval([float(is_believed(row)) for row in some]),
        }
    curves = {name: reliability([row for row in rows if wanted(row)]) for name, wanted in CURVES.items()}
    return {"answers": len(rows), "kinds": kinds, "curves": curves}


def printed(report: dict[str, Any]) -> str:
    lines = [
        "| answers | how many | mean probability | right | the verdict rests on pictures | one picture: the right one |",
        "| --- " * 6 + "|",
    ]
    for kind, row in report["kinds"].items():
        one = row["verdicts"].get("one")
        named = "-" if one is None or kind not in TRUE else f"{one['right picture']} of {one['answers']}"
        right = percent(row["right"]) if kind in TRUE else "none can be"
        lines.append(
            f"| {kind} | {row['answers']} | {row['probability']:.2f} | {right} | {percent(row['believed'])} | {named} |"
        )
    edges = [f"{low:g} to {high:g}" for low, high in pairwise(EDGES)]
    lines += [
        "",
        f"| share right at a probability of | {' | '.join(edges)} | error |",
        "| --- " * (len(edges) + 2) + "|",
    ]
    for name, curve in report["curves"].items():
        cells = {int(np.digitize(each["probability"], EDGES[1:-1])): each for each in curve["bins"]}
        found = [
            f"{100 * cells[k]['right'][0]:.0f} % of {cells[k]['answers']}" if k in cells else "-"
            for k in range(len(edges))
        ]
        lines.append(f"| {name} ({curve['answers']}) | {' | '.join(found)} | {percent(curve['error'])} |")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """The reliability diagram, with how many answers are in each bin below it."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    for number, (name, curve) in enumerate(report["curves"].items()):
        x = [each["probability"] for each in curve["bins"]]
        y, low, high = (np.array([each["right"][k] for each in curve["bins"]]) for k in range(3))
        mark = ("o", "s", "^")[number]
        label = f"{name}: error {100 * curve['error'][0]:.0f} %"
        above.errorbar(x, y, (y - low, high - y), marker=mark, markersize=5, capsize=2, linewidth=1.2, label=label)
        below.plot(x, [each["answers"] for each in curve["bins"]], marker=mark, markersize=4, linewidth=1)
    above.set(ylabel="share that is right", ylim=(-0.03, 1.03), xlim=(-0.02, 1.02))
    above.set_title(f"{report['answers']} answers of the embedded model, by how probable they were", fontsize=10)
    above.legend(fontsize=8, loc="upper left")
    below.set(xlabel="probability of the answer (Evidence.probability)", ylabel="answers", yscale="log")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=600, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the tables of the last run, run nothing")
    parser.add_argument("--draw", action="store_true", help="draw the diagram of the last run, run nothing")
    options = parser.parse_args()
    if not (options.show or options.draw):
        torch.set_num_threads(1)
        report = summary(run(vila_lab.load(), options.answers, options.seed))
        report |= {"seed": options.seed, "machine": platform.machine(), "methods": list(METHODS)}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    report = json.loads(options.out.read_text(encoding="utf-8"))
    if options.draw or not options.show:
        draw(report, FIGURE)
    print(printed(report))


if __name__ == "__main__":
    main()
