"""Can a reader believe `evidence()`? Answers that rest on a picture, on nothing, on a picture that is not there, on moved pictures.

    python benchmarks/verdict.py --answers 300
    python benchmarks/verdict.py --show    # the table of the last run

Drawn scenes, one to six in a prompt, and a question that names one of them or asks which of them shows something, in English or
Chinese. Grounded: the answer is right (and is no "None."). Blank: the same questions about pictures of one colour or of noise.
Absent: the question names a picture that was not given. Moved: the grounded question again with its picture and another one
exchanged, and the answer right again. Blank and noise pictures come from a generator of their own. Intervals are 95 %, by
bootstrap over answers. Ctrl-C ends early with what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import vila_lab
from training.questions import Held, Turn, ask_name, ask_which
from vila_lab.answer import Answer
from vila_lab.evidence.bootstrap import interval
from vila_lab.evidence.verdict import HARDLY
from vila_lab.session import Session
from vila_lab.tiny import MOST_PICTURES
from vila_lab.tiny.probes import EVALUATION_SEED, random_names
from vila_lab.tiny.world import Scene, draw_scene

RESULTS = Path(__file__).parent / "results" / "verdict.json"
LANGUAGES = ("en", "zh")
METHODS = (
    "attention",
    "leave_one_out",
    "shapley",
)  # without the slowest, which no number here but "disagree" could depend on
NONE = ("None.", "没有。")  # an answer about all pictures that any other picture would leave as it is
AUC, NOTES, FALSE_NOTES = 0.95, 1.0, 0.0  # what is aimed at
Rng = np.random.Generator


@dataclass(frozen=True)
class Asked:
    """A question about pictures, and where the truth lies.

    Attributes
    ----------
    images : tuple of PIL images
    question, answer : str
        ``answer`` is empty where there is no right one.
    picture : int
        Counted from 0; -1 for none.
    """

    images: tuple[Image.Image, ...]
    question: str
    answer: str = ""
    picture: int = -1


def turns(rng: Rng) -> Iterator[tuple[list[Scene], Turn]]:
    """Endlessly: scenes, and a question about one of them."""
    while True:
        scenes = [
            draw_scene(rng, random_names(rng), allow_held_out=True)
            for _ in range(int(rng.integers(1, MOST_PICTURES + 1)))
        ]
        ask = (ask_name, ask_which)[int(rng.integers(2))]
        turn = ask([held(scene) for scene in scenes], rng, LANGUAGES[int(rng.integers(2))])
        if turn is not None and turn.picture is not None:
            yield scenes, turn


def held(scene: Scene) -> list[Held]:
    width, height = scene.image.size
    return [Held(each.name, each.centre[0] / width, each.centre[1] / height) for each in scene.placed]


def blank(rng: Rng) -> Image.Image:
    """White, one colour, coloured noise or grey noise, of any size."""
    width, height = (int(side) for side in rng.integers(120, 400, 2))
    kind = int(rng.integers(4))
    if kind == 0:
        return Image.new("RGB", (width, height), "white")
    if kind == 1:
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        return Image.new("RGB", (width, height), (red, green, blue))
    if kind == 2:
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Image.fromarray(rng.normal(128, 40, (height, width)).clip(0, 255).astype(np.uint8)).convert("RGB")


def grounded(rng: Rng) -> Iterator[Asked]:
    for scenes, turn in turns(rng):
        assert turn.picture is not None
        yield Asked(tuple(scene.image for scene in scenes), turn.question, turn.answer, turn.picture)


def blanks(rng: Rng) -> Iterator[Asked]:
    for scenes, turn in turns(rng):
        yield Asked(tuple(blank(rng) for _ in scenes), turn.question)


def absent(rng: Rng) -> Iterator[Asked]:
    forms = ("What is in image {}?", "图像{}里有什么?", "What does picture {} show?", "图{}是什么?")
    for scenes, _ in turns(rng):
        number = len(scenes) + 1 + int(rng.integers(3))
        yield Asked(tuple(scene.image for scene in scenes), forms[int(rng.integers(len(forms)))].format(number))


def moved(rng: Rng) -> Iterator[Asked]:
    """The question stays and its picture changes places: what is named then stands elsewhere, and so does what is asked about."""
    for scenes, turn in turns(rng):
        if len(scenes) == 1:
            continue
        assert turn.picture is not None
        other = int((turn.picture + rng.integers(1, len(scenes))) % len(scenes))
        order = list(range(len(scenes)))
        order[turn.picture], order[other] = other, turn.picture
        images = tuple(scenes[k].image for k in order)
        if turn.task == "which":
            shown = str(turn.picture + 1)
            yield Asked(images, turn.question, turn.answer.replace(shown, str(other + 1)), other)
            continue
        contents = [held(scenes[k]) for k in order]
        language = "en" if turn.question.isascii() else "zh"
        again = ask_name([contents[turn.picture]], rng, language)
        if again is not None:
            yield Asked(images, turn.question, again.answer, turn.picture)


KINDS: dict[str, Callable[[Rng], Iterator[Asked]]] = {
    "right, about a picture": grounded,
    "to blank or noise pictures": blanks,
    "about a picture that is not there": absent,
    "right, pictures exchanged": moved,
}


def measure(asked: Asked, answer: Answer) -> dict[str, Any]:
    evidence = answer.evidence(methods=METHODS)
    head = evidence.verdict.partition(":")[0]
    said = f"rests on picture {asked.picture + 1}"
    return {
        "effect": float(evidence.effect["all"]),
        "largest": float(evidence.effect.max()),
        "weight": evidence.weight,
        "probability": evidence.probability,
        "head": head if not head.startswith("rests on picture") else "one",
        "right picture": head == said,
        "note": any("the question names image" in note for note in answer.notes),
    }


def run(session: Session, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    streams = {
        kind: draw(np.random.default_rng([EVALUATION_SEED, seed, number]))
        for number, (kind, draw) in enumerate(KINDS.items())
    }
    with contextlib.suppress(KeyboardInterrupt), tqdm(total=count * len(KINDS), unit=" answers", ascii=True) as bar:
        for kind in chain.from_iterable([KINDS] * count):
            rows[kind].append(measured(session, streams[kind]))
            bar.update()
    return rows


def measured(session: Session, stream: Iterator[Asked]) -> dict[str, Any]:
    """The next answer that is right, where there is a right one."""
    for asked in stream:
        answer = session.ask([*asked.images, asked.question], max_new_tokens=32)
        if not asked.answer or (answer.text == asked.answer and answer.text not in NONE):
            return measure(asked, answer)
    raise AssertionError("the streams never end")


def area(high: Sequence[float], low: Sequence[float]) -> float:
    """Area under the ROC curve: the chance that one of ``high`` exceeds one of ``low``, a tie counting half."""
    one, two = np.asarray(high)[:, None], np.asarray(low)[None]
    return float(((one > two) + 0.5 * (one == two)).mean())


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    first, *others = KINDS
    areas = {
        kind: {
            name: area([row[name] for row in rows[first]], [row[name] for row in rows[kind]])
            for name in ("effect", "largest", "weight")
        }
        for kind in others
        if rows[first] and rows[kind]
    }
    kinds = {}
    for kind, found in rows.items():
        heads = Counter(row["head"] for row in found)
        kinds[kind] = {
            "answers": len(found),
            "effect": [float(q) for q in np.quantile([row["effect"] for row in found], [0.05, 0.5, 0.95])]
            if found
            else [],
            "weight": [float(q) for q in np.quantile([row["weight"] for row in found], [0.05, 0.5, 0.95])]
            if found
            else [],
            "verdicts": dict(heads),
            "right picture": interval([float(row["right picture"]) for row in found]) if found else None,
            "notes": sum(row["note"] for row in found),
        }
    return {"areas": areas, "kinds": kinds, "hardly": HARDLY}


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, and whether it was."""
    kinds, (first, nothing, missing, _) = report["kinds"], KINDS
    given = [kind for kind in kinds if kind != missing]
    wanted = [
        (
            f"area by weight, answers {first}, against answers {nothing}",
            report["areas"][nothing]["weight"],
            AUC,
            "at least",
        ),
        (
            f"notes with answers {missing}",
            kinds[missing]["notes"] / kinds[missing]["answers"],
            NOTES,
            "at least",
        ),
        ("false notes", float(sum(kinds[kind]["notes"] for kind in given)), FALSE_NOTES, "at most"),
    ]
    return [
        {"aim": name, "found": found, "wanted": bound, "met": found >= bound if side == "at least" else found <= bound}
        for name, found, bound, side in wanted
    ]


