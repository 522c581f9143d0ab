"""What attribution costs, in plain teacher-forced forwards: shared prefixes against one whole pass per variant.

    python benchmarks/attribution_speed.py                       # the embedded model, and 2 layers of Qwen2-0.5B's shape
    python benchmarks/attribution_speed.py --layers 24           # the whole shape; much longer; the ratios stay

CPU seconds of this process are counted, so that other work on the machine does not matter; medians of a few rounds, in
which what is compared takes turns. The decoder's weights are random: only the shape matters here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

import vila_lab
from vila_lab.attribution import Replay, Said
from vila_lab.attribution.coalitions import Feature, evaluate, evaluate_plainly
from vila_lab.attribution.features import picture_features
from vila_lab.attribution.recording import gradients_of, recorded
from vila_lab.attribution.target import Target, resolve
from vila_lab.prompt import Prompt
from vila_lab.tokenmap import Kind, TokenMap

PICTURES, PATCHES, TEXT, ANSWER = 4, 256, 60, 8


class Shape:
    """As much of a family as a replay of given embeddings needs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder_layers = list(model.model.layers)


def qwen_replay(layers: int) -> tuple[Shape, Replay]:
    """A prompt of 4 x 256 visual tokens and 60 of text for a random decoder of Qwen2-0.5B's shape.

    The vocabulary is cut: only the answer's few rows meet it.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    before = TEXT // 3
    kinds = [Kind.TEMPLATE] * before + [Kind.IMAGE] * PICTURES * PATCHES + [Kind.TEXT] * (TEXT - before)
    count = len(kinds)
    picture = [-1] * before + [k for k in range(PICTURES) for _ in range(PATCHES)] + [-1] * (TEXT - before)
    boxes = [(0.0, 0.0, 1.0, 1.0) if p >= 0 else None for p in picture]
    token_map = TokenMap.build(
        text="", kinds=kinds, spans=[(-1, -1)] * count, sizes=[(1, 1)] * PICTURES, picture=picture,
        tile=[min(p, 0) for p in picture], scale=[min(p, 0) for p in picture], box=boxes,
    )  # fmt: skip
    family = Shape(model)
    replay = Replay(family, Prompt(("benchmark",)), token_map, [Said(f"w{k}", 100 + k) for k in range(ANSWER)])
    replay.__dict__["embeddings"] = torch.randn(count, 896) * 0.02
    return family, replay  # a replay keeps no model alive


def qwen_features(replay: Replay, baseline: str) -> list[Feature]:
    found = []
    for k in range(PICTURES):
        mine = replay.token_map.positions(f"image_{k + 1}")
        other = None if baseline == "remove" else torch.randn(len(mine), 896) * 0.02
        found.append(Feature(f"image_{k + 1}", mine, (replay.embeddings[mine], other)))
    return found


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(
    name: str, replay: Replay, features_of: Callable[[Replay, str], list[Feature]], rounds: int, loop: bool
) -> None:
    """Print a row per method: CPU time in plain forwards, and the largest difference from whole passes."""
    target = resolve(replay.said, lambda text: [1])
    count = len(features_of(replay, "remove"))
    shapley = list(product((0, 1), repeat=count))
    leave_one_out = [(0,) * count, *(tuple(int(i == k) for i in range(count)) for k in range(count))]
    works: dict[str, Callable[[], Any]] = {"plain teacher-forced forward": lambda: plain(replay, target)}
    values: dict[str, Any] = {}
    for baseline in ("remove", "replace"):
        features = features_of(replay, "remove" if baseline == "remove" else "grey")
        for label, choices in (("leave one out", leave_one_out), ("exact Shapley", shapley)):
            ways = {"shared": evaluate, "captum's way": evaluate_plainly} if loop else {"shared": evaluate}
            for way, run in ways.items():
                key = f"{label}, {baseline}, {way}"
                works[key] = _keep(values, key, run, replay, features, choices, target)
    taken: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            taken[key].append(seconds(work))
    base = statistics.median(taken["plain teacher-forced forward"])
    print(f"{name}: {len(replay.token_map)} positions, plain forward {base:.3f} CPU s")
    for key, times in taken.items():
        ratio = statistics.median(times) / base
        other = values.get(key.replace("shared", "captum's way"))
        error = (
            "" if other is None or "shared" not in key else f"  max difference {np.abs(values[key] - other).max():.1e}"
        )
        print(f"  {key:45s} {ratio:6.2f} x{error}")


def _keep(
    values: dict[str, Any],
    key: str,
    run: Any,
    replay: Replay,
    features: Sequence[Feature],
    choices: Any,
    target: Target,
) -> Callable[[], Any]:
    def work() -> None:
        values[key] = run(replay, features, choices, target)

    return work


def plain(replay: Replay, target: Target) -> None:
    with torch.no_grad():
        replay.values(target)


def gradients(name: str, replay: Replay, rounds: int) -> None:
    """Recorded forward and backward, ready for weight x gradient, against the same pass without recording."""
    target = resolve(replay.said, lambda text: [1], 0)

    def run(attention: bool) -> None:
        with recorded(replay, target.passes[0], attention=attention) as recording:
            (part,) = target.part(0, recording.logits)
            values = [layer.value for layer in recording.layers]
            found = gradients_of(replay, part, [recording.inputs, *values])
            for value, gradient in zip(values, found[1:], strict=True):
                (value.detach() * gradient).sum((0, 1, 3))

    ratios = []
    for _ in range(rounds):
        bare = seconds(lambda: run(False))
        ratios.append(seconds(lambda: run(True)) / bare)
    print(
        f"{name}: grad x attention, forward + backward {statistics.median(ratios):.3f} x plain sdpa forward + backward"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=2, help="layers of the Qwen2-0.5B shape; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-loop", action="store_true", help="leave out one whole pass per variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab, folder = vila_lab.load(), vila_lab.demo_images()
    answer = lab.ask([*(folder / f"{name}.png" for name in "gman"), "What is in image 2?"])
    embedded = answer._replay
    assert embedded is not None
    compare("embedded model", embedded, picture_features, options.rounds, not options.no_loop)
    gradients("embedded model", embedded, options.rounds)
    if options.layers:
        _family, replay = qwen_replay(options.layers)
        compare(
            f"Qwen2-0.5B's shape, {options.layers} layers", replay, qwen_features, options.rounds, not options.no_loop
        )
        gradients(f"Qwen2-0.5B's shape, {options.layers} layers", replay, options.rounds)


if __name__ == "__main__":
    main()
