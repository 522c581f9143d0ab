"""Every attribution method on scenes whose truth is known: does it name the right picture, and the right place in it?

    python benchmarks/attribution.py --scenes 300 --curves 60 --checks 100
    python benchmarks/attribution.py --show    # the tables of the last run
    python benchmarks/attribution.py --model tests/goldens/second    # of another family; kept in attribution_second.json
    python benchmarks/attribution.py --model FOLDER --data questions.jsonl    # of any model, on pictures with boxes: benchmarks/truth.py

First questions that name their picture ("What is in image 2?"), and a word of the answer to explain; then questions that do not ("Which
image shows a rocket?"), and the answer's number to explain. Four drawn pictures each; only scenes count where the model says the word,
and of the second kind the right one. Chance and maps that know nothing stand in the same table.

Two checks of each method. *Shuffled weights*: the method on the same prompt and answer while every parameter's entries are in a random
order (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"); a method that still names the right picture looks at the prompt's shape
and not at what the model learned. *Shuffled word*: the answer's word is exchanged for one drawn at random, as labels are in their second
check, and that is explained in its place; a method that names the same picture for any word does not explain the word. Attention
cannot tell: the rows that choose a word are read before it is there.

Of questions that do not name their picture, *at the question's word* is the same attention read at the rows of the word that says what
to look for, and, as what cuts there, how much of the answer is lost when these rows may not look at a picture.

Intervals are 95 %, by bootstrap over scenes. Seconds are CPU seconds of one thread, so that other work on the machine does not matter.
Ctrl-C ends early with what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.checkpoints import loaded, parsed
from benchmarks.truth import Case, given, named, other_word, unnamed
from vila_lab import Attribution
from vila_lab.answer import Answer
from vila_lab.attribution.attention import named_heads
from vila_lab.attribution.registry import attribute, target_of
from vila_lab.engine.question import Question, Spec
from vila_lab.engine.replay import Replay
from vila_lab.engine.request import Request
from vila_lab.engine.target import Target
from vila_lab.errors import VilaLabError
from vila_lab.evidence.baselines import flat_map, random_map, shuffled_replay
from vila_lab.evidence.bootstrap import interval
from vila_lab.evidence.card import scores_of
from vila_lab.evidence.heads import controls
from vila_lab.evidence.metrics import TIE, curves, energy_in_box, pointing
from vila_lab.hooks.editing import Editing
from vila_lab.session import Session

RESULTS = Path(__file__).parent / "results" / "attribution.json"
PATIENCE = 6  # probes drawn per scene wanted, before the model is taken to be unable to answer them
CELLS = (3, 3)  # of occlusion: each of the 36 costs a pass
STEPS = 8  # of integrated gradients
LONGEST = 32  # tokens of an answer
COLUMNS = {
    "routing": "right picture",
    "pointing": "pointing",
    "energy": "energy in box",
    "deletion": "deletion AUC",
    "insertion": "insertion AUC",
    "seconds": "CPU seconds",
}
CHECKS = {
    "weights": "right picture, shuffled weights",
    "word": "right picture, shuffled word",
    "asked": "right picture at the question's word",
}
KINDS = ("named", "unnamed")  # questions that name their picture, and that do not
SHARES = ("routing", "pointing", *CHECKS)
CUT = "cutting the question's word off"
AIMS = {
    "leave_one_out": ("routing", 0.98),
    "shapley": ("routing", 0.98),
    "best gradient method": ("routing", 0.95),
    "best attention head set": ("routing", 0.90),
    "best map": ("pointing", 0.90),
}
GRADIENTS = ("grad_x_attention", "relevancy", "input_x_gradient", "integrated_gradients")


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
    answer: Answer, case: Case, attribution: Attribution, seconds: float, with_curves: bool
) -> dict[str, float]:
    sample = case.sample
    size = answer.token_map.sizes[sample.picture]
    heat = attribution.heatmap(sample.picture)
    found = {
        "routing": routed(attribution, sample.picture),
        "pointing": pointing(heat, size, sample.boxes, sample.picture),
        "energy": energy_in_box(heat, size, sample.boxes, sample.picture),
        "seconds": seconds,
    }
    if with_curves:
        replay = answer.replay
        curve = curves(replay, target_of(replay, sample.word), scores_of(attribution))
        found |= {"deletion": curve.deletion_auc, "insertion": curve.insertion_auc}
    return found


Chosen = dict[str, tuple[str, dict[str, Any]]]


def maps(answer: Answer, case: Case, chosen: Chosen, seed: int) -> dict[str, tuple[Attribution, float]]:
    """All methods' results on one answer with their CPU seconds, and the maps that know nothing."""
    replay = answer.replay
    _ = replay.embedded  # computed once for all methods, so that none is charged for it
    works: dict[str, Callable[[], Attribution]] = {
        label: partial(answer.attribute, name, case.sample.word, **options) for label, (name, options) in chosen.items()
    }
    any_map = answer.attribute("attention", case.sample.word)
    works["flat map"], works["random map"] = partial(flat_map, any_map), partial(random_map, any_map, seed)
    return {label: timed(work) for label, work in works.items()}


