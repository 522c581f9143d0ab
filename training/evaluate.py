"""Measures the embedded model on held-out scenes, task by task, through the ordinary prompt and greedy decoding.

``python -m training.evaluate`` prints a table of each suite (whole answers exactly right, 95 % Wilson intervals, chance
beside each) and writes them as JSON; ``--card`` puts them into the model card as well. The scenes' seeds and renders were
never trained on, one in seven (thing, background) pairs was held out of training too, and two backgrounds altogether.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vila_lab.prompt import Picture, Prompt
from vila_lab.resident import load
from vila_lab.session import Session
from vila_lab.tiny import demo_images
from vila_lab.tiny.backgrounds import HELD_OUT_STYLES
from vila_lab.tiny.names import INDEX, OBJECTS, THINGS
from vila_lab.tiny.probes import EVALUATION_SEED, random_names
from vila_lab.tiny.world import Scene, draw_scene

from .pool import pack
from .questions import TASKS, Contents, Turn, ask_complete
from .sets import FULL, SetSampler

MARKS = ("Google", "Microsoft", "Apple", "NVIDIA")
DEMO_FILES = {"Google": "g.png", "Microsoft": "m.png", "Apple": "a.png", "NVIDIA": "n.png"}
POOL = 4000
LONGEST = 96  # tokens of an answer


@dataclass(frozen=True)
class Case:
    """A question, its right answer, and the chance of guessing it."""

    images: tuple[Image.Image, ...]
    turn: Turn
    chance: float


@dataclass(frozen=True)
class Suite:
    """Which scenes are asked about.

    Attributes
    ----------
    style
        One background for all of them; by default any that a scene gets by itself.
    pictures
        Sets of this many; by default of one to six.
    """

    style: str | None = None
    pictures: int | None = None


SUITES = {
    "ordinary": Suite(),
    "six": Suite(pictures=6),
    **{style: Suite(style=style) for style in (*HELD_OUT_STYLES, "stripes", "black")},
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    count: int
    right: int
    low: float
    high: float
    chance: float
    by_pictures: dict[int, float]

    @property
    def share(self) -> float:
        return self.right / self.count


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927).

    >>> tuple(round(side, 3) for side in wilson(475, 500))
    (0.927, 0.966)
    """
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - reach, middle + reach


def chance(turn: Turn, contents: Contents) -> float:
    """How often a guesser is right who knows the form of the answer but sees no picture."""
    n = len(contents)
    if turn.task in ("yes_no", "same", "position"):
        return 1 / 2
    if turn.task in ("which", "odd"):
        return 1 / n
    if turn.task == "count":
        return 1 / (n + 1)
    named = {"name": turn.picture, "complete": turn.picture, "company": turn.picture}.get(turn.task)
    things = contents[named] if named is not None else [held for picture in contents for held in picture]
    companies = len(THINGS) - len(OBJECTS)
    return math.prod(1 / (companies if held.thing.is_company else len(OBJECTS)) for held in things)


def held_out_scenes(seed: int, count: int, style: str | None) -> list[Scene]:
    rng = np.random.default_rng(EVALUATION_SEED + seed)
    return [
        draw_scene(rng, random_names(rng), style=style, allow_held_out=True)
        for _ in tqdm(range(count), desc="drawing", leave=False)
    ]


def cases(
    task: str, count: int, scenes: list[Scene], sampler: SetSampler, pictures: int | None = None
) -> Iterator[Case]:
    """``count`` questions of one task over sets of one to six of the scenes, or of just so many."""
    rng = sampler.rng
    found = 0
    while found < count:
        n = pictures or int(rng.choice(len(FULL.pictures), p=FULL.pictures)) + 1
        _, rows = sampler.compose(n, FULL)
        contents = sampler.contents(rows)
        turn = TASKS[task](contents, rng, "zh" if rng.random() < 0.5 else "en")
        if turn is not None:
            found += 1
            yield Case(tuple(scenes[r].image for r in rows), turn, chance(turn, contents))


def mission_cases(count: int, seed: int, style: str | None) -> Iterator[Case]:
    """The four marks of the four-picture example in all orders, drawn afresh, asked for in Chinese as the example does."""
    rng = np.random.default_rng(EVALUATION_SEED + 7 * seed + 1)
    orders = list(itertools.permutations(MARKS))
    for k in range(count):
        scenes = [draw_scene(rng, [name], style=style, allow_held_out=True) for name in orders[k % len(orders)]]
        yield Case(
            tuple(scene.image for scene in scenes),
            _mission_turn([scene.names[0] for scene in scenes]),
            1 / (len(THINGS) - len(OBJECTS)),
        )


