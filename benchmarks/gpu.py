"""What vila_lab costs on a CUDA device, and whether it is right there: random weights in NVILA-8B's shape, built on the device.

    python benchmarks/gpu.py              # one device, under nine minutes on an H100; no network, no weights to fetch
    python benchmarks/gpu.py --dry-run    # every path on the CPU, with two layers

checks: the embedded model and the tiny checkpoints of tests/goldens in float32, against eager attention, the CPU and the
reference's stored numbers. The tests themselves build their models and tensors on the CPU, so their properties stand here.
All else runs on the random model in bfloat16. Variants take turns, the first round is left out, values are medians, ratios are
medians of ratios to the plain run of the same round; the first token is counted from the pictures on, an answer to the end of
what it was asked under (an edit's proof, a tape that is joined). A single picture is cut into nine tiles, as NVILA-8B does.
A section or a variant that fails says why in a line, and the rest goes on; the file is written again behind every section.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import CompileConfig

import vila_lab
from benchmarks.random_nvila import SMALL, Shape, question, random_session
from benchmarks.reporting import one_line
from vila_lab.attribution.registry import target_of
from vila_lab.families.base import Prepared
from vila_lab.families.embedded import Embedded
from vila_lab.hooks import Capture, group_indicator
from vila_lab.prompt import Prompt
from vila_lab.session import Session
from vila_lab.upstream import attention_name, has_flash_attention
from vila_lab.versions import installed

RESULTS = Path(__file__).parent / "results" / "gpu.json"
GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
EXACT_SHAPLEY = 8  # pictures; beyond, orders are drawn
ORDERS = 2
# Of the checks, in float32: twice to four times what the tests allow on the CPU, whose sums have another order.
ATTENTION, STORED, LOGITS = 2e-5, 5e-4, 2e-4  # STORED is float16's own rounding

Row = dict[str, Any]
Check = tuple[str, float, float]  # what, how far off, how far at most


# ---- the clock -----------------------------------------------------------------------------------------------------


class Clock:
    """Notes moments: as events of the device, or by the wall clock where there is none."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._moments: list[Any] = []
        if self._is_cuda:
            torch.cuda.synchronize()
        self.tick()

    def tick(self, *_: Any) -> None:
        """Note now; may be a forward hook."""
        if not self._is_cuda:
            self._moments.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._moments.append(event)

    def process(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`tick` as a logits processor that changes nothing."""
        self.tick()
        return scores

    def seconds(self) -> list[float]:
        """All moments but the first, since the first."""
        first, *others = self._moments
        if not self._is_cuda:
            return [moment - first for moment in others]
        torch.cuda.synchronize()
        return [first.elapsed_time(moment) / 1e3 for moment in others]


def answered_in(clock: Clock, ids: Sequence[int]) -> Row:
    """What an answer took, by a clock that ticked at every token; called at its end."""
    clock.tick()
    moments = clock.seconds()
    return {
        "first ms": 1e3 * moments[0],
        "tokens per s": (len(ids) - 1) / (moments[len(ids) - 1] - moments[0]),
        "whole ms": 1e3 * moments[-1],
        "ids": tuple(map(int, ids)),
    }


def remembered(work: Callable[[], Row], device: str) -> Row:
    """What a run took, its memory with it: at most in all, and at most beyond what was held before."""
    if device != "cuda":
        return work()
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = work()
    peak = torch.cuda.max_memory_allocated()
    return {**found, "peak GB": peak / 1e9, "growth GB": (peak - before) / 1e9}


def timed(work: Callable[[], str], device: str) -> Row:
    """What some work took, and what it said of itself."""
    clock = Clock(device)
    said = work()
    clock.tick()
    return {"whole ms": 1e3 * clock.seconds()[-1], "cost": said}


# ---- what was found ------------------------------------------------------------------------------------------------


class Report:
    """All rows: printed as they come, and written behind every section."""

    def __init__(self, about: Row, path: Path | None, minutes: float) -> None:
        self.data: Row = {**about, "sections": {}, "skipped": []}
        self._path = path
        self._end = time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    @property
    def has_failed(self) -> bool:
        sections = self.data["sections"].values()
        rows = [row for section in sections for row in section["rows"]]
        return any("failed" in each for each in (*sections, *rows)) or any(row.get("ok") is False for row in rows)

    def section(self, name: str, work: Callable[[], Iterator[Row]]) -> None:
        """Take a section's rows; one that raises keeps those before."""
        if self.is_over:
            self.data["skipped"].append(name)
            print(f"\n{name}: skipped, the time is up", flush=True)
            return
        start = time.monotonic()
        found: Row = {"rows": []}
        self.data["sections"][name] = found
        print(f"\n{name}\n", flush=True)
        try:
            for row in work():
                self._show(found["rows"], row)
                found["rows"].append(row)
        except Exception as error:
            found["failed"] = one_line(error)
            print(f"FAILED {name}: {found['failed']}", flush=True)
        finally:
            found["seconds"] = round(time.monotonic() - start, 1)
            self.write()
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    @staticmethod
    def _show(before: Sequence[Row], row: Row) -> None:
        if "failed" in row:
            print(f"FAILED {next(iter(row.values()))}: {row['failed']}", flush=True)
            return
        if not before or before[-1].keys() != row.keys():
            print(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}")
        print(f"| {' | '.join(map(shown, row.values()))} |", flush=True)

    def write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "ok" if value else "FAILED"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- variants in turns ---------------------------------------------------------------------------------------------


def pictures_of(prepared: Prepared) -> torch.Tensor:
    """The picture that each position belongs to, -1 for none."""
    return torch.from_numpy(prepared.token_map.picture)


def generation(lab: Session, tokens: int) -> Any:
    """How the session itself generates."""
    config = lab.family.generation_config(lab.family.options_of({}))
    config.max_new_tokens, config.max_length = tokens, None
    return config


@dataclass
class Bench:
    """The random model, and what is asked of it."""

    shape: Shape
    device: str
    report: Report

    @cached_property
    def lab(self) -> Session:
        return random_session(self.shape, self.device, torch.bfloat16 if self.device == "cuda" else torch.float32)

    def generated(self, parts: list[Any], capture: Callable[[Prepared], Any] | None = None, **options: Any) -> Row:
        """An answer by the model's own generate, with what `capture` makes of its prompt around it."""
        config = generation(self.lab, self.shape.tokens)
        if unknown := config.update(**options):
            raise ValueError(f"this transformers generates without {', '.join(unknown)}")
        clock = Clock(self.device)
        prepared = self.lab.family.prepare(Prompt.of(parts))
        with contextlib.nullcontext() if capture is None else capture(prepared):
            ids = self.lab.model.generate(**prepared.inputs, generation_config=config, logits_processor=[clock.process])
        return answered_in(clock, ids[0, len(prepared.token_map) :].tolist())

    def tape(self, prepared: Prepared) -> Capture:
        return Capture(self.lab.model, mode="tape")

    def asked(self, parts: list[Any], edit: Callable[[], Any] = contextlib.nullcontext) -> Row:
        """An answer by `Session.ask`, under a hook or an edit."""
        clock = Clock(self.device)
        with self.lab.model.register_forward_hook(clock.tick), edit():
            answer = self.lab.ask(parts, max_new_tokens=self.shape.tokens)
        return answered_in(clock, [token.id for token in answer.tokens])

    def compared(self, works: Mapping[str, Callable[[], Row]]) -> Iterator[Row]:
        """A row per variant; the first is the plain one."""
        runs: dict[str, list[Row]] = {name: [] for name in works}
        failed: dict[str, str] = {}
        for number in range(self.shape.rounds + 1):
            if number > 1 and self.report.is_over:
                break
            order = [name for name in works if name not in failed]
            for name in order if number % 2 == 0 else order[::-1]:
                try:
                    runs[name].append(remembered(works[name], self.device))
                except Exception as error:
                    failed[name] = one_line(error)
        plain = next(iter(works))
        for name in works if plain not in failed else ():
            if name not in failed:
                first, *mine = runs[name]
                yield {"variant": name, **against(mine, runs[plain][1:]), "first round s": first["whole ms"] / 1e3}
        yield from ({"variant": name, "failed": why} for name, why in failed.items())


def against(mine: Sequence[Row], plain: Sequence[Row]) -> Row:
    """Medians, and medians of the ratios to the plain run of the same round.

    A row of bfloat16 may come out in other bits each time (on an H200 it does behind the prompt, with nothing attached), so an
    answer is held against all plain ones, and the plain ones against each other.
    """
    row: Row = {}
    pairs = list(zip(mine, plain, strict=False))
    for name, value in mine[0].items():
        if name == "ids":
            row["tokens"] = len(value)
            plainly = {other[name] for other in plain}
            as_plain = "as plain" if len(plainly) == 1 else f"one of {len(plainly)} plain ones"
            row["ids"] = as_plain if all(one[name] in plainly for one, _ in pairs) else "others"
        elif isinstance(value, str):
            row[name] = value
        else:
            row[name] = statistics.median(one[name] for one, _ in pairs)
            row[f"{name.split()[0]} ratio"] = statistics.median(one[name] / other[name] for one, other in pairs)
    return row


# ---- sections on the random model ----------------------------------------------------------------------------------


def speed(bench: Bench, count: int) -> Iterator[Row]:
    """Tokens per second and time to the first token."""
    lab, parts = bench.lab, question(bench.shape, count)
    last = bench.shape.layers - 1
    yield from bench.compared(
        {
            "plain": partial(bench.generated, parts),
            "tape": partial(bench.generated, parts, bench.tape),
            "live": partial(bench.generated, parts, lambda prepared: Capture(lab.model, mode="live")),
            "masses": partial(
                bench.generated, parts, lambda prepared: Capture(lab.model, groups=pictures_of(prepared))
            ),
            "ask": partial(bench.asked, parts),
            "ask, hook in one layer": partial(bench.asked, parts, lambda: lab.on_attention(lambda event: None, last)),
            "ask, knock-out": partial(bench.asked, parts, lambda: lab.knockout("image_1 -> *")),
        }
    )


def attribution(bench: Bench, count: int) -> Iterator[Row]:
    """What explaining an answer costs, against a plain teacher-forced forward over prompt and answer."""
    answer = bench.lab.ask(question(bench.shape, count), max_new_tokens=bench.shape.explained)
    replay, target = answer.replay, target_of(answer.replay)
    drawn = {} if count <= EXACT_SHAPLEY else {"samples": ORDERS}

    def plain() -> str:
        with torch.no_grad():
            replay.values(target)
        return "1 forward"

    def method(name: str, **options: Any) -> str:
        cost = answer.attribute(name, **options).cost
        return f"{cost.forwards} forwards, {cost.backwards} backwards, {cost.computed:.1f} computed"

    works: dict[str, Callable[[], str]] = {
        "plain forward": plain,
        "grad_x_attention": partial(method, "grad_x_attention"),
        f"shapley, {f'{ORDERS} orders' if drawn else 'exact'}": partial(method, "shapley", **drawn),
    }
    yield from bench.compared({name: partial(timed, work, bench.device) for name, work in works.items()})


@contextlib.contextmanager
def implementation(model: Any, name: str) -> Iterator[None]:
    before = attention_name(model.config)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def implementations(bench: Bench) -> Iterator[Row]:
    """The tape under every attention implementation that is there."""
    parts, works = question(bench.shape, bench.shape.pictures[1]), {}

    def under(name: str, *capture: Any) -> Row:
        with implementation(bench.lab.model, name):
            return bench.generated(parts, *capture)

    for name in ("sdpa", "eager", *(["flash_attention_2"] if has_flash_attention() else [])):
        works[f"{name}, plain"] = partial(under, name)
        works[f"{name}, tape"] = partial(under, name, bench.tape)
    yield from bench.compared(works)
    if not has_flash_attention():
        yield {"variant": "flash_attention_2", "note": "flash-attn is not installed"}


class Everywhere(CompileConfig):
    """Compiles on the CPU too, where transformers leaves it out but for its own tests."""

    _compile_all_devices = True  # type: ignore[assignment]


def static(bench: Bench) -> Iterator[Row]:
    """A static cache, and the decoding step compiled; the first round holds the compilation."""
    parts, works = question(bench.shape, bench.shape.pictures[1]), {}
    compiled: Row = {} if bench.device == "cuda" else {"compile_config": Everywhere(backend="eager", mode="default")}
    caches: dict[str, Row] = {
        "dynamic": {},
        "static": {"cache_implementation": "static", "disable_compile": True},
        "static, compiled": {"cache_implementation": "static", **compiled},
    }
    for name, options in caches.items():
        works[f"{name}, plain"] = partial(bench.generated, parts, **options)
        works[f"{name}, tape"] = partial(bench.generated, parts, bench.tape, **options)
    yield from bench.compared(works)


def prefill(bench: Bench) -> Iterator[Row]:
    """Whether the same prompt gives the same bits again, and under a capture."""
    model = bench.lab.model
    for count in bench.shape.pictures:
        inputs = bench.lab.family.prepare(Prompt.of(question(bench.shape, count))).inputs
        first = last_row(model, inputs, contextlib.nullcontext())
        yield {
            "pictures": count,
            "positions": inputs["input_ids"].shape[1],
            "again": same_bits(first, last_row(model, inputs, contextlib.nullcontext())),
            "under the tape": same_bits(first, last_row(model, inputs, Capture(model, mode="tape"))),
            "under live weights": same_bits(first, last_row(model, inputs, Capture(model, mode="live"))),
            "largest logit": float(first.abs().max()),
        }


def reuse(bench: Bench) -> Iterator[Row]:
    """A second question about the same pictures: how much sooner it answers, and whether its bits are those of a first one."""
    lab = bench.lab
    for count in bench.shape.pictures:
        parts = question(bench.shape, count)
        lab.ask([*parts, "Warm up?"], max_new_tokens=1)
        rounds: list[tuple[float, float, float]] = []
        for _ in range(bench.shape.rounds):
            lab.forget()
            with mock.patch("vila_lab.engine.generation.stretches_of", return_value=()):
                _, uncut = first_token(bench, parts)
            lab.forget()
            fresh, first = first_token(bench, parts)
            lab.forget()
            lab.ask([*parts[:-1], "Something else?"], max_new_tokens=1)
            again, second = first_token(bench, parts)
            rounds.append((uncut, first, second))
        lab.forget()
        once_more, _ = first_token(bench, parts)
        inputs = lab.family.prepare(Prompt.of(parts)).inputs
        sizes = inputs["block_sizes"].tolist()
        with torch.no_grad():
            together = lab.model.get_image_features(inputs["pixel_values"], sizes).pooler_output
            tiles = len(inputs["pixel_values"]) // len(sizes)
            alone = lab.model.get_image_features(inputs["pixel_values"][:tiles], sizes[:1]).pooler_output
        yield {
            "pictures": count,
            "read in one go ms": 1e3 * statistics.median(uncut for uncut, _, _ in rounds),
            "first ms": 1e3 * statistics.median(first for _, first, _ in rounds),
            "second ms": 1e3 * statistics.median(second for _, _, second in rounds),
            "cuts": statistics.median(first / uncut for uncut, first, _ in rounds),
            "second / first": statistics.median(second / first for _, first, second in rounds),
            "a first question again": same_scores(fresh, once_more),
            "behind what is kept": same_scores(fresh, again),
            "features alone": same_bits(together[0], alone[0]),
            "kept MB": lab.engine.reuse.nbytes / 1e6,
        }


def first_token(bench: Bench, parts: list[Any]) -> tuple[Any, float]:
    """An answer of one token, and the seconds it took."""
    if bench.device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    answer = bench.lab.ask(parts, max_new_tokens=1)
    return answer, time.perf_counter() - start


def same_scores(one: Any, other: Any) -> str:
    """Of the best tokens, and of every weight of attention."""
    found, wanted = (np.array([score for _, _, score in answer.tokens[0].alternatives]) for answer in (one, other))
    weights = np.array_equal(one.attention().values, other.attention().values)
    if np.array_equal(found, wanted) and weights:
        return "same bits"
    return f"scores differ by {np.abs(found - wanted).max():.2g}, weights {'do not' if weights else 'do'}"


def last_row(model: Any, inputs: Row, around: Any) -> torch.Tensor:
    """The logits behind a prompt."""
    with torch.no_grad(), around:
        logits: torch.Tensor = model(**inputs, logits_to_keep=1).logits
    return logits


def same_bits(one: torch.Tensor, other: torch.Tensor) -> str:
    if torch.equal(one, other):
        return "same bits"
    return f"differs by {float((one.float() - other.float()).abs().max()):.2g}"


def budget(bench: Bench) -> Iterator[Row]:
    """Answers beyond the capture budget leave the device, then the memory; what comes back is the same."""
    lab, parts = bench.lab, question(bench.shape, bench.shape.pictures[-1])
    before, answers = lab.capture_budget, []

    def ask(count: int) -> None:
        answers.extend([lab.ask(parts, max_new_tokens=bench.shape.explained) for _ in range(count)])

    def look() -> Any:
        return answers[0].attention(layer=-1).values

    ask(1)
    seen = look()
    lab.capture_budget = int(1.5 * (answers[0].device_bytes + answers[0].host_bytes))
    steps: dict[str, Callable[[], Any]] = {
        "the answer offloaded": answers[0].offload,
        "looked at there": look,
        "two more asked, room for one and a half": partial(ask, 2),
        "the first looked at again": look,
    }
    try:
        for what, step in steps.items():
            start = time.perf_counter()
            found = step()
            row: Row = {"what": what, "ms": 1e3 * (time.perf_counter() - start)}
            held = [sum(getattr(each, f"{place}_bytes") for each in answers) for place in ("device", "host")]
            row |= {"device MB": held[0] / 1e6, "host MB": held[1] / 1e6, "disk MB": lab.memory().disk / 1e6}
            is_same = found is None or float(np.abs(found - seen).max()) <= ATTENTION
            yield row | {"ok": is_same and max(held) <= lab.capture_budget}
    finally:
        lab.capture_budget = before


# ---- checks --------------------------------------------------------------------------------------------------------


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float().cpu() - other.float().cpu()).abs().max())