def checks(answer: Answer, case: Case, chosen: Chosen, seed: int) -> dict[str, dict[str, float]]:
    """Whether each method names the right picture with the weights shuffled, and with the word exchanged for another."""
    word = case.sample.word
    assert word is not None
    other, start = other_word(np.random.default_rng(seed), word), answer.rows_of(word)[0]
    found: dict[str, dict[str, float]] = {label: {} for label in chosen}
    for label, (name, options) in chosen.items():
        found[label]["word"] = checked(answer.replay, case, name, other, {"at": start, **options})
    with shuffled_replay(answer.replay, seed) as blind:
        for label, (name, options) in chosen.items():
            found[label]["weights"] = checked(blind, case, name, word, options)
    return found


def checked(replay: Replay, case: Case, method: str, word: str, options: dict[str, Any]) -> float:
    try:
        return routed(attribute(replay, method, word, **options), case.sample.picture)
    except VilaLabError:  # no number where weights are random: it says nothing, and so counts by its chance
        return 1 / len(case.sample.images)


def at_the_word(session: Session, answer: Answer, case: Case, chosen: Chosen) -> dict[str, dict[str, float]]:
    """Whether the right picture is read most at the rows that find the content, and whether cutting it off there costs most."""
    names = [f"image_{k + 1}" for k in range(len(case.sample.images))]
    where, rows = f'"{case.finds}"', []
    with session.on_attention(lambda event: rows.append(event.weights.float().mean(1)), rows=where, columns="images"):
        session.run(Request(answer.replay.prompt, max_new_tokens=1))
    weights = torch.stack(rows).numpy()  # (L, H, columns of all pictures)
    pictures = answer.token_map.picture[answer.token_map.positions("images")]
    mass = np.stack([weights[..., pictures == k].sum(-1) for k in range(len(names))], -1)  # (L, H, n)
    found = {}
    for label, (name, options) in chosen.items():
        if name == "attention":
            heads = named_heads(session.head_sets, options.get("heads"))
            read = mass.mean((0, 1)) if heads is None else np.mean([mass[tuple(head)] for head in heads], axis=0)
            found[label] = {"asked": first(read, case.sample.picture)}
    target = target_of(answer.replay, case.sample.word)
    lost = []
    for name in names:
        spec = session.spec_of("knockout", {"edge": f"{name} -> {where}"})
        lost.append(-float(edited(answer.replay, spec, target)))
    return found | {CUT: {"asked": first(np.array(lost), case.sample.picture)}}


def edited(replay: Replay, spec: Spec, target: Target) -> float:
    """The target's log-probability under an edit."""
    question = Question(replay.family, replay.prepared)
    with replay.lock, torch.no_grad(), Editing(replay.model, spec.resolve(question)):
        return float(replay.values(target).sum())


def first(scores: Sequence[float], picture: int) -> float:
    """Whether a picture's score is the largest; a tie counts by its chance."""
    best = np.asarray(scores) >= np.max(scores) - TIE * abs(float(np.max(scores)))
    return float(best[picture] / best.sum())