def demo_cases() -> Iterator[Case]:
    """The same on the committed demo pictures, each order once."""
    pictures = {name: Image.open(demo_images() / file).convert("RGB") for name, file in DEMO_FILES.items()}
    for order in itertools.permutations(MARKS):
        yield Case(
            tuple(pictures[name] for name in order), _mission_turn(list(order)), 1 / (len(THINGS) - len(OBJECTS))
        )


def _mission_turn(names: list[str]) -> Turn:
    from .questions import Held

    assert all(name in INDEX for name in names)
    turn = ask_complete([[Held(name, 0.5, 0.5)] for name in names], np.random.default_rng(0), "zh")
    assert turn is not None
    return turn


def answer_text(session: Session, case: Case) -> str:
    """The greedy answer, without keeping any attention."""
    prompt = Prompt((*(Picture(image, "drawn") for image in case.images), case.turn.question))
    prepared = session.family.prepare(prompt)
    config = session.family.generation_config(prepared.options)
    config.max_new_tokens, config.max_length = LONGEST, None
    with torch.no_grad():
        ids = session.model.generate(**prepared.inputs, generation_config=config)
    return session.family.text(ids[0, len(prepared.token_map) :].tolist())


def measure(session: Session, task: str, found: Iterator[Case], count: int, misses: list[str] | None = None) -> Row:
    rights, chances, per_count = [], [], {}  # type: ignore[var-annotated]
    for case in tqdm(found, total=count, desc=task, leave=False):
        said = answer_text(session, case)
        right = said == case.turn.answer
        rights.append(right)
        chances.append(case.chance)
        per_count.setdefault(len(case.images), []).append(right)
        if not right and misses is not None:
            misses.append(f"{task}: {case.turn.question} | right: {case.turn.answer} | said: {said}")
    low, high = wilson(sum(rights), len(rights))
    by_pictures = {n: round(float(np.mean(r)), 4) for n, r in sorted(per_count.items())}
    return Row(task, len(rights), sum(rights), low, high, float(np.mean(chances)), by_pictures)


def evaluate(session: Session, suite: Suite, *, count: int, seed: int, misses: list[str] | None = None) -> list[Row]:
    """All tasks, ``count`` questions each; the example's four marks too where sets of four are asked about."""
    scenes = held_out_scenes(seed, POOL, suite.style)
    sampler = SetSampler(
        pack(scenes), session.tokenizer, np.random.default_rng(EVALUATION_SEED + seed), range(len(scenes))
    )
    rows = [
        measure(session, task, cases(task, count, scenes, sampler, suite.pictures), count, misses) for task in TASKS
    ]
    if suite.pictures is None:
        fresh = mission_cases(count, seed, suite.style)
        rows.append(measure(session, "mission, fresh renders", fresh, count, misses))
    if suite == SUITES["ordinary"]:
        rows.append(measure(session, "mission, demo pictures", demo_cases(), 24, misses))
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| task | right | 95 % interval | chance | by number of pictures |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        split = ", ".join(f"{n}: {100 * share:.0f}" for n, share in row.by_pictures.items())
        interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        lines.append(
            f"| {row.task} | {100 * row.share:.1f} % of {row.count} | {interval} | {100 * row.chance:.1f} % | {split} |"
        )
    return "\n".join(lines)


def on_card(card: str, tables: Mapping[str, str]) -> str:
    """The card with each suite's table in its place, which two comments mark."""
    for suite, made in tables.items():
        start, end = f"<!-- {suite} -->\n", "<!-- end -->"
        before, found, after = card.partition(start)
        if not found or end not in after:
            raise ValueError(f"the card has no place for the table of {suite!r}")
        card = before + start + made + "\n" + end + after.partition(end)[2]
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of the checkpoint; the embedded one by default")
    parser.add_argument("--suites", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--card", type=Path, help="a model card to write the tables into")
    parser.add_argument("--misses", type=Path, help="write the wrong answers here")
    options = parser.parse_args()
    session = load(options.model)
    misses: list[str] = []
    found: dict[str, list[Row]] = {}
    for name in options.suites:
        found[name] = evaluate(session, SUITES[name], count=options.count, seed=options.seed, misses=misses)
        print(f"{name}\n{table(found[name])}\n")
        written = {suite: [asdict(row) | {"share": row.share} for row in rows] for suite, rows in found.items()}
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if options.card:
        tables = {suite: table(rows) for suite, rows in found.items()}
        options.card.write_text(on_card(options.card.read_text(encoding="utf-8"), tables), encoding="utf-8")
    if options.misses:
        options.misses.write_text("\n".join(misses) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