def asked_of(device: str) -> tuple[Session, list[Any]]:
    """The embedded model in float32, and a question that it answers in three tokens."""
    folder = vila_lab.demo_images()
    lab = vila_lab.load(device=device, dtype="float32")
    return lab, [folder / "g.png", folder / "m.png", "What is in image 2?"]


def sequence_of(lab: Session, prepared: Prepared, ids: Sequence[int]) -> Embedded:
    """A prompt with an answer's tokens behind it, the last left out, which nothing read."""
    with torch.no_grad():
        return Embedded.cat([lab.family.embed(prepared), lab.family.embed_ids(ids[:-1], len(prepared.token_map))])


def captured(device: str) -> Iterator[Check]:
    """Rows and masses against one eager forward, and what a hook is shown against the rows."""
    lab, parts = asked_of(device)
    prepared = lab.family.prepare(Prompt.of(parts))
    length, groups = len(prepared.token_map), pictures_of(prepared)
    with Capture(lab.model, rows="all", mode="tape", groups=groups) as tape:
        ids = lab.model.generate(**prepared.inputs, generation_config=generation(lab, 6))
    with Capture(lab.model, rows="all", mode="live") as live:
        lab.model.generate(**prepared.inputs, generation_config=generation(lab, 6))
    vectors = sequence_of(lab, prepared, ids[0, length:].tolist()).vectors
    with implementation(lab.model, "eager"), torch.no_grad():
        eager = lab.model(inputs_embeds=vectors[None], output_attentions=True, use_cache=False).attentions
    rows = [weights[0].transpose(0, 1) for weights in eager]  # each (T, H, T)
    indicator = group_indicator(groups).to(vectors.device)
    masses = [each[:length, :, :length] @ indicator for each in rows]
    yield "rows from queries are eager's", max(largest(tape.weights(k), each) for k, each in enumerate(rows)), ATTENTION
    yield "rows in float16 are eager's", max(largest(live.weights(k), each) for k, each in enumerate(rows)), STORED
    yield "masses are eager's", max(largest(tape.mass(k), each) for k, each in enumerate(masses)), ATTENTION
    events: list[Any] = []
    with lab.on_attention(events.append, layers=4, columns="all"):
        lab.ask(parts, max_new_tokens=6)
    shown_rows = [event.weights[:, -1] for event in events]  # each (H, columns so far)
    own = [rows[4][row.shape[-1] - 1, :, : row.shape[-1]] for row in shown_rows]
    yield "a hook sees eager's", max(largest(row, mine) for row, mine in zip(shown_rows, own, strict=True)), ATTENTION


