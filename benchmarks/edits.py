"""Do edits bite where they should, and what do they cost? Knock-outs and redirection on drawn scenes, costs at 4,096 tokens.

    python benchmarks/edits.py --scenes 200 --redirections 100 --size 4096
    python benchmarks/edits.py --show    # the tables of the last run
    python benchmarks/edits.py --model tests/goldens/second --only redirections    # of another family; kept in edits_second.json

cuts: four drawn pictures, a question about one; only scenes count that the model answers right. The picture that the answer
is about is cut off, then another one; beside them the answer with that picture's positions left out of the sequence, which
no edit takes part in. redirections: three and four pictures by turns, a question about one that the model answers right, sent to
another picture. *Follows*: the answer is, word for word, what the model says without edits when the two pictures are exchanged.
*Names the same*: it names exactly the same things, in any order. *Names some*: it names at least one of these and nothing else that
only the first picture shows. The band was chosen on other scenes (training/rank_heads.py). costs: two layers of Qwen2-0.5B's shape with random
weights, variants in turns, medians of ratios to the plain run beside them, CPU seconds of one thread, so that other work on
the machine changes little. Intervals are 95 %, by bootstrap over scenes. Ctrl-C ends early with what was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import LogitsProcessorList, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.checkpoints import loaded, parsed
from vila_lab.answer import Answer
from vila_lab.edits.steering import edits_to, other_band, random_heads
from vila_lab.engine.band import Band
from vila_lab.engine.question import Spec
from vila_lab.engine.request import Request
from vila_lab.errors import NoEffect
from vila_lab.evidence.bootstrap import Interval, interval
from vila_lab.hooks.editing import Editing
from vila_lab.hooks.edits import AttentionLook, EdgeBias, Edit
from vila_lab.hooks.spans import Span
from vila_lab.prompt import Picture
from vila_lab.session import Session
from vila_lab.tiny.names import THINGS
from vila_lab.tiny.probes import PICTURES, Probe, probes

RESULTS = Path(__file__).parent / "results" / "edits.json"
PARTS = ("cuts", "redirections", "costs")
PATIENCE = 6  # probes drawn per scene wanted, before the model is taken to be unable to answer them
LONGEST = 32  # tokens of an answer
READERS = ("*", "answer", "prompt")
STRENGTHS = (8.0, 16.0)  # of steering by hand
GREY = (127, 127, 127)
DRAWS = 3  # random sets of heads per scene
PICTURE = range(32, 32 + 256)  # early in the prompt, so that a cut for all later rows meets nearly all of them
AIMS = {
    "its picture cut off: wrong, or as without it": (">=", 0.90),
    "another picture cut off: another answer": ("<=", 0.10),
    "sent to another picture: follows": (">=", 0.95),
    "no edits": ("<=", 1.00),
    "hook, one layer, answer rows": ("<=", 1.05),
    "knock-out, answer rows": ("<=", 1.10),
    "knock-out, all later rows": ("<=", 1.10),
}
NOISE = 0.03  # of a ratio that should be 1: what two runs of the same thing differ by


# ---- cuts --------------------------------------------------------------------------------------------------------


def right_answers(session: Session, scenes: int, seed: int) -> Iterator[tuple[int, Probe, Answer]]:
    """Scenes that the model answers right, word for word, with the number of scenes drawn so far."""
    stream = probes(seed)
    for drawn in range(1, scenes * PATIENCE + 1):
        probe = next(stream)
        answer = session.ask(parts(probe), max_new_tokens=LONGEST)
        if answer.text == probe.answer:
            yield drawn, probe, answer


def parts(probe: Probe, picture: int | None = None) -> list[Any]:
    """The prompt of a probe; with ``picture`` its question is about that one instead."""
    asked = probe.picture if picture is None else picture
    question = probe.question.replace(str(probe.picture + 1), str(asked + 1))
    return [*(scene.image for scene in probe.scenes), question]


def left_out(session: Session, answer: Answer, picture: int) -> str:
    """The greedy answer with a picture's positions taken out of the sequence: what stands behind keeps its places."""
    replay, length = answer.replay, answer.replay.prompt_length
    shown = np.setdiff1d(np.arange(length), replay.token_map.positions(f"image_{picture + 1}"))
    stops = {token.id for token in answer.tokens if token.stop}
    ids: list[int] = []
    with torch.no_grad():
        family = session.family
        logits, cache = replay.decode(replay.embedded[shown], family.new_cache(), keep=[len(shown) - 1])
        while len(ids) < LONGEST:
            ids.append(int(logits[-1].argmax()))
            if ids[-1] in stops:
                break
            logits, cache = replay.decode(family.embed_ids(ids[-1:], length + len(ids) - 1), cache)
    return family.text(ids)


