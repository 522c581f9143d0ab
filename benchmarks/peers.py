"""vila_lab beside other tools, in one run: attention to pictures while generating, scores of pictures, pages.

    pip install -e ".[bench]"                        # the tools; inseq wants an environment of its own, see below
    python benchmarks/peers.py                       # half an hour on two cores; three rounds
    python benchmarks/peers.py --only inseq          # measures these rows, and keeps what was found of the others
    python benchmarks/peers.py --quick               # every row once on the smallest model; writes nothing

The same prompt for all: four pictures of 256 positions each and a question, for a decoder of random weights in Qwen2-0.5B's width,
with half its 24 layers so that a run stays short, and for the embedded model. Each row is measured in a process of its own, so that
no tool meets what another one changed, and after a short question. Rows take turns; times are CPU seconds of one thread, ratios are
medians of the ratios to the plain run of the same round. Peak memory is the growth of the resident set's high-water mark, by what a
tool makes of the loaded model, once, and by the answer. Each row is tried under sdpa first, and under eager attention where that
fails; what stands in the table was tried in this run. inseq (typeguard<=2.13.3) and TransformerLens (typeguard>=4.2) have no
environment in common, so inseq's rows come from a run of their own: `make bench-peers` makes both environments and both runs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.beside import attention, attribution, pages, tables
from benchmarks.beside.subject import EMBEDDED, SECOND, SMALLEST, SUBJECTS, WHOLE, Subject
from benchmarks.beside.tables import Found, Row, printed
from benchmarks.memory import forget_peak, high_water
from benchmarks.reporting import one_line
from vila_lab.answer import Answer
from vila_lab.versions import installed

RESULTS = Path(__file__).parent / "results" / "peers.json"
LONG = 30  # seconds; a row that takes more is measured once, since dozens of passes average by themselves
MINUTES = 8  # for one row; a tool that has not ended by then has failed
MODULES = {"transformer-lens": "transformer_lens.model_bridge.sources"}  # to import, where it is not the package's name
WARM = (1, 2)  # pictures and tokens of the short question
SIZES, QUICK_SIZES = (64, 128, 256), (4, 8)  # tokens of the answers that pages show

Run = Callable[..., Row]


# ---- one row, in a process of its own --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What some work took."""

    seconds: float
    peak: int
    value: Any

    @classmethod
    def on(cls, begin: Callable[[], Callable[[], Any]]) -> Spent:
        """Memory counts from the tool's beginning on, seconds from the question on."""
        forget_peak()
        before = high_water()
        work = begin()
        start = time.process_time()
        value = work()
        return cls(time.process_time() - start, high_water() - before, value)


def attention_row(way: attention.Way, subject: Subject, implementation: str) -> Row:
    """Attention to each picture, of each generated token."""
    import_tool(way.package)
    model = subject.lab.model
    model.set_attn_implementation(implementation)
    short, asked = subject.asked(*WARM), subject.asked()
    own = [type(module) for module in attention.attention_modules(model)]

    def begin() -> Callable[[], attention.Looked]:
        look = way.begin(subject.lab)
        look(short)
        return lambda: look(asked)

    spent = Spent.on(begin)
    looked = spent.value
    return {
        "seconds": spent.seconds,
        "peak": spent.peak,
        "kept": looked.kept,
        "ids": looked.ids,
        "shares": None if looked.shares is None else looked.shares.tolist(),
        "positions": len(asked.pictures),
        "pictures": asked.count,
        "tokens": len(looked.ids),
        "replaced": own != [type(module) for module in attention.attention_modules(model)],
    }


def attribution_row(way: attribution.Way, subject: Subject, implementation: str) -> Row:
    """A score for each picture, of a whole answer that is there."""
    lab = subject.lab
    lab.model.set_attn_implementation(implementation)
    short = Subject(lab, subject.parts[-1 - WARM[0] :], WARM[1])
    answers = [lab.ask(each.parts, max_new_tokens=each.tokens) for each in (short, subject)]

    def begin() -> attribution.Work:
        way.begin(short, answers[0])()
        return way.begin(subject, answers[1])

    for package in (way.package, "captum"):  # which this one's methods import too
        import_tool(package)
    spent, asked = Spent.on(begin), subject.asked()
    return {
        "seconds": spent.seconds,
        "peak": spent.peak,
        "scores": spent.value.double().tolist(),
        "positions": len(asked.pictures),
        "pictures": asked.count,
        "tokens": len(answers[1].tokens),
    }


def import_tool(package: str) -> None:
    """What a tool takes only to be there counts for nothing."""
    import_module(MODULES.get(package, package.replace("-", "_")))


def page_row(page: pages.Page, short: Answer, answer: Answer) -> Row:
    """A page of an answer that is there, after one of a short answer."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        page.write(short, path)
        spent = Spent.on(lambda: partial(page.write, answer, path))
        return {"seconds": spent.seconds, "bytes": path.stat().st_size}


def apart(work: Callable[..., Row], *arguments: Any) -> Row:
    """A row measured in a process of its own, which begins as a copy of this one; or why there is none."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(tried(work, *arguments)))
    process.start()
    there.close()
    try:
        row: Row = here.recv() if here.poll(60 * MINUTES) else {"failed": f"not done in {MINUTES} minutes"}
    except EOFError:
        process.join()
        row = {"failed": f"the process ended with {process.exitcode}"}
    process.kill()
    return row


