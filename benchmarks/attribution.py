"""Every attribution method on scenes whose truth is known: does it name the right picture, and the right place in it?

    python benchmarks/attribution.py --scenes 300 --curves 60
    python benchmarks/attribution.py --show    # the table of the last run
    python benchmarks/attribution.py --model tests/goldens/second    # of another family; kept in attribution_second.json

Four drawn pictures, a question about one of them, and a word of the answer to explain; only scenes count where the model
says the word. Chance and three maps that know nothing stand in the same table. Intervals are 95 %, by bootstrap over
scenes. Seconds are CPU seconds of one thread, so that other work on the machine does not matter. Ctrl-C ends early with
what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import vila_lab
from vila_lab import Attribution
from vila_lab.answer import Answer
from vila_lab.attribution.registry import target_of
from vila_lab.evidence.baselines import flat_map, random_map, random_weights_map
from vila_lab.evidence.bootstrap import interval
from vila_lab.evidence.card import scores_of
from vila_lab.evidence.heads import HeadRanking, controls
from vila_lab.evidence.metrics import TIE, curves, energy_in_box, pointing
from vila_lab.session import Session
from vila_lab.tiny.probes import PICTURES, Probe, probes

RESULTS = Path(__file__).parent / "results" / "attribution.json"
HEADS = "heads.json"  # of another checkpoint, in its folder: rankings as the embedded model's
PATIENCE = 6  # probes drawn per scene wanted, before the model is taken to be unable to answer them
CELLS = (3, 3)  # of occlusion: each of the 36 costs a pass
STEPS = 8  # of integrated gradients
UNTRAINED = "relevancy"  # the method that is also run on shuffled weights
COLUMNS = {
    "routing": "right picture",
    "pointing": "pointing",
    "energy": "energy in box",
    "deletion": "deletion AUC",
    "insertion": "insertion AUC",
    "seconds": "CPU seconds",
}
AIMS = {
    "leave_one_out": ("routing", 0.98),
    "shapley": ("routing", 0.98),
    "best gradient method": ("routing", 0.95),
    "best attention head set": ("routing", 0.90),
    "best map": ("pointing", 0.90),
}
GRADIENTS = ("grad_x_attention", "relevancy", "input_x_gradient", "integrated_gradients")


def ranked_heads(path: Path) -> dict[str, tuple[tuple[int, int], ...]]:
    """The head sets of a file of rankings; none where there is no file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {kind: HeadRanking.from_json(ranking).heads for kind, ranking in content.items()}


def variants(session: Session) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is measured: label, method and options."""
    found: dict[str, tuple[str, dict[str, Any]]] = {"attention, all heads": ("attention", {})}
    text = session.model.config.get_text_config(decoder=True)
    shape = text.num_hidden_layers, text.num_attention_heads
    for name, heads in session.head_sets.items():
        found[f"attention, {name} heads"] = "attention", {"heads": name}
        others = controls(heads, shape, np.random.default_rng(0))
        found[f"attention, controls of {name}"] = "attention", {"heads": others}
    found |= {name: (name, {}) for name in ("attention_value", "rollout")}
    for name in GRADIENTS:
        extra = {"steps": STEPS} if name == "integrated_gradients" else {}
        found[name] = name, extra
        found[f"{name}, log-odds"] = name, {"score": "logodds", **extra}
    found |= {name: (name, {}) for name in ("leave_one_out", "shapley", "logit_lens", "activation_map")}
    found["occlusion, {} x {} cells".format(*CELLS)] = "occlusion", {"cells": CELLS}
    return found


def routed(attribution: Attribution, picture: int) -> float:
    """Whether the right picture has the largest score; a tie, or a method that says nothing, counts by its chance."""
    shares = attribution.shares().fillna(1.0).to_numpy()
    best = shares >= shares.max() * (1 - TIE)
    return float(best[picture] / best.sum())


def timed(work: Callable[[], Attribution]) -> tuple[Attribution, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def measure(
    answer: Answer, probe: Probe, attribution: Attribution, seconds: float, with_curves: bool
) -> dict[str, float]:
    size = probe.scenes[probe.picture].image.size
    heat = attribution.heatmap(probe.picture)
    found = {
        "routing": routed(attribution, probe.picture),
        "pointing": pointing(heat, size, [probe.box]),
        "energy": energy_in_box(heat, size, [probe.box]),
        "seconds": seconds,
    }
    if with_curves:
        replay = answer.replay
        curve = curves(replay, target_of(replay, probe.word), scores_of(attribution))
        found |= {"deletion": curve.deletion_auc, "insertion": curve.insertion_auc}
    return found


def maps(
    answer: Answer, probe: Probe, chosen: dict[str, tuple[str, dict[str, Any]]], seed: int
) -> dict[str, tuple[Attribution, float]]:
    """All methods' results on one answer with their CPU seconds, and the maps that know nothing."""
    replay = answer.replay
    _ = replay.embedded  # computed once for all methods, so that none is charged for it
    works: dict[str, Callable[[], Attribution]] = {
        label: partial(answer.attribute, name, probe.word, **options) for label, (name, options) in chosen.items()
    }
    any_map = answer.attribute("attention", probe.word)
    works["flat map"], works["random map"] = partial(flat_map, any_map), partial(random_map, any_map, seed)
    works[f"{UNTRAINED}, shuffled weights"] = partial(random_weights_map, replay, UNTRAINED, probe.word, seed=seed)
    return {label: timed(work) for label, work in works.items()}