def run(
    session: Session, kind: str, cases: Iterator[Case], scenes: int, with_curves: int, with_checks: int
) -> dict[str, Any]:
    chosen = variants(session)
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    places: list[int] = []
    counts: list[int] = []
    drawn = exact = 0
    with contextlib.suppress(KeyboardInterrupt), tqdm(total=scenes, unit=" scenes", ascii=True) as bar:
        for case in islice(cases, scenes * PATIENCE):
            if len(places) == scenes:
                break
            answer = session.ask(case.parts, max_new_tokens=LONGEST)
            drawn += 1
            exact += answer.text == case.answer
            if not answer.rows_of(case.sample.word) or (case.finds is not None and answer.text != case.answer):
                continue
            found = maps(answer, case, chosen, seed=drawn)
            measured = {label: measure(answer, case, *each, len(places) < with_curves) for label, each in found.items()}
            if len(places) < with_checks:
                measured = merged(measured, checks(answer, case, chosen, seed=drawn))
            if case.finds is not None:
                measured = merged(measured, at_the_word(session, answer, case, chosen))
            for label, values in measured.items():
                for name, value in values.items():
                    rows[label][name].append(value)
            places.append(case.sample.picture)
            counts.append(len(case.sample.images))
            bar.update()
    if not places:
        raise SystemExit(f"the model said the wanted word in none of {drawn} scenes, so there is nothing to explain")
    table = {
        label: {name: interval(values) for name, values in columns.items()}
        | {"by place": [_at(columns["routing"], places, place) for place in range(max(counts))]}
        for label, columns in rows.items()
    }
    return {
        "scenes": len(places),
        "scenes with curves": min(with_curves, len(places)),
        "scenes with checks": min(with_checks, len(places)),
        "drawn": drawn,
        "model says the word": len(places) / drawn,
        "whole answer right": exact / drawn,
        "chance": {
            "routing": float(np.mean([1 / count for count in counts])),
            "pointing": table["flat map"]["pointing"].mean,
        },
        "head sets": {name: [list(pair) for pair in pairs] for name, pairs in session.head_sets.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "methods": table,
        "aims": aims(table) if kind == "named" else [],
    }


def merged(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        label: one.get(label, {}) | other.get(label, {})
        for label in [*one, *(each for each in other if each not in one)]
    }


def _at(values: list[float], places: list[int], place: int) -> float | None:
    if not values:
        return None
    mine = [value for value, where in zip(values, places, strict=True) if where == place]
    return float(np.mean(mine)) if mine else None


def aims(table: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, by which row, and whether it was."""
    groups = {
        "best gradient method": [label for label in table if label.split(",")[0] in GRADIENTS],
        "best attention head set": [
            label for label in table if label.startswith("attention,") and "controls" not in label
        ],
        "best map": [label for label in table if "map" not in label.split() and "pointing" in table[label]],
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
    """The tables of both kinds of questions; a report of before has one."""
    tables = [_table(report)]
    if "unnamed" in report:
        tables += ["Questions that do not name their picture:", _table(report["unnamed"]), advice(report)]
    return "\n\n".join(tables)


def advice(report: dict[str, Any]) -> str:
    """What to use for questions that do not name their picture: the cheapest of the methods whose interval reaches the best."""
    rows = {
        label: row
        for label, row in report["unnamed"]["methods"].items()
        if "routing" in row and "map" not in label.split() and "controls" not in label
    }
    best = max(row["routing"][0] for row in rows.values())
    good = [label for label, row in rows.items() if row["routing"][2] >= best]
    cheapest = min(good, key=lambda label: rows[label]["seconds"][0])
    plain = rows["attention, all heads"]["routing"]
    return (
        f"Asked which picture shows something, use `{cheapest}` at the token that says the number "
        f"({_cell('routing', rows[cheapest]['routing'])} right), not the attention there ({_cell('routing', plain)})."
    )


def _table(report: dict[str, Any]) -> str:
    methods = report["methods"]
    extra = [name for name in CHECKS if any(name in row for row in methods.values())]
    heads = [*COLUMNS.values(), *(CHECKS[name] for name in extra)]
    places = ", ".join(str(k + 1) for k in range(max(len(row["by place"]) for row in methods.values())))
    lines = [f"| method | {' | '.join(heads)} | right picture at place {places} |", "| --- " * (len(heads) + 2) + "|"]
    for label, row in methods.items():
        cells = [_cell(name, row.get(name)) for name in (*COLUMNS, *extra)]
        by_place = ", ".join("-" if share is None else f"{100 * share:.0f}" for share in row["by place"])
        lines.append(f"| {label} | {' | '.join(cells)} | {by_place} |")
    chance = report["chance"]
    checked = report.get("scenes with checks", 0)
    also = f", checks with shuffled weights and words on {checked}" if checked else ""
    lines += [
        "",
        f"{report['scenes']} scenes (deletion and insertion on {report['scenes with curves']}{also}); the model said the word in "
        f"{100 * report['model says the word']:.1f} % of {report['drawn']}. Chance: right picture {100 * chance['routing']:.0f} %, "
        f"pointing {100 * chance['pointing']:.1f} %.",
    ]
    for aim in report["aims"]:
        verdict = "reached" if aim["met"] else "NOT reached"
        lines.append(
            f"- {aim['aim']}, {aim['column']} >= {aim['wanted']:.0%}: {aim['found']:.1%} ({aim['row']}), {verdict}"
        )
    for label, row in methods.items():
        if "controls" in label and report["aims"]:
            mean, low, high = row["routing"][:3]
            verdict = "reached" if low <= chance["routing"] <= high else "NOT reached"
            lines.append(f"- {label} at chance ({chance['routing']:.0%}): {mean:.1%}, {verdict}")
    return "\n".join(lines)


def _cell(name: str, value: Sequence[float] | None) -> str:
    """Mean and interval of a share, the mean alone of everything else (the results file holds all intervals)."""
    if value is None:
        return "-"
    mean, low, high = value[:3]
    if name in SHARES:
        return f"{100 * mean:.1f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"{mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument(
        "--curves", type=int, default=60, help="scenes on which deletion and insertion are measured too"
    )
    parser.add_argument("--checks", type=int, default=100, help="scenes on which weights and words are shuffled too")
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=KINDS, help="the file keeps what it has of the others"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data", type=Path, help="questions in place of the drawn ones, a JSON object per line: benchmarks/truth.py"
    )
    asked = parsed(parser, RESULTS, printed)
    if asked is None:
        return
    options, out = asked
    torch.set_num_threads(1)
    session = loaded(options.model)
    report = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    kinds = (
        {"named": named, "unnamed": unnamed} if options.data is None else {"named": lambda seed: given(options.data)}
    )
    for kind, draw in kinds.items():
        if kind not in options.only:
            continue
        found = run(session, kind, draw(options.seed), options.scenes, options.curves, options.checks)
        report = (
            found | {name: report[name] for name in ("unnamed",) if name in report}
            if kind == "named"
            else report | {kind: found}
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
