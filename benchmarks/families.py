"""What recording an answer costs in every family of transformers: tiny checkpoints, and decoders of Qwen2.5-0.5B's shape.

    PYTHONPATH=.:.venv/torchvision python benchmarks/families.py            # one thread, under ten minutes
    python benchmarks/families.py --only gemma3 qwen3_vl --shape half       # without torchvision three families are left out

Every family decodes a prompt of two pictures and words, some 320 rows, and a token a step behind it, with all that its own model
gives its decoder (axes, blocks, windows, deep features). Plain and recorded runs take turns, step by step, each behind a cache of
its own; recorded is what `Session.ask` has in the model, see `vila_lab.engine.generation`: the decoder's recorder and the
residual norms, the latter left out with --no-norms. A prefill is counted from putting them in. Times are CPU seconds of one
process, medians; ratios are medians of the ratios of one turn, beside them where the middle half of these lies. A tape
is joined behind the clock. Bytes are a tape's for each of its rows, without the keys, which the cache holds too.

"half" is the checkpoint's own config with a decoder of that shape, random weights and the tiny vocabulary and tower, built in
memory; windows that are shorter than the prompt become 256. An aim that is missed is named in the last column.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tests.beside_cpu_torch  # noqa: F401  # before transformers, which imports torchvision where it can

# isort: split

import transformers
from gpu import Report, Row

from benchmarks.reporting import one_line
from vila_lab.errors import MissingExtra
from vila_lab.families import FAMILIES
from vila_lab.families.base import Embedded, Family
from vila_lab.families.loading import load_family
from vila_lab.families.verify import drawn
from vila_lab.hooks import Tape
from vila_lab.hooks.joining import tape_of
from vila_lab.hooks.recorder import DecoderRecorder
from vila_lab.hooks.sinks import ResidualNorms
from vila_lab.hooks.sites import select_sites
from vila_lab.prompt import Picture, Prompt
from vila_lab.upstream import attention_name

RESULTS = Path(__file__).parent / "results" / "families.json"
CHECKPOINTS = Path(__file__).parents[1] / "tests" / "goldens" / "families" / "checkpoints"
NAMES = tuple(name for name in FAMILIES if (CHECKPOINTS / name).is_dir())
AIMS = {"decode": 1.05, "prefill": 1.08}
SHAPES = ("tiny", "half")
QUIET = 1.0  # load average
ROWS = 320  # of a prompt, at least
WORDS = " What are the differences?"
WINDOW = 256
HEAD = 64
HALF = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
}
INNER = 4864
TOKENS = {"tiny": 32, "half": 16}
ROUNDS_OF_TINY = 10  # for each of the large ones, which take a hundred times as long
SHARE = {"tiny": 1, "half": 8}  # of the time that is left
SUM = 2e-3  # of a row of weights, off one: some are kept in float16


# ---- the models ------------------------------------------------------------------------------------------------------------


def half(config: Row) -> Row:
    """A checkpoint's ``config.json`` with a decoder of Qwen2.5-0.5B's shape."""
    made = copy.deepcopy(config)
    text, vision = made.get("text_config", made), made["vision_config"]
    before = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    text |= {**HALF, "intermediate_size": INNER}
    if "moe_intermediate_size" in text:  # as many numbers as a dense layer's work on each row
        text["moe_intermediate_size"] = INNER // text["num_experts_per_tok"]
    rope = text.get("rope_scaling") or {}
    if "mrope_section" in rope:
        rope["mrope_section"] = [part * HEAD // before for part in rope["mrope_section"]]
    if "query_pre_attn_scalar" in text:
        text["query_pre_attn_scalar"] = HEAD
    if (text.get("sliding_window") or ROWS) < ROWS:
        text["sliding_window"] = WINDOW
    # How wide the features are that the tower or the projector hands over.
    width = HALF["hidden_size"]
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = width
    elif "embed_dim" in vision:  # Qwen2-VL
        vision["hidden_size"] = width
    if "projection_dim" in made:  # PaliGemma
        made["projection_dim"] = vision["projection_dim"] = made["hidden_size"] = width
    return made


def family_of(name: str, shape: str, dtype: torch.dtype) -> Family:
    """A family's checkpoint, or random weights of a shape with its processor."""
    family = load_family(CHECKPOINTS / name, device="cpu", dtype=dtype)
    if shape == "tiny":
        return family
    content = json.loads((CHECKPOINTS / name / "config.json").read_text(encoding="utf-8"))
    config = type(family.model.config).from_dict(half(content))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = type(family.model)(config)
    finally:
        torch.set_default_dtype(before)
    made: Any = type(family)
    large: Family = made(model.eval(), family.processor)
    return large