def edited(device: str) -> Iterator[Check]:
    """An answer's log-probabilities under a cut against those without the picture's columns."""
    lab, parts = asked_of(device)
    with lab.knockout("image_2 -> *"):
        answer = lab.ask(parts, max_new_tokens=6)
    ids, prepared = [token.id for token in answer.tokens], lab.family.prepare(Prompt.of(parts))
    sequence = sequence_of(lab, prepared, ids)
    kept = np.setdiff1d(np.arange(len(sequence)), prepared.token_map.positions("image_2"))
    with torch.no_grad():
        logits = lab.family.decode(sequence[kept], keep=range(len(kept) - len(ids), len(kept)))[0]
    logprobs = torch.log_softmax(logits, -1)[range(len(ids)), ids]
    said = torch.tensor([token.logprob for token in answer.tokens])
    yield "a knock-out leaves the columns out", largest(logprobs, said), LOGITS


def decoded(device: str) -> Iterator[Check]:
    """decode(embed(x)) against the model's own forward."""
    lab, parts = asked_of(device)
    family, prepared = lab.family, lab.family.prepare(Prompt.of(parts))
    with torch.no_grad():
        own, embedded = lab.model(**prepared.inputs).logits[0], family.embed(prepared)
        whole, _ = family.decode(embedded)
        first, cache = family.decode(embedded[: len(own) // 2], family.new_cache())
        second, _ = family.decode(embedded[len(own) // 2 :], cache)
    yield "decode(embed(x)) is the forward", largest(whole, own), LOGITS
    yield "and so it is in two parts", largest(torch.cat([first, second]), own), LOGITS


def attributed(device: str) -> Iterator[Check]:
    """An answer and what explains it against the CPU's."""
    here, there = (lab.ask(parts) for lab, parts in map(asked_of, (device, "cpu")))
    differ = sum(one.id != other.id for one, other in zip(here.tokens, there.tokens, strict=True))
    yield "tokens other than the CPU's", float(differ), 0.0
    for method in ("grad_x_attention", "shapley"):
        values = (torch.from_numpy(answer.attribute(method).values) for answer in (here, there))
        yield f"{method} is the CPU's", largest(*values), LOGITS


# What the unmodified reference computed (tests/goldens/README.md), for pictures that every Pillow resamples alike.
REFERENCE = {
    "ds2_1": ("nvila-dynamic_s2", ["a_land.png", "What are the differences?"], "auto"),
    "resize_2": ("nvila-resize", ["a_land.png", "f_palette.png", "Please describe the image."], "auto"),
    "v15_1": ("VILA1.5-3b-tiny", ["a_land.png", "Please describe the image."], "vicuna_v1"),
}


def referenced(name: str, device: str) -> Iterator[Check]:
    """The prompt's last row and the answer against the reference's."""
    checkpoint, given, mode = REFERENCE[name]
    lab = vila_lab.load(GOLDENS / "checkpoints" / checkpoint, device=device, dtype="float32")
    parts = [GOLDENS / "images" / part if part.endswith(".png") else part for part in given]
    prepared = lab.family.prepare(Prompt.of(parts), lab.family.options_of({"conv_mode": mode}))
    stored = np.load(GOLDENS / "outputs" / f"{name}.npz")
    wanted = {key: torch.from_numpy(stored[key]) for key in ("logits_last_row", "attention_last_prompt_row")}
    tokens = stored["generated_ids"][0].tolist()
    with torch.no_grad(), Capture(lab.model) as tape:
        logits = lab.model(**prepared.inputs).logits[0, -1]
    rows = torch.stack([tape.weights(layer, rows=-1)[0] for layer in tape.layers])
    said = lab.ask(parts, max_new_tokens=len(tokens), conv_mode=mode).tokens
    differ = sum(one.id != other for one, other in zip(said, tokens, strict=True))
    yield f"{name}: logits are the reference's", largest(logits, wanted["logits_last_row"][: len(logits)]), LOGITS
    yield f"{name}: attention is the reference's", largest(rows, wanted["attention_last_prompt_row"]), ATTENTION
    yield f"{name}: tokens other than the reference's", float(differ), 0.0


def checks(device: str) -> Iterator[Row]:
    """A row per property; what raises fails its own group only."""
    groups = {"capture": captured, "edits": edited, "decode": decoded, "attribution": attributed}
    groups |= {name: partial(referenced, name) for name in REFERENCE}
    torch.backends.cudnn.allow_tf32 = False  # the tower cuts patches by a convolution, which cuDNN would round to TF32
    for name, group in groups.items():
        try:
            for what, found, tolerance in group(device):
                yield {"check": what, "difference": found, "tolerance": tolerance, "ok": found <= tolerance}
        except Exception as error:
            yield {"check": name, "failed": one_line(error)}
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    for lab in vila_lab.loaded():
        lab.unload()


# ---- all together --------------------------------------------------------------------------------------------------


def about(shape: Shape, device: str, minutes: float) -> Row:
    """Where this ran, and on what."""
    found: Row = {"device": platform.processor() or platform.machine()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found = {"device": properties.name, "memory GB": properties.total_memory / 1e9, "cuda": str(torch.version.cuda)}
    found |= {"torch": torch.__version__, "python": platform.python_version(), "vila-lab": vila_lab.__version__}
    found |= {package: installed(package) for package in ("transformers", "flash-attn")}
    return {**found, "minutes": minutes, "shape": asdict(shape)}


def built(bench: Bench) -> Iterator[Row]:
    """The random model."""
    start = time.perf_counter()
    weights = list(bench.lab.model.parameters())
    size, kinds = sum(each.numel() for each in weights), {str(each.dtype) for each in weights}
    yield {"parameters": size, "type": ", ".join(kinds), "s": time.perf_counter() - start}


def run(bench: Bench, only: str | None) -> None:
    """All sections, those that matter most first; or one."""
    report, counts = bench.report, bench.shape.pictures
    if only is not None:
        report.section(only, partial(globals()[only], bench))
        return
    report.section("checks", partial(checks, bench.device))
    report.section("model", partial(built, bench))
    if "failed" in report.data["sections"].get("model", {}):
        return
    for count in counts:
        report.section(f"speed, pictures: {count}", partial(speed, bench, count))
    for count in counts:
        report.section(f"attribution, pictures: {count}", partial(attribution, bench, count))
    for work in (prefill, reuse, budget, implementations, static):
        report.section(work.__name__, partial(work, bench))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="two layers in float32 on the CPU; nothing is written")
    parser.add_argument("--minutes", type=float, default=9.0, help="after these, what is left is skipped and named")
    parser.add_argument("--json", type=Path, help=f"where to write; by default {RESULTS.name} of the results")
    parser.add_argument(
        "--only", choices=("prefill", "reuse", "budget", "implementations", "static"), help="one section"
    )
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("There is no CUDA device that this torch can use; --dry-run walks all paths on the CPU.")
        return 2
    os.environ["TQDM_DISABLE"] = "1"
    shape, device = (SMALL, "cpu") if options.dry_run else (Shape(), "cuda")
    path = options.json or (None if options.dry_run else RESULTS)
    report = Report(about(shape, device, options.minutes), path, options.minutes)
    print(", ".join(f"{name} {value}" for name, value in report.data.items() if isinstance(value, str | float)))
    run(Bench(shape, device, report), options.only)
    print(f"\n{'something FAILED, see above' if report.has_failed else 'nothing failed'}")
    return int(report.has_failed)


if __name__ == "__main__":
    sys.exit(main())