def cuts(session: Session, scenes: int, seed: int) -> Iterator[dict[str, Any]]:
    """After every scene, what was found so far."""
    rows: dict[str, list[float]] = defaultdict(list)
    right = tqdm(islice(right_answers(session, scenes, seed), scenes), "cuts", scenes, unit=" scenes", ascii=True)
    for number, (drawn, probe, answer) in enumerate(right, 1):
        other = (probe.picture + 1 + number // PICTURES % (PICTURES - 1)) % PICTURES
        without = left_out(session, answer, probe.picture)
        rows["left out of the sequence: wrong"].append(without != answer.text)
        for reader in READERS:
            with session.knockout(f"image_{probe.picture + 1} -> {reader}"):
                blind = session.ask(parts(probe), max_new_tokens=LONGEST).text
            with session.knockout(f"image_{other + 1} -> {reader}"):
                unmoved = session.ask(parts(probe), max_new_tokens=LONGEST).text
            rows[f"its picture -> {reader}: wrong"].append(blind != answer.text)
            rows[f"its picture -> {reader}: as without it"].append(blind == without)
            rows[f"its picture -> {reader}: wrong, or as without it"].append(blind != answer.text or blind == without)
            rows[f"another picture -> {reader}: another answer"].append(unmoved != answer.text)
        yield {"scenes": number, "drawn": drawn, "rows": {label: interval(found) for label, found in rows.items()}}


def printed_cuts(found: dict[str, Any]) -> str:
    lines = ["| right answers after a cut in all layers | share |", "| --- | --- |"]
    lines += [f"| {label} | {percent(row)} |" for label, row in found["rows"].items()]
    scenes = found["scenes"]
    end = f"{scenes} right answers of {found['drawn']} scenes. Where all agree the bootstrap has no width: {min(1, 3 / scenes):.1%} may still hide there."
    return "\n".join([*lines, "", end])


# ---- redirections ------------------------------------------------------------------------------------------------

_BY_LENGTH = sorted({(n, t.name) for t in THINGS for n in (t.name, t.chinese)}, key=lambda pair: -len(pair[0]))
_NAMES = {written.lower(): name for written, name in _BY_LENGTH}
_NAME = re.compile("|".join(rf"(?<![a-z]){re.escape(written)}(?![a-z])" for written in _NAMES))


def named(text: str) -> set[str]:
    """The things that a text names, in whichever language; of names within names the longest counts."""
    return {_NAMES[written] for written in _NAME.findall(text.lower())}


@dataclass(frozen=True)
class Way:
    """One way to send an answer to another picture: the edits, and whether a grey picture stands in that one's place."""

    edits: tuple[Spec, ...]
    blank: bool = False


def ways(session: Session, asked: Asked, seed: int) -> Iterator[tuple[str, Way]]:
    """The redirection, its controls, its parts, and steering by hand; random heads are drawn anew at every call, several times."""
    replay, image, source = asked.answer.replay, asked.image, asked.source
    band, shape = session.engine.band, session.shape
    assert band is not None
    every = edits_to(replay, image, source, band)
    yield f"redirect: {band_in_words(band)}", Way(every)
    other = other_band(band, shape.layers)
    if other is not None:
        yield f"the same edits in {layers_in_words(other.layers)}", Way(edits_to(replay, image, source, other))
    for draw in range(DRAWS):
        drawn = random_heads(band, shape.layers, shape.heads, seed * DRAWS + draw)
        yield (
            "the same edits in as many random heads of other layers",
            Way(edits_to(replay, image, source, band, heads=drawn)),
        )
    yield "to a grey picture in its place", Way(every, blank=True)
    yield (
        "the others closed and the number hidden, nothing steered",
        Way(edits_to(replay, image, source, band, steer=False)),
    )
    yield "steered, nothing closed or hidden", Way(edits_to(replay, image, source, band, close=False))
    if source != image:
        yield (
            "the number left to be read",
            Way(tuple(edit for edit in every if not edit.label.startswith('knock-out of "'))),
        )
    for strength in STRENGTHS:
        by_hand = session.spec_of("steer", {"source": f"image_{image + 1}", "strength": strength, "heads": "routing"})
        yield f"routing heads alone, rows of the answer, strength {strength:g}", Way((by_hand,))


def layers_in_words(layers: Sequence[int]) -> str:
    return f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"


def band_in_words(band: Band) -> str:
    return f"{layers_in_words(band.layers)}, strength {band.strength:g}"


@dataclass(frozen=True, eq=False)
class Asked:
    """A right answer, the picture that it is about, the one it is sent to, and what it should then say."""

    answer: Answer
    source: int
    image: int
    wanted: str
    only_source: frozenset[str]  # what the first picture shows and the other does not


def targets(session: Session, scenes: int, seed: int) -> Iterator[Asked]:
    """Three and four pictures by turns; only what the model says of either picture in the asked place is right and different."""
    for number, probe in enumerate(islice(probes(seed), scenes * PATIENCE)):
        places = [k for k in range(PICTURES) if k != probe.picture]
        kept = [*range(PICTURES)] if number % 2 else sorted([probe.picture, *places[: PICTURES - 2]])
        source = kept.index(probe.picture)
        image = (source + 1 + number // 2 % (len(kept) - 1)) % len(kept)
        shown = [probe.scenes[k] for k in kept]
        question = probe.question.replace(str(probe.picture + 1), str(source + 1))
        answer = session.ask([*(scene.image for scene in shown), question], max_new_tokens=LONGEST)
        swapped = list(shown)
        swapped[source], swapped[image] = shown[image], shown[source]
        wanted = session.ask([*(scene.image for scene in swapped), question], max_new_tokens=LONGEST).text
        mine, other = ({placed.name for placed in shown[k].placed} for k in (source, image))
        if named(answer.text) == mine and named(wanted) == other and not mine & other:
            yield Asked(answer, source, image, wanted, frozenset(mine - other))


def redirections(session: Session, scenes: int, seed: int) -> Iterator[dict[str, Any]]:
    """After every scene, what was found so far."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    chosen = tqdm(islice(targets(session, scenes, seed), scenes), "redirections", scenes, unit=" scenes", ascii=True)
    for count, asked in enumerate(chosen, 1):
        here: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for label, way in ways(session, asked, count):
            said = steered(session, asked, way)
            wanted, found = named(asked.wanted), named(said)
            here[label]["follows"].append(said == asked.wanted)
            here[label]["names the same"].append(wanted == found)
            here[label]["names some"].append(bool(wanted & found) and not asked.only_source & found)
            here[label]["says what it said before"].append(said == asked.answer.text)
        for label, columns in here.items():  # the draws of one scene are averaged: scenes are what the bootstrap draws
            for column, values in columns.items():
                rows[label][column].append(float(np.mean(values)))
        yield {
            "scenes": count,
            "random draws per scene": DRAWS,
            "band": None if session.engine.band is None else session.engine.band.to_json(),
            "rows": [
                {"way": label, **{column: interval(values) for column, values in columns.items()}}
                for label, columns in rows.items()
            ],
        }


def steered(session: Session, asked: Asked, way: Way) -> str:
    """What is said under the edits."""
    prompt = asked.answer.replay.prompt
    if way.blank:
        grey = Picture.of(Image.new("RGB", prompt.images[asked.image].size, GREY))
        prompt = prompt.with_pictures(lambda k, picture: grey if k == asked.image else picture)
    try:
        return session.run(Request(prompt, max_new_tokens=LONGEST, edits=way.edits)).text
    except NoEffect:  # it was asked for, and changes nothing
        return asked.answer.text


def printed_redirections(found: dict[str, Any]) -> str:
    columns = [column for column in found["rows"][0] if column != "way"]
    lines = [f"| sent to another picture | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for row in found["rows"]:
        lines.append(f"| {row['way']} | {' | '.join(percent(row[column]) for column in columns)} |")
    end = f"{found['scenes']} scenes of three and four pictures, {DRAWS} draws of random heads in each."
    return "\n".join([*lines, "", end])


# ---- costs -------------------------------------------------------------------------------------------------------


def decoder(layers: int) -> PreTrainedModel:
    """Random weights in the shape of Qwen2-0.5B; the vocabulary is cut, as no variant touches it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=4096, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True,
    )  # fmt: skip
    model: PreTrainedModel = Qwen2ForCausalLM(config)
    model.eval()
    return model


def variants(size: int, layers: int) -> dict[str, list[Edit] | None]:
    """Edits by variant; None: not even the block is entered."""
    picture, answer = Span.of(PICTURE), Span(onward=size - 1)
    later = Span(onward=PICTURE[0] + 1).without(picture, size)
    everywhere = dict.fromkeys(range(layers))
    return {
        "plain": None,
        "no edits": [],
        "hook, one layer, answer rows": [AttentionLook(lambda found: None, {layers - 1: None}, answer, picture)],
        "knock-out, answer rows": [EdgeBias(picture, answer, everywhere)],
        "knock-out, all later rows": [EdgeBias(picture, later, everywhere)],
    }


def generation(model: PreTrainedModel, edits: list[Edit] | None, size: int, tokens: int) -> dict[str, float]:
    """CPU seconds of one answer's prefill, of a token (median), and of all of it."""
    ids = torch.randint(3, 4096, (1, size), generator=torch.Generator().manual_seed(size))
    ticks: list[float] = []

    def note(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ticks.append(time.process_time())
        return scores

    def answer() -> None:
        generate: Any = model.generate  # not every PreTrainedModel has it, so its type says nothing
        generate(
            ids, attention_mask=torch.ones_like(ids), logits_processor=LogitsProcessorList([note]), do_sample=False,
            max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
        )  # fmt: skip

    start = time.process_time()
    if edits is None:
        answer()
    else:
        with Editing(model, edits):
            answer()
    steps = np.diff(ticks)
    return {"prefill": ticks[0] - start, "token": float(np.median(steps)), "all": time.process_time() - start}


def costs(size: int, tokens: int, layers: int, repeats: int) -> Iterator[dict[str, Any]]:
    """After every round over the variants, medians so far."""
    model, chosen = decoder(layers), variants(size, layers)
    for edits in chosen.values():
        generation(model, edits, PICTURE[-1] + 64, 3)  # warm
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for repeat in tqdm(range(repeats), unit=" rounds", ascii=True, desc="costs"):
        order = list(chosen.items())
        for label, edits in order if repeat % 2 == 0 else order[::-1]:
            runs[label].append(generation(model, edits, size, tokens))
        yield {
            "prompt tokens": size, "generated": tokens, "layers": layers, "rounds": repeat + 1,
            "picture": len(PICTURE), "rows": {label: _against(found, runs["plain"]) for label, found in runs.items()},
        }  # fmt: skip


def _against(found: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians, and medians of the ratios to the plain run of the same round."""
    row = {name: statistics.median(run[name] for run in found) for name in found[0]}
    for name in tuple(row):
        row[f"{name} ratio"] = statistics.median(
            mine[name] / other[name] for mine, other in zip(found, plain, strict=True)
        )
    return row


def printed_costs(found: dict[str, Any]) -> str:
    lines = ["| CPU seconds | prefill | ratio | ms per token | ratio | whole answer | ratio |", "| --- " * 7 + "|"]
    for label, row in found["rows"].items():
        lines.append(
            f"| {label} | {row['prefill']:.2f} | {row['prefill ratio']:.3f} | {1e3 * row['token']:.1f} | {row['token ratio']:.3f} "
            f"| {row['all']:.2f} | {row['all ratio']:.3f} |"
        )
    shape = f"{found['layers']} layers, {found['prompt tokens']:,} prompt tokens, {found['generated']} generated"
    return "\n".join([*lines, "", f"{shape}, {found['rounds']} rounds; the picture has {found['picture']} tokens."])


# ---- all together ------------------------------------------------------------------------------------------------


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, and whether it was."""
    cut = report.get("cuts", {}).get("rows", {})
    found: dict[str, float] = {
        name: cut[label][0]
        for name, label in (
            ("its picture cut off: wrong, or as without it", "its picture -> *: wrong, or as without it"),
            ("another picture cut off: another answer", "another picture -> *: another answer"),
        )
        if label in cut
    }
    sent = report.get("redirections", {}).get("rows")
    found |= {"sent to another picture: follows": sent[0]["follows"][0]} if sent else {}
    found |= {label: row["all ratio"] for label, row in report.get("costs", {}).get("rows", {}).items()}
    rows = []
    for name, (sign, wanted) in AIMS.items():
        if name not in found:
            continue
        slack = NOISE if wanted == 1 else 0.0
        met = found[name] >= wanted if sign == ">=" else found[name] <= wanted + slack
        text = f"{sign} {wanted:.2f}" + (f" within {slack}" if slack else "")
        rows.append({"aim": name, "wanted": text, "found": found[name], "met": met})
    return rows


def printed(report: dict[str, Any]) -> str:
    """All tables of a report, and what was to be reached."""
    tables = {"cuts": printed_cuts, "redirections": printed_redirections, "costs": printed_costs}
    lines = []
    for aim in report["aims"]:
        verdict = "reached" if aim["met"] else "NOT reached"
        lines.append(f"- {aim['aim']} {aim['wanted']}: {aim['found']:.3f}, {verdict}")
    return "\n\n".join([*(tables[part](report[part]) for part in PARTS if part in report), "\n".join(lines)])


def percent(value: Interval | Sequence[float]) -> str:
    mean, low, high = value
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200, help="right answers that are cut")
    parser.add_argument("--redirections", type=int, default=100, help="scenes that are steered")
    parser.add_argument("--size", type=int, default=4096, help="prompt tokens of the costs")
    parser.add_argument("--tokens", type=int, default=17, help="generated tokens of the costs")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="the file keeps what it has of the others"
    )
    asked = parsed(parser, RESULTS, printed)
    if asked is None:
        return
    options, out = asked
    if options.size < PICTURE[-1] + 64:
        parser.error(f"--size must be at least {PICTURE[-1] + 64}, to hold the picture and what comes behind it")
    torch.set_num_threads(1)
    works: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "cuts": lambda: cuts(loaded(options.model), options.scenes, options.seed),
        "redirections": lambda: redirections(loaded(options.model), options.redirections, options.seed),
        "costs": lambda: costs(options.size, options.tokens, options.layers, options.rounds),
    }
    report = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    report |= {"torch": torch.__version__, "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    ended = False
    for part in (part for part in PARTS if part in options.only and not ended):
        try:
            for found in works[part]():
                report[part] = found
        except KeyboardInterrupt:
            ended = True
        report["aims"] = aims(report)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
