"""What recording attention costs: plain generate, the tape, live weights and eager attention, on random weights of Qwen2-0.5B's shape.

    python benchmarks/capture.py --sizes 1024 4096 8192 --repeats 3 --tokens 17

Times are CPU seconds of one process (other work on the machine changes them little), variants interleaved, medians. A
prefill ends when the first token's logits exist, a decode step is the time between two tokens. Peak memory is measured in a
process of its own per variant, as the growth of the resident set's high-water mark over the loaded model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LogitsProcessorList, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.memory import forget_peak, high_water
from vila_lab import VilaLabError
from vila_lab.hooks import Capture, Tape
from vila_lab.upstream import attention_name

VARIANTS = ("plain", "tape", "live", "eager")
RESULTS = Path(__file__).parent / "results" / "capture.json"
OFTEN = 100  # repeats on the embedded model: a step takes 2 ms there, and less than 0.1 of that is looked for
AIMS = {"decode": 1.03, "prefill": 1.05, "peak": 1.08}  # the tape over plain sdpa


def decoder(vocabulary: int = 4096) -> PreTrainedModel:
    """Random weights in the shape of Qwen2-0.5B; the vocabulary is cut, as no variant touches it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True,
    )  # fmt: skip
    model: PreTrainedModel = Qwen2ForCausalLM(config)
    model.eval()
    return model


class Clock:
    """A logits processor that notes the CPU time at every token and changes nothing."""

    def __init__(self) -> None:
        self.ticks = [time.process_time()]

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.ticks.append(time.process_time())
        return scores


@contextlib.contextmanager
def recording(model: PreTrainedModel, variant: str) -> Iterator[Tape | None]:
    """The model under one variant."""
    if variant == "eager":
        before = attention_name(model.config)
        model.set_attn_implementation("eager")
        yield None
        model.set_attn_implementation(before)
    elif variant == "plain":
        yield None
    else:
        with Capture(model, mode="tape" if variant == "tape" else "live") as tape:
            yield tape


def run(model: PreTrainedModel, variant: str, size: int, tokens: int) -> dict[str, Any]:
    """One generation: seconds of the prefill and of a decode step, bytes stored, ids."""
    ids = torch.randint(
        3, model.config.get_text_config().vocab_size, (1, size), generator=torch.Generator().manual_seed(size)
    )
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    if variant == "eager":
        options |= {"output_attentions": True, "return_dict_in_generate": True}
    with recording(model, variant) as tape:
        clock = Clock()
        generate: Any = model.generate  # not every PreTrainedModel has it, so its type says nothing
        out = generate(
            ids, attention_mask=torch.ones_like(ids), logits_processor=LogitsProcessorList([clock]), **options
        )
    steps = [after - before for before, after in zip(clock.ticks[1:], clock.ticks[2:], strict=False)]
    stored = keys = 0
    if tape is not None:
        keys = tape.key_nbytes
        stored = tape.nbytes - keys
    if variant == "eager":
        stored = sum(layer.nbytes for step in out.attentions for layer in step)
        out = out.sequences
    return {
        "prefill": clock.ticks[1] - clock.ticks[0], "decode": statistics.median(steps) if steps else 0.0,
        "stored_bytes": stored, "key_bytes": keys, "ids": out[0, size:].tolist(),
    }  # fmt: skip


def times(
    model: PreTrainedModel, size: int, tokens: int, repeats: int, eager_repeats: int, variants: Sequence[str] = VARIANTS
) -> dict[str, Any]:
    """All variants, interleaved; medians and ratios to plain."""
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for repeat in range(repeats):
        for variant in variants if repeat % 2 else reversed(variants):  # whoever comes behind eager finds cold caches
            if variant != "eager" or repeat < eager_repeats:
                runs[variant].append(run(model, variant, size, tokens))
    plain = runs["plain"]
    report: dict[str, Any] = {}
    for variant, results in runs.items():
        if not results:
            continue
        report[variant] = {key: statistics.median(result[key] for result in results) for key in ("prefill", "decode")}
        # Ratios of neighbours in time, so that a slow minute of the machine hits both.
        pairs = list(zip(results, plain, strict=False))
        for key in ("prefill", "decode"):
            report[variant][f"{key}_ratio"] = statistics.median(mine[key] / other[key] for mine, other in pairs)
        report[variant] |= {key: results[0][key] for key in ("stored_bytes", "key_bytes")}
        report[variant]["ids_identical"] = all(result["ids"] == plain[0]["ids"] for result in results)
    return report


