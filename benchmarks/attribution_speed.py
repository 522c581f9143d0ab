"""What attribution costs: perturbations in plain teacher-forced forwards, gradients in plain forward + backward passes.

    python benchmarks/attribution_speed.py                       # the embedded model, and 2 layers of Qwen2-0.5B's shape
    python benchmarks/attribution_speed.py --layers 24           # the whole shape; much longer; the ratios stay

CPU seconds of one process, so that other work on the machine matters little; what is compared takes turns, and ratios are
medians of a few rounds. Peak memory is the growth of the resident set's high-water mark in a process of its own per
variant. The decoder's weights are random: only the shape matters here.

Three ways to the same scores: "shared" is the library's, in which variants share their prefixes; "whole passes" runs
each variant from its first token; "captum" is captum's own FeatureAblation or ShapleyValues, one whole pass per call.

What sharing can reach with n = 4 pictures of equal size, in picture blocks out of the n of a plain pass: leaving one out
computes 4 (as asked) + 3 + 2 + 1 + 0 = 10 blocks with removal, 2.5 passes, and 4 + 4 + 3 + 2 + 1 = 14 with replacement,
3.5 passes, because a picture changes all keys behind it. So 3 is out of reach there for any exact way. Exact Shapley
computes 15 blocks (3.75) with removal and 30 (7.5) with replacement; the question behind the pictures comes on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from captum.attr import FeatureAblation, ShapleyValues
from numpy.typing import NDArray

import vila_lab
from benchmarks.memory import forget_peak, high_water
from vila_lab.attribution import Replay
from vila_lab.attribution.captum_seam import interpretable_input, presence_function
from vila_lab.attribution.coalitions import Feature, evaluate, evaluate_plainly
from vila_lab.attribution.features import picture_features
from vila_lab.attribution.grad_x_attention import attribute as grad_x_attention
from vila_lab.attribution.shapley import exact
from vila_lab.engine.engine import Engine
from vila_lab.engine.record import Record
from vila_lab.engine.replay import frozen
from vila_lab.engine.target import Target, resolve
from vila_lab.families.decoder import Components, Decoder
from vila_lab.families.embedded import Embedded
from vila_lab.tokenmap import Kind, TokenMap
from vila_lab.tokens import Token
from vila_lab.upstream import attention_name

PICTURES, PATCHES, TEXT, WIDTH = 4, 256, 60, 896
RESULTS = Path(__file__).parent / "results" / "attribution_speed.json"
PLAIN = "plain forward"
GRADIENTS = ("plain sdpa", "grad x attention", "full eager")
# What is aimed at on Qwen2-0.5B's shape: (table, row, column) and its bound.
AIMS = {
    ("perturbation", "leave one out, remove, shared", "ratio"): 3.0,
    ("perturbation", "leave one out, replace, shared", "ratio"): 3.0,
    ("perturbation", "Shapley, remove, shared", "ratio"): 5.0,
    ("perturbation", "Shapley, replace, shared", "ratio"): 9.0,
    ("gradient", "grad x attention", "ratio"): 1.05,
    ("gradient", "grad x attention", "peak_ratio"): 1.1,
}
SAME = 1e-4  # how far the ways' values may differ


class Shape(Decoder):
    """As much of a family as a replay of given embeddings needs."""

    components = Components(layers="model.layers", norm="model.norm")


def qwen(layers: int, answer: int) -> tuple[Engine, Replay]:
    """A prompt of 4 x 256 visual tokens and 60 of text for a random decoder of Qwen2-0.5B's shape.

    The vocabulary is cut: only the answer's few rows meet it.
    """
    config = transformers.Qwen2Config(
        vocab_size=4096, hidden_size=WIDTH, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    family = Shape(transformers.Qwen2ForCausalLM(config).eval(), None)
    before = TEXT // 3
    kinds = [Kind.TEMPLATE] * before + [Kind.IMAGE] * PICTURES * PATCHES + [Kind.TEXT] * (TEXT - before)
    count = len(kinds)
    picture = [-1] * before + [k for k in range(PICTURES) for _ in range(PATCHES)] + [-1] * (TEXT - before)
    boxes = [(0.0, 0.0, 1.0, 1.0) if p >= 0 else None for p in picture]
    token_map = TokenMap.build(
        text="", kinds=kinds, spans=[(-1, -1)] * count, sizes=[(1, 1)] * PICTURES, picture=picture,
        tile=[min(p, 0) for p in picture], scale=[min(p, 0) for p in picture], box=boxes,
    )  # fmt: skip
    said = [Token(f"w{k}", 100 + k, 0.0, count + k) for k in range(answer)]
    record = Record(
        text="", tokens=said, images=(), token_map=token_map, parts=(), notes=(),
        model="random", norms=np.zeros(0, np.float32), tape=None,
    )  # fmt: skip
    engine = Engine(family, "random")
    replay = Replay(record, engine)
    replay.inputs.embedded = Embedded(torch.randn(count, WIDTH) * 0.02, torch.arange(count))
    return engine, replay  # a replay keeps no model alive


def qwen_features(replay: Replay, baseline: str) -> list[Feature]:
    found = []
    for k in range(PICTURES):
        mine = replay.token_map.positions(f"image_{k + 1}")
        other = None if baseline == "remove" else torch.randn(len(mine), WIDTH) * 0.02
        found.append(Feature(f"image_{k + 1}", mine, (replay.embedded.features[mine], other)))
    return found


def embedded() -> Replay:
    """The embedded model after a question about four pictures."""
    lab, folder = vila_lab.load(), vila_lab.demo_images()
    return lab.ask([*(folder / f"{name}.png" for name in "gman"), "What is in image 2?"]).replay


def whole_answer(replay: Replay) -> Target:
    return resolve(replay.said, lambda text: [1])


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


# -- perturbations -----------------------------------------------------------------------------------------------------


def perturbations(
    replay: Replay, features_of: Callable[[Replay, str], list[Feature]], rounds: int, captum: bool
) -> Any:
    """A row per method, baseline and way: CPU time in plain forwards, and how far its values are from whole passes'."""
    target = whole_answer(replay)
    works: dict[str, Callable[[], Any]] = {PLAIN: partial(plain_forward, replay, target)}
    for method, baseline in product(("leave one out", "Shapley"), ("remove", "replace")):
        features = features_of(replay, "remove" if baseline == "remove" else "grey")
        for way, run in (("shared", evaluate), ("whole passes", evaluate_plainly)):
            works[f"{method}, {baseline}, {way}"] = partial(ours, method, run, replay, features, target)
        if captum:
            works[f"{method}, {baseline}, captum"] = partial(theirs, method, replay, features, target)
    taken: dict[str, list[float]] = {name: [] for name in works}
    values: dict[str, Any] = {}
    works[PLAIN]()  # what torch does only once
    for number in range(rounds):
        for name, work in works.items():
            if number and name.endswith("captum"):
                continue  # dozens of whole passes average by themselves
            start = time.process_time()
            values[name] = work()
            taken[name].append(time.process_time() - start)
    rows: dict[str, Any] = {PLAIN: {"seconds": statistics.median(taken[PLAIN]), "ratio": 1.0}}
    for name in list(works)[1:]:
        reference = values[f"{name.rsplit(', ', 1)[0]}, whole passes"]
        rows[name] = {
            "seconds": statistics.median(taken[name]),
            "ratio": statistics.median(mine / plain for mine, plain in zip(taken[name], taken[PLAIN], strict=False)),
            "max_difference": float(np.abs(values[name] - reference).max()),
        }
    return rows