def printed(report: dict[str, Any]) -> str:
    heads = {
        "one": "rests on one picture",
        "rests on several pictures": "several",
        "hardly rests on any picture": "hardly any",
        "methods disagree": "methods disagree",
    }
    names = [
        "answers",
        "nats lost, all pictures",
        "weighed with the probability",
        *heads.values(),
        "on the right one",
        "notes",
    ]
    lines = [
        f"| {' | '.join(names)} |",
        "| --- " * len(names) + "|",
    ]
    for kind, row in report["kinds"].items():
        shares = [_percent(row["verdicts"].get(head, 0) / row["answers"]) for head in heads]
        right = _percent(row["right picture"][0]) if kind.startswith("right") else "-"
        notes = f"{row['notes']} of {row['answers']}"
        lines.append(f"| {' | '.join([kind, _spread(row['effect']), _spread(row['weight']), *shares, right, notes])} |")
    lines += [
        "",
        f"Median (5 % to 95 %). Below a weight of {report['hardly']:.2f} an answer hardly rests on any picture.",
    ]
    for kind, areas in report["areas"].items():
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in areas.items())
        lines.append(f"- area under the curve against {kind!r}: {numbers}")
    for aim in report["aims"]:
        lines.append(
            f"- {aim['aim']}: {aim['found']:.3f} (wanted {aim['wanted']:g}), {'reached' if aim['met'] else 'NOT reached'}"
        )
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _spread(quantiles: Sequence[float]) -> str:
    low, middle, high = quantiles
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=300, help="of each kind (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the table of the last run, run nothing")
    chosen = parser.parse_args()
    if chosen.show:
        print(printed(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    report = summary(run(vila_lab.load(), chosen.answers, chosen.seed))
    report |= {"seed": chosen.seed, "machine": platform.machine(), "aims": aims(report)}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