def peak(variant: str, size: int) -> int:
    """Growth of this process's peak memory by one prefill and one decode step, in bytes."""
    model = decoder()
    run(model, variant, 32, 2)
    forget_peak()
    before = high_water()
    run(model, variant, size, 2)
    return high_water() - before


def peaks(size: int, variants: list[str]) -> dict[str, int]:
    """`peak` of each variant in a process of its own."""
    found = {}
    for variant in variants:
        command = [sys.executable, __file__, "--peak", variant, "--sizes", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"measuring the peak of {variant} failed: {done.stderr.strip().splitlines()[-1:]}")
        found[variant] = int(done.stdout.split()[-1])
    return found


def embedded(tokens: int) -> dict[str, Any] | str:
    """The same times on the model that `vila_lab.load()` gives; a sentence where there is none."""
    try:
        import vila_lab

        model = vila_lab.load().model
    except (AttributeError, ImportError, VilaLabError) as error:
        return f"not measured: {type(error).__name__}"
    size = min(512, model.config.get_text_config().max_position_embeddings - tokens)
    run(model, "plain", size, 2)
    return {"size": size, "repeats": OFTEN, "variants": times(model, size, tokens, OFTEN, OFTEN)}


def table(title: str, variants: dict[str, Any]) -> str:
    lines = [
        title,
        f"{'':8}{'prefill s':>11}{'ratio':>8}{'ms/token':>10}{'ratio':>8}{'peak MB':>9}{'ratio':>8}{'stored MB':>11}{'ids':>11}",
    ]
    for variant, row in variants.items():
        peak_mb = f"{row['peak'] / 1e6:9.0f}{row['peak_ratio']:8.2f}" if "peak" in row else " " * 17
        lines.append(
            f"{variant:8}{row['prefill']:11.3f}{row['prefill_ratio']:8.2f}{row['decode'] * 1e3:10.2f}{row['decode_ratio']:8.2f}{peak_mb}"
            f"{row['stored_bytes'] / 1e6:11.2f}{'identical' if row['ids_identical'] else 'differ':>11}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192], help="prompt tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=17, help="generated tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager-repeats", type=int, default=1)
    parser.add_argument(
        "--eager-up-to",
        type=int,
        default=4096,
        help="largest prompt for eager attention, whose memory grows with its square",
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="plain is needed as the reference"
    )
    parser.add_argument("--no-peak", action="store_true", help="skip the memory runs, which take as long as the times")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--peak", choices=VARIANTS, help="measure one variant's peak memory and print it (used by the benchmark itself)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak(arguments.peak, arguments.sizes[0]))
        return
    report: dict[str, Any] = {
        "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
        "threads": arguments.threads, "repeats": arguments.repeats, "tokens": arguments.tokens, "aims": AIMS,
        "embedded": embedded(arguments.tokens), "sizes": {},
    }  # fmt: skip
    if isinstance(report["embedded"], dict):
        print(
            table(f"embedded model, {report['embedded']['size']} prompt tokens", report["embedded"]["variants"]),
            flush=True,
        )
    model = decoder()
    run(model, "plain", 64, 3)
    for size in arguments.sizes:
        eager_repeats = arguments.eager_repeats if size <= arguments.eager_up_to else 0
        variants = times(model, size, arguments.tokens, arguments.repeats, eager_repeats, arguments.variants)
        report["sizes"][str(size)] = variants
        write(report, arguments.output)  # the peaks take as long again; an interrupt should not cost the times
        found = {} if arguments.no_peak else peaks(size, list(variants))
        for variant, growth in found.items():
            variants[variant] |= {"peak": growth, "peak_ratio": growth / found["plain"]}
        write(report, arguments.output)
        print(table(f"\n{size} prompt tokens, {arguments.tokens} generated", variants), flush=True)


def write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