def plain_forward(replay: Replay, target: Target) -> None:
    with torch.no_grad():
        replay.values(target)


def ours(method: str, run: Any, replay: Replay, features: list[Feature], target: Target) -> NDArray[np.float64]:
    """A picture's score for the whole answer.  # (pictures,)"""
    count = len(features)
    if method == "Shapley":
        choices = list(product((0, 1), repeat=count))
        scores = dict(zip(choices, run(replay, features, choices, target), strict=True))
        return exact(scores, count).sum(0)
    choices = [(0,) * count, *(tuple(int(i == k) for i in range(count)) for k in range(count))]
    found = run(replay, features, choices, target).sum(1)
    return np.asarray(found[0] - found[1:])


def theirs(method: str, replay: Replay, features: list[Feature], target: Target) -> NDArray[np.float64]:
    """The same by captum's own loop.  # (pictures,)"""
    forward = presence_function(replay, target, features, shared=False)
    loop = (ShapleyValues if method == "Shapley" else FeatureAblation)(lambda presence: forward(presence).sum(1))
    found = loop.attribute(interpretable_input(features).to_tensor(), baselines=0.0)
    return np.asarray(found[0].double().numpy())


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradient(variant: str, replay: Replay, target: Target) -> NDArray[np.float64] | None:
    """One teacher-forced forward and a backward per token; what a method gets of it.  # (rows, T)"""
    if variant == "grad x attention":
        return grad_x_attention(replay, target).values
    model, (only,) = replay.model, target.passes
    before = attention_name(model.config)
    if variant == "full eager":
        model.set_attn_implementation("eager")
    try:
        with torch.enable_grad(), frozen(model):
            inputs = replay.followed(replay.embedded, only.fed).vectors.detach().requires_grad_()
            output = model(
                inputs_embeds=inputs[None],
                use_cache=False,
                output_attentions=variant == "full eager",
                logits_to_keep=torch.tensor([replay.prompt_length - 1 + row for row in only.rows]),
            )
            parts = target.part(0, output.logits[0])
            if variant == "plain sdpa":
                for part in parts:
                    torch.autograd.grad(part, inputs, retain_graph=True)
                return None
            rows = []
            for part in parts:
                found = torch.autograd.grad(part, output.attentions, retain_graph=True)
                products = [(a.detach() * g).sum((0, 1, 2)) for a, g in zip(output.attentions, found, strict=True)]
                rows.append(torch.stack(products).double().sum(0).numpy())
            return np.stack(rows)
    finally:
        model.set_attn_implementation(before)


