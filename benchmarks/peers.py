"""vila_lab beside other tools, in one run: attention to pictures while generating, scores of pictures, pages.

    pip install -e ".[bench]"                        # the tools; inseq wants an environment of its own, see below
    python benchmarks/peers.py                       # half an hour on two cores; three rounds
    python benchmarks/peers.py --only inseq          # measures these rows, and keeps what was found of the others
    python benchmarks/peers.py --quick               # every row once on the smallest model, a minute; writes nothing

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
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.beside import attention, attribution, pages, tables
from benchmarks.beside.subject import EMBEDDED, SECOND, SHALLOW, SMALLEST, SUBJECTS, WHOLE, Subject
from benchmarks.beside.tables import Found, Row, printed
from benchmarks.memory import forget_peak, high_water
from benchmarks.reporting import one_line
from vila_lab.versions import installed

RESULTS = Path(__file__).parent / "results" / "peers.json"
LONG = 30  # seconds; a row that takes more is measured once, since dozens of passes average by themselves
MINUTES = 8  # for one row; a tool that has not ended by then has failed
IMPLEMENTATIONS = ("sdpa", "eager")
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
    def on(cls, work: Callable[[], Any]) -> Spent:
        """Memory counts from what is resident now."""
        forget_peak()
        before = high_water()
        start = time.process_time()
        value = work()
        return cls(time.process_time() - start, high_water() - before, value)


def attention_row(name: str, subject_name: str, implementation: str) -> Row:
    """Attention to each picture, of each generated token."""
    way, subject = attention.WAYS[name], SUBJECTS[subject_name]()
    import_module(way.package.replace("-", "_"))  # what a tool takes only to be there counts for nothing
    model = subject.lab.model
    model.set_attn_implementation(implementation)
    short, asked = subject.asked(*WARM), subject.asked()
    own = [type(module) for module in attention.attention_modules(model)]
    began = Spent.on(lambda: way.begin(subject.lab))
    look = began.value
    look(short)
    spent = Spent.on(lambda: look(asked))
    looked = spent.value
    return {
        "seconds": spent.seconds,
        "peak": began.peak + spent.peak,
        "kept": looked.kept,
        "ids": looked.ids,
        "shares": None if looked.shares is None else looked.shares.tolist(),
        "positions": len(asked.pictures),
        "pictures": asked.count,
        "tokens": len(looked.ids),
        "replaced": own != [type(module) for module in attention.attention_modules(model)],
    }


def attribution_row(name: str, subject_name: str, implementation: str) -> Row:
    """A score for each picture, of a whole answer that is there."""
    subject = SUBJECTS[subject_name]()
    lab, begin = subject.lab, attribution.WAYS[name].begin
    lab.model.set_attn_implementation(implementation)
    short = Subject(lab, subject.parts[-1 - WARM[0] :], WARM[1])
    begin(short, lab.ask(short.parts, max_new_tokens=short.tokens))()
    answer, asked = lab.ask(subject.parts, max_new_tokens=subject.tokens), subject.asked()
    spent = Spent.on(begin(subject, answer))
    return {
        "seconds": spent.seconds,
        "peak": spent.peak,
        "scores": spent.value.double().tolist(),
        "positions": len(asked.pictures),
        "pictures": asked.count,
        "tokens": len(answer.tokens),
    }


def page_row(name: str, subject_name: str, tokens: str) -> Row:
    """A page of an answer that is there."""
    subject = SUBJECTS[subject_name]()
    answer = subject.lab.ask(subject.parts, max_new_tokens=int(tokens))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        spent = Spent.on(lambda: pages.PAGES[name].write(answer, path))
        return {"seconds": spent.seconds, "bytes": path.stat().st_size, "tokens": len(answer.tokens)}


MEASURES = {"attention": attention_row, "attribution": attribution_row, "pages": page_row}


def measure(part: str, *what: str) -> Row:
    """A row measured here, or why there is none."""
    torch.set_num_threads(1)
    try:
        return MEASURES[part](*what)
    except Exception as error:
        return {"failed": one_line(error)}


def measured(*what: str) -> Row:
    """A row measured in a process of its own, or why there is none."""
    command = [sys.executable, __file__, "--measure", *what]
    environment = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {MINUTES} minutes"}
    if done.returncode:
        return {"failed": f"the process ended with {done.returncode}: {''.join(done.stderr.splitlines()[-1:])}"}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


# ---- rows in turns ---------------------------------------------------------------------------------------------------


def in_turns(run: Run, part: str, packages: Mapping[str, str], subject: str, rounds: int) -> Found:
    """The runs of each row, or why there are none; tried under sdpa first, and under eager attention where that fails."""
    found: Found = {name: {"runs": [], "version": installed(package)} for name, package in packages.items()}
    names = list(found)
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            row = found[name]
            if row["version"] is None:
                row["failed"] = "not installed"
            if "failed" in row or (row["runs"] and row["runs"][0]["seconds"] > LONG):
                continue
            one = run(part, name, subject, row.get("implementation", IMPLEMENTATIONS[0]))
            if "failed" in one and part == "attention" and "implementation" not in row:
                row["under sdpa"] = one["failed"]
                one = run(part, name, subject, IMPLEMENTATIONS[1])
            if "failed" in one:
                row["failed"] = one["failed"]
                continue
            row["implementation"] = IMPLEMENTATIONS["under sdpa" in row]
            row["runs"].append(one)
            print(f"{part}, {subject}, {name}: {one['seconds']:.3g} s", file=sys.stderr, flush=True)
    return found


def page_rows(run: Run, names: Sequence[str], subject: str, sizes: Sequence[int]) -> dict[str, Row]:
    """Bytes and seconds of each page at each length of the answer."""
    rows: dict[str, Row] = {}
    for name in names:
        page = pages.PAGES[name]
        row = {"version": installed(page.package)}
        if row["version"] is None:
            row["failed"] = "not installed"
        for size in sizes if "failed" not in row else ():
            one = run("pages", name, subject, str(size))
            if "failed" in one:
                row["failed"] = one["failed"]
                break
            row[str(size)] = {"bytes": one["bytes"], "seconds": one["seconds"]}
            print(f"pages, {name}, {size}: {one['seconds']:.3g} s", file=sys.stderr, flush=True)
        rows[name] = tables.head_of(row, page.gives) | {key: value for key, value in row.items() if key.isdecimal()}
    return rows


# ---- all parts -------------------------------------------------------------------------------------------------------

# Random weights of the size that a part has time for; on the second trained model captum meets a class of transformers' own.
SUBJECTS_OF = {"attention": [WHOLE, EMBEDDED], "attribution": [SHALLOW, EMBEDDED, SECOND], "pages": [WHOLE]}


def taken(run: Run, part: str, subject: str, rounds: int, wanted: Sequence[str], sizes: Sequence[int]) -> Row:
    """One table: the rows that are wanted, and those that they are held against."""
    if part == "pages":
        names = [name for name in pages.PAGES if is_wanted(name, wanted)]
        return {"sizes": list(sizes), "rows": page_rows(run, names, subject, sizes)}
    ways = attention.WAYS if part == "attention" else attribution.WAYS
    names = [name for name in ways if is_wanted(name, wanted)]
    needed = {attention.PLAIN, attention.REFERENCE} if part == "attention" else {attribution.PLAIN}
    needed |= {ways[name].reference for name in names} if part == "attribution" else set()
    if not names:
        return {"rows": {}}
    packages = {name: way.package for name, way in ways.items() if name in names or name in needed}
    found = in_turns(run, part, packages, subject, rounds)
    rows = tables.attention_rows(found) if part == "attention" else tables.attribution_rows(found)
    return tables.setting(found) | {"rows": {name: rows[name] for name in names}}


def is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(name.startswith(each) for each in wanted)


def merge(report: Row, part: str, subject: str, found: Row) -> None:
    """Rows measured now take the place of those measured before, in the tables' own order."""
    known = report.setdefault(part, {}).setdefault(subject, {})
    rows = known.get("rows", {}) | found["rows"]
    order = {"attention": attention.WAYS, "attribution": attribution.WAYS, "pages": pages.PAGES}[part]
    known |= found | {"rows": {name: rows[name] for name in order if name in rows}}


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
    parser.add_argument("--part", choices=list(MEASURES), action="append", help="measure this part; may be repeated")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names begin so")
    parser.add_argument("--quick", action="store_true", help="the smallest model, in this process, once")
    parser.add_argument("--json", type=Path, help=f"where the tables go; not {RESULTS.name} where it is quick")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    path = options.json or (None if options.quick else RESULTS)
    report: Row = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    report["about"] = about()
    for part in options.part or MEASURES:
        subjects = [SMALLEST] if options.quick else SUBJECTS_OF[part]
        for subject in subjects:
            found = taken(
                measure if options.quick else measured, part, subject, 1 if options.quick else options.rounds,
                options.only, QUICK_SIZES if options.quick else SIZES,
            )  # fmt: skip
            merge(report, part, subject, found)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(printed(report))


if __name__ == "__main__":
    main()