def tried(work: Callable[..., Row], *arguments: Any) -> Row:
    try:
        return work(*arguments)
    except Exception as error:
        return {"failed": one_line(error)}


# ---- rows in turns ---------------------------------------------------------------------------------------------------


def in_turns(run: Run, ways: Mapping[str, Any], subject: Subject, implementations: Sequence[str], rounds: int) -> Found:
    """The runs of each row, or why there are none: the first implementation that does not fail is the one it is measured under."""
    found: Found = {name: {"runs": [], "version": installed(way.package), "tried": {}} for name, way in ways.items()}
    names = list(found)
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            row = found[name]
            if row["version"] is None:
                row["failed"] = "not installed"
            if "failed" in row or (row["runs"] and row["runs"][0]["seconds"] > LONG):
                continue
            for implementation in implementations:
                if implementation in row["tried"]:
                    continue
                one = run(ways[name], subject, implementation)
                if "failed" not in one:
                    row["runs"].append(one)
                    print(f"{name}: {one['seconds']:.3g} s", file=sys.stderr, flush=True)
                    break
                row["tried"][implementation] = one["failed"]
            else:
                row["failed"] = row["tried"][implementations[-1]]
    return found


def page_rows(run: Run, ways: Mapping[str, pages.Page], subject: Subject, sizes: Sequence[int]) -> dict[str, Row]:
    """Bytes and seconds of each page at each length of the answer."""
    found: Found = {name: {"version": installed(page.package)} for name, page in ways.items()}
    short = subject.lab.ask(subject.parts[-1 - WARM[0] :], max_new_tokens=WARM[1])
    for size in sizes:
        answer = subject.lab.ask(subject.parts, max_new_tokens=size)
        for name, row in found.items():
            if row["version"] is None:
                row["failed"] = "not installed"
            if "failed" in row:
                continue
            one = run(ways[name], short, answer)
            row |= one if "failed" in one else {str(size): one}
            print(f"{name}, {size}: {one}", file=sys.stderr, flush=True)
    return {
        name: tables.head_of(row, ways[name].gives) | {key: value for key, value in row.items() if key.isdecimal()}
        for name, row in found.items()
    }


# ---- all parts -------------------------------------------------------------------------------------------------------

PARTS: dict[str, Mapping[str, Any]] = {
    "attention": attention.WAYS,
    "attribution": attribution.WAYS,
    "pages": pages.PAGES,
}
# On the second trained model captum meets a class of transformers' own. Its exact Shapley values of a large decoder take an hour:
# what they cost on two layers of one is in benchmarks/attribution_speed.py.
SUBJECTS_OF = {"attention": [WHOLE, EMBEDDED], "attribution": [EMBEDDED, SECOND], "pages": [WHOLE]}


def taken(part: str, subject: Subject, rounds: int, wanted: Sequence[str], sizes: Sequence[int]) -> Row:
    """One table: the rows that are wanted, measured with those that they are held against."""
    names = [name for name in PARTS[part] if is_wanted(name, wanted)]
    if part == "pages":
        chosen = {name: pages.PAGES[name] for name in names}
        return {"sizes": list(sizes), "rows": page_rows(partial(apart, page_row), chosen, subject, sizes)}
    if not names:
        return {"rows": {}}
    if part == "attention":
        needed = {attention.PLAIN, attention.REFERENCE}
        run, judge, implementations = partial(apart, attention_row), tables.attention_rows, ("sdpa", "eager")
    else:
        needed = {attribution.PLAIN, *(attribution.WAYS[name].reference for name in names)}
        run, judge, implementations = partial(apart, attribution_row), tables.attribution_rows, ("sdpa",)
    ways = {name: way for name, way in PARTS[part].items() if name in needed or name in names}
    found = in_turns(run, ways, subject, implementations, rounds)
    rows = judge(found)
    return tables.setting(found) | {"rows": {name: rows[name] for name in names}}


def is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(name.startswith(each) for each in wanted)


def merge(report: Row, part: str, subject: str, found: Row) -> None:
    """Rows measured now take the place of those measured before, in the tables' own order."""
    known = report.setdefault(part, {}).setdefault(subject, {})
    rows = known.get("rows", {}) | found["rows"]
    known |= found | {"rows": {name: rows[name] for name in PARTS[part] if name in rows}}


def about() -> Row:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": installed("transformers"),
        "machine": platform.machine(),
        "threads": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="measure this part; may be repeated")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names begin so")
    parser.add_argument("--quick", action="store_true", help="once, on the smallest model")
    parser.add_argument("--json", type=Path, help="where the tables go and come from; a quick run has no other place")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    path = options.json or (None if options.quick else RESULTS)
    report: Row = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    report["about"] = about()
    rounds, sizes = (1, QUICK_SIZES) if options.quick else (options.rounds, SIZES)
    for part in options.part or PARTS:
        for name in [SMALLEST] if options.quick else SUBJECTS_OF[part]:
            merge(report, part, name, taken(part, SUBJECTS[name](), rounds, options.only, sizes))
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