def gradients(replay: Replay, rounds: int, peaks: Mapping[str, int]) -> dict[str, Any]:
    """A row per variant: CPU seconds per target, in plain forward + backward; peak memory beside it."""
    target = whole_answer(replay)
    count, length = len(target.rows), replay.prompt_length + len(replay.said) - 1
    taken: dict[str, list[float]] = {variant: [] for variant in GRADIENTS}
    values: dict[str, Any] = {}
    for _ in range(rounds):
        for variant in GRADIENTS:
            start = time.process_time()
            values[variant] = gradient(variant, replay, target)
            taken[variant].append(time.process_time() - start)
    rows: dict[str, Any] = {}
    for variant, times in taken.items():
        rows[variant] = {
            "seconds": statistics.median(times) / count,
            "ratio": statistics.median(mine / plain for mine, plain in zip(times, taken["plain sdpa"], strict=True)),
        }
        if variant in peaks:
            rows[variant] |= {"peak": peaks[variant], "peak_ratio": peaks[variant] / peaks["plain sdpa"]}
    difference = values["grad x attention"][:, :length] - values["full eager"]
    rows["grad x attention"]["max_difference"] = float(np.abs(difference).max())
    return rows


def peak(variant: str, layers: int, answer: int) -> int:
    """Growth of this process's peak memory by one run, in bytes. The backwards of one graph differ in nothing: 2 do."""
    _engine, replay = qwen(layers, answer)
    target = resolve(replay.said, lambda text: [1], slice(-2, None))
    short = resolve(replay.said, lambda text: [1], 0)
    plain_forward(replay, short)  # what the libraries allocate once
    forget_peak()
    before = high_water()
    gradient(variant, replay, target)
    return high_water() - before