def prompt_of(family: Family) -> Embedded:
    """Two pictures, and words until it has its rows."""
    words = ""
    while True:
        words += WORDS
        prepared = family.prepare(Prompt((Picture.of(drawn(0)), Picture.of(drawn(1)), words)))
        if len(prepared.token_map) >= ROWS:
            return family.embed(prepared)


# ---- plain and recorded in turns -------------------------------------------------------------------------------------------


class Plain:
    """One answer, its steps told apart."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._cache = family.new_cache()

    def watching(self) -> ExitStack:
        """What is in the model during a step."""
        return ExitStack()

    def prefill(self, embedded: Embedded) -> tuple[float, torch.Tensor]:
        """Seconds, and logits."""
        start = time.process_time()
        with self.watching():
            logits, self._cache = self._family.decode(embedded, self._cache, keep=[len(embedded) - 1])
            return time.process_time() - start, logits

    def step(self, token: int, place: int) -> tuple[float, torch.Tensor]:
        """Seconds, and logits."""
        with self.watching():
            start = time.process_time()
            logits, self._cache = self._family.decode(self._family.embed_ids([token], place), self._cache)
            return time.process_time() - start, logits


class Recorded(Plain):
    """The same, with what a session has in the model; see `vila_lab.engine.generation.Generation`."""

    def __init__(self, family: Family, has_norms: bool) -> None:
        super().__init__(family)
        layers = family.decoder_layers
        self.recorder = DecoderRecorder(select_sites(family.model, ("text",))["text"])
        self._norms = ResidualNorms(layers[len(layers) // 2]) if has_norms else None

    def watching(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.recorder.watching())
        if self._norms is not None:
            stack.enter_context(self._norms)
        return stack

    def tape(self, length: int) -> Tape:
        """What was recorded behind a prompt of that many rows."""
        return tape_of(self.recorder, length)


def answer(family: Family, embedded: Embedded, warming: Embedded, tokens: int, has_norms: bool, turn: int) -> Row:
    """One prompt and its answer, plain and recorded in turns, and what is then on the tape."""
    family.decode(warming, family.new_cache(), keep=[len(warming) - 1])
    plain, recorded = Plain(family), Recorded(family, has_norms)
    found: dict[Plain, list[tuple[float, torch.Tensor]]] = {plain: [], recorded: []}
    for number in range(tokens + 1):
        for run in (plain, recorded) if (turn + number) % 2 else (recorded, plain):
            if number:
                token = int(found[plain][number - 1][1].argmax())
                found[run].append(run.step(token, embedded.next_position + number - 1))
            else:
                found[run].append(run.prefill(embedded))
    pairs = list(zip(found[plain], found[recorded], strict=True))
    return {
        "seconds": [(before, after) for (before, _), (after, _) in pairs],
        "same bits": all(torch.equal(before, after) for (_, before), (_, after) in pairs),
        "tape": recorded.tape(len(embedded)),
    }


def stored(tape: Tape, tokens: int) -> Row:
    """Whether every layer has a row for every token of an answer, and what they take."""
    weights = [tape.weights(layer) for layer in tape.layers]
    is_whole = [rows.shape[0] == tokens and bool(((rows.sum(-1) - 1).abs() < SUM).all()) for rows in weights]
    return {
        "live layers": sum(tape.layer(layer).live is not None for layer in tape.layers),
        "rows": sum(rows.shape[0] for rows in weights),
        "rows stored": all(is_whole),
        "bytes per token": (tape.nbytes - tape.key_nbytes) // tape.n_rows,
    }


def compared(pairs: Sequence[tuple[float, float]], name: str) -> Row:
    """Medians of plain and recorded times, in ms."""
    ratios = sorted(after / before for before, after in pairs)
    middle = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return {
        f"{name} ms": 1e3 * statistics.median(before for before, _ in pairs),
        f"{name} recorded ms": 1e3 * statistics.median(after for _, after in pairs),
        f"{name} ratio": statistics.median(ratios),
        f"{name} middle half": [round(end, 3) for end in middle],
    }


def measure(name: str, shape: str, options: argparse.Namespace, seconds: float) -> Row:
    """One line of the table; no further round begins once that many seconds are gone."""
    end = time.monotonic() + seconds
    family = family_of(name, shape, getattr(torch, options.dtype))
    tokens = options.tokens or TOKENS[shape]
    with torch.no_grad():
        embedded = prompt_of(family)
        # So that no turn is behind what came before: a tiny decoder's own prefill, a large one's has no time for that.
        warming = embedded if shape == "tiny" else family.embed_ids([3] * 8, 0)
        rounds: list[Row] = []
        wanted = options.repeats * (ROUNDS_OF_TINY if shape == "tiny" else 1)
        gc.collect()
        while len(rounds) < wanted and (not rounds or time.monotonic() < end):
            rounds.append(answer(family, embedded, warming, tokens, options.norms, len(rounds)))
            tape = rounds[-1].pop("tape")  # one is held at a time
        kept = stored(tape, tokens + 1)
    row = {
        "family": name,
        "attention": attention_name(family.model.config.get_text_config(decoder=True)),
        "layers": len(family.decoder_layers),
        "prompt": len(embedded),
        "rounds": len(rounds),
        **compared([pair for each in rounds for pair in each["seconds"][1:]], "decode"),
        **compared([each["seconds"][0] for each in rounds], "prefill"),
        **kept,
        "same bits": all(each["same bits"] for each in rounds),
    }
    return {**row, "misses": ", ".join(aim for aim, most in AIMS.items() if row[f"{aim} ratio"] > most)}


# ---- the table -------------------------------------------------------------------------------------------------------------


def lines(shape: str, shapes: Sequence[str], options: argparse.Namespace, end: float) -> Iterator[Row]:
    """A line of each family; what could not be measured comes last and says why."""
    left_out = []
    later = sum(SHARE[each] for each in shapes[shapes.index(shape) + 1 :]) * len(options.only)
    for number, name in enumerate(options.only):
        left = end - time.monotonic()
        share = SHARE[shape] / (SHARE[shape] * (len(options.only) - number) + later)
        if left < 0:
            left_out.append({"family": name, "left out": "the time is up"})
            continue
        try:
            yield measure(name, shape, options, left * share)
        except MissingExtra as error:
            left_out.append({"family": name, "left out": str(error)})
        except Exception as error:
            yield {"family": name, "failed": one_line(error)}
        gc.collect()
    yield from left_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help="these families")
    parser.add_argument("--shape", choices=SHAPES, help="one of the two")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help=f"rounds of each large decoder, and {ROUNDS_OF_TINY} times that of a tiny one",
    )
    parser.add_argument("--tokens", type=int, help="decoded in each round")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-norms", dest="norms", action="store_false", help="the recorder alone")
    parser.add_argument("--minutes", type=float, default=9.0, help="no round is begun for which they would not suffice")
    parser.add_argument("--json", type=Path, help=f"by default {RESULTS.name} of the results, if nothing is left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    end, load = time.monotonic() + 60 * options.minutes, os.getloadavg()[0]
    shapes = SHAPES if options.shape is None else (options.shape,)
    is_whole = shapes == SHAPES and len(options.only) == len(NAMES)
    about = {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "torchvision": importlib.util.find_spec("torchvision") is not None, "dtype": options.dtype, "threads": 1,
        "residual norms": options.norms, "load": load, "quiet": load <= QUIET, "aims": AIMS,
    }  # fmt: skip
    report = Report(about, options.json or (RESULTS if is_whole else None), options.minutes)
    print(
        f"{options.dtype}, load average {load:.1f} at the start: the machine was {'' if load <= QUIET else 'not '}quiet"
    )
    for shape in shapes:
        report.section(shape, partial(lines, shape, shapes, options, end))
    rows = [row for section in report.data["sections"].values() for row in section["rows"]]
    measured = [row for row in rows if "misses" in row]
    missed = [row for row in measured if row["misses"]]
    print(
        f"\n{len(measured)} of {len(rows)} lines measured, an aim missed in {len(missed)} of them; "
        f"{'something FAILED, see above' if report.has_failed else 'nothing failed'}"
    )
    return int(report.has_failed)


if __name__ == "__main__":
    sys.exit(main())