def run(session: Session, scenes: int, with_curves: int, seed: int) -> dict[str, Any]:
    chosen = variants(session)
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    places: list[int] = []
    drawn = exact = 0
    stream = probes(seed)
    with contextlib.suppress(KeyboardInterrupt), tqdm(total=scenes, unit=" scenes", ascii=True) as bar:
        while len(places) < scenes and drawn < scenes * PATIENCE:
            probe = next(stream)
            answer = session.ask([*(scene.image for scene in probe.scenes), probe.question], max_new_tokens=32)
            drawn += 1
            exact += answer.text == probe.answer
            if not answer.rows_of(probe.word):
                continue
            found = maps(answer, probe, chosen, seed=drawn)
            with_curve = len(places) < with_curves
            measured = {label: measure(answer, probe, *each, with_curve) for label, each in found.items()}
            for label, values in measured.items():
                for name, value in values.items():
                    rows[label][name].append(value)
            places.append(probe.picture)
            bar.update()
    if not places:
        raise SystemExit(f"the model said the wanted word in none of {drawn} scenes, so there is nothing to explain")
    table = {
        label: {name: interval(values) for name, values in columns.items()}
        | {"by place": [_at(columns["routing"], places, place) for place in range(PICTURES)]}
        for label, columns in rows.items()
    }
    return {
        "scenes": len(places),
        "scenes with curves": min(with_curves, len(places)),
        "drawn": drawn,
        "model says the word": len(places) / drawn,
        "whole answer right": exact / drawn,
        "chance": {"routing": 1 / PICTURES, "pointing": table["flat map"]["pointing"].mean},
        "head sets": {name: [list(pair) for pair in pairs] for name, pairs in session.head_sets.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "methods": table,
        "aims": aims(table),
    }


def _at(values: list[float], places: list[int], place: int) -> float | None:
    mine = [value for value, where in zip(values, places, strict=True) if where == place]
    return float(np.mean(mine)) if mine else None


def aims(table: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, by which row, and whether it was."""
    groups = {
        "best gradient method": [
            label for label in table if label.split(",")[0] in GRADIENTS and "shuffled" not in label
        ],
        "best attention head set": [
            label for label in table if label.startswith("attention,") and "controls" not in label
        ],
        "best map": [label for label in table if "map" not in label.split() and "shuffled" not in label],
    }
    found = []
    for name, (column, wanted) in AIMS.items():
        best = max(groups.get(name, [name]), key=lambda label: table[label][column].mean)
        value = table[best][column].mean
        found.append(
            {"aim": name, "row": best, "column": column, "wanted": wanted, "found": value, "met": value >= wanted}
        )
    return found


def printed(report: dict[str, Any]) -> str:
    lines = [
        f"| method | {' | '.join(COLUMNS.values())} | right picture at place 1, 2, 3, 4 |",
        "| --- " * (len(COLUMNS) + 2) + "|",
    ]
    for label, row in report["methods"].items():
        cells = [_cell(name, row.get(name)) for name in COLUMNS]
        by_place = ", ".join("-" if share is None else f"{100 * share:.0f}" for share in row["by place"])
        lines.append(f"| {label} | {' | '.join(cells)} | {by_place} |")
    chance = report["chance"]
    lines += [
        "",
        f"{report['scenes']} scenes (deletion and insertion on {report['scenes with curves']}); the model said the word in "
        f"{100 * report['model says the word']:.1f} % of {report['drawn']}. Chance: right picture {100 * chance['routing']:.0f} %, "
        f"pointing {100 * chance['pointing']:.1f} %.",
    ]
    for aim in report["aims"]:
        verdict = "reached" if aim["met"] else "NOT reached"
        lines.append(
            f"- {aim['aim']}, {aim['column']} >= {aim['wanted']:.0%}: {aim['found']:.1%} ({aim['row']}), {verdict}"
        )
    for label, row in report["methods"].items():
        if "controls" in label:
            mean, low, high = row["routing"][:3]
            verdict = "reached" if low <= chance["routing"] <= high else "NOT reached"
            lines.append(f"- {label} at chance ({chance['routing']:.0%}): {mean:.1%}, {verdict}")
    return "\n".join(lines)


def _cell(name: str, value: Sequence[float] | None) -> str:
    """Mean and interval of a share, the mean alone of everything else (the results file holds all intervals)."""
    if value is None:
        return "-"
    mean, low, high = value[:3]
    if name in ("routing", "pointing"):
        return f"{100 * mean:.1f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"{mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument(
        "--curves", type=int, default=60, help="scenes on which deletion and insertion are measured too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="folder of another checkpoint that can answer these questions")
    parser.add_argument(
        "--out", type=Path, help="by default benchmarks/results/attribution.json, or _FOLDER.json of --model"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing; print the table of the results file")
    options = parser.parse_args()
    out = options.out or (
        RESULTS if options.model is None else RESULTS.with_stem(f"{RESULTS.stem}_{Path(options.model).name}")
    )
    if options.show:
        print(printed(json.loads(out.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    session = vila_lab.load(options.model)
    if options.model is not None:
        session.head_sets.update(ranked_heads(Path(options.model) / HEADS))
    report = run(session, options.scenes, options.curves, options.seed)
    print(printed(report))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