def peaks(layers: int, answer: int) -> dict[str, int]:
    """`peak` of each variant in a process of its own."""
    found = {}
    for variant in GRADIENTS:
        command = [sys.executable, __file__, "--peak", variant, "--layers", str(layers), "--answer", str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"measuring the peak of {variant} failed: {done.stderr.strip().splitlines()[-1:]}")
        found[variant] = int(done.stdout.split()[-1])
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def show(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    has_peak = any("peak" in row for row in rows.values())
    print(f"\n{title}\n| | CPU s | ratio |{' peak MB | ratio |' if has_peak else ''} max difference |")
    print("| --- | ---: | ---: |" + (" ---: | ---: |" if has_peak else "") + " ---: |")
    for name, row in rows.items():
        memory = f" {row['peak'] / 1e6:.0f} | {row['peak_ratio']:.2f} |" if "peak" in row else ""
        error = f"{row['max_difference']:.1e}" if "max_difference" in row else ""
        print(f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} |{memory} {error} |", flush=True)


def judged(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each aim beside what was measured."""
    rows = []
    for (table, row, column), bound in AIMS.items():
        found = report.get(table, {}).get(row, {}).get(column)
        if found is not None:
            what = f"{row}, peak memory" if column == "peak_ratio" else row
            rows.append({"what": what, "aim": bound, "measured": found, "reached": found <= bound})
    found = max(
        row.get("max_difference", 0.0) for table in ("perturbation", "gradient") for row in report[table].values()
    )
    return [*rows, {"what": "largest difference of values", "aim": SAME, "measured": found, "reached": found <= SAME}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="layers of the Qwen2-0.5B shape; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", type=int, default=32, help="answer tokens of the gradient table")
    parser.add_argument("--no-captum", action="store_true", help="leave out captum's own loops, which take longest")
    parser.add_argument("--no-peak", action="store_true", help="leave out the memory runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--peak", choices=GRADIENTS, help="measure one variant's peak and print it (used by the benchmark itself)"
    )
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak, options.layers, options.answer))
        return
    report: dict[str, Any] = {
        "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
        "threads": 1, "rounds": options.rounds, "models": {},
    }  # fmt: skip
    small = embedded()
    rounds = max(options.rounds, 9)  # its passes are so short that they differ more from one to the next
    rows = perturbations(small, picture_features, rounds, not options.no_captum)
    name = f"embedded model, {len(small.token_map)} positions, {len(small.said)} answer tokens"
    report["models"]["embedded"] = {
        "title": name,
        "perturbation": rows,
        "gradient": gradients(small, rounds, {}),
    }
    show(f"{name}: perturbations, in plain forwards", rows)
    show(f"{name}: gradients, per target", report["models"]["embedded"]["gradient"])
    write(report, options.output)
    if not options.layers:
        return
    _engine, replay = qwen(options.layers, 8)
    name = f"Qwen2-0.5B's shape, {options.layers} layers, {PICTURES} x {PATCHES} visual tokens, {TEXT} of text"
    found: dict[str, Any] = {"title": name, "layers": options.layers}
    report["models"]["qwen"] = found
    found["perturbation"] = perturbations(replay, qwen_features, options.rounds, not options.no_captum)
    show(f"{name}, 8 answer tokens: perturbations, in plain forwards", found["perturbation"])
    write(report, options.output)
    memory = {} if options.no_peak else peaks(options.layers, options.answer)
    _engine, replay = qwen(options.layers, options.answer)
    found["gradient"] = gradients(replay, options.rounds, memory)
    show(f"{name}, {options.answer} answer tokens: gradients, per target", found["gradient"])
    found["aims"] = judged(found)
    print(f"\nAims, on {name}\n| | aim | measured | |\n| --- | ---: | ---: | --- |")
    for row in found["aims"]:
        print(
            f"| {row['what']} | {row['aim']:g} | {row['measured']:.3g} | {'reached' if row['reached'] else 'missed'} |"
        )
    write(report, options.output)


def write(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
