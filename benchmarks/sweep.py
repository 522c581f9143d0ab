"""Sweeps: what keeping everything costs beside `ask_many`, what a second worker brings, whether memory stays flat.

    python benchmarks/sweep.py                       # ten minutes on two quiet cores
    python benchmarks/sweep.py --questions 2000 --report docs/_static/sweep.html

Drawn scenes, two to four in a prompt, no picture twice. Loop and `ask_many` take turns on the same questions, nothing kept from one to
the other, wall time in one process with one thread; ratios are medians of the rounds' ratios. Workers of Ray are timed from the first part's end to the last's,
so that starting, which stands beside it, does not count. What 100,000 questions would take on GPUs is extrapolated, not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import vila_lab
from benchmarks.reporting import table
from benchmarks.verdict import grounded
from vila_lab.errors import VilaLabError
from vila_lab.session import Session
from vila_lab.sweeps.pages import write_report
from vila_lab.sweeps.store import Store

RESULTS = Path(__file__).parent / "results" / "sweep.json"
AIMS = {"loop over ask_many": 1.05, "two workers over one": 1.7}
BATCH = 16
REUSE = 2**26
PARTS = {
    "loop": "Wall time of the loop over that of `ask_many` on the same batches, whose answers are thrown away; asked is 1.05",
    "memory": "Resident memory after each quarter of a sweep",
    "workers": "Workers of Ray on two cores, from the first part to the last; asked is 1.7 for two",
    "world": "A sweep of drawn scenes with ledger and leave-one-out, and its report",
    "100,000": "A hundred thousand questions, extrapolated and not measured",
}
Row = dict[str, Any]


def questions(folder: Path, count: int, seed: int) -> list[Row]:
    """Questions about drawn scenes, their pictures as files."""
    rng = np.random.default_rng(seed)
    several = (asked for asked in grounded(rng) if 2 <= len(asked.images) <= 4)
    return list(_written(folder, islice(several, count), seed))


def _written(folder: Path, found: Iterator[Any], seed: int) -> Iterator[Row]:
    for number, asked in enumerate(found):
        names = []
        for k, image in enumerate(asked.images):
            path = folder / f"{seed}_{number}_{k}.png"
            image.save(path, compress_level=1)
            names.append(str(path))
        yield {
            "id": f"{seed}_{number}", "images": names, "question": asked.question, "answer": asked.answer, "rests_on": asked.picture + 1,
        }  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def memory() -> float:
    """Resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def kept(lab: Session) -> int:
    """Bytes that a session keeps because the next question may need them."""
    found = lab.memory()
    return found.prefix + found.features


def in_batches(lab: Session, rows: list[Row]) -> None:
    """What a loop without a store does: the same batches, the answers thrown away."""
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        lab.ask_many(
            [vila_lab.Prompt.of(vila_lab.Text(row["question"]), images=row["images"]) for row in batch], errors="keep"
        )


def loop_beside_ask_many(lab: Session, folder: Path, count: int, rounds: int) -> list[Row]:
    """The loop engine over `ask_many`, with and without whole answers kept."""
    found = []
    for name, options in (
        ("answers kept whole", {"methods": "ledger"}),
        ("tables and maps", {"methods": "ledger", "records": False}),
        ("texts alone", {"methods": "", "records": False}),
    ):
        ratios, times, sizes = [], [], []
        for number in range(rounds + 1):  # the first warms up
            rows = questions(folder, count, 10 * number + len(found))
            out = folder / "out"
            steps: dict[str, Callable[[], Any]] = {
                "plain": partial(in_batches, lab, rows),
                "kept": partial(vila_lab.sweep, rows, out, lab=lab, batch_size=BATCH, **options),
            }
            spent = {}
            for what in sorted(steps, reverse=bool(number % 2)):
                lab.forget()  # what one computed of the pictures would be the other's gain
                spent[what] = seconds(steps[what])
            sizes.append(sum(file.stat().st_size for file in out.iterdir()))
            shutil.rmtree(out)
            ratios.append(spent["kept"] / spent["plain"])
            times.append((spent["kept"] - spent["plain"]) / count)
        found.append(
            {
                "kept": name, "questions": count, "loop over ask_many": statistics.median(ratios[1:]),
                "ms more a question": 1e3 * statistics.median(times[1:]), "kB a question": statistics.median(sizes) / count / 1e3,
            }
        )  # fmt: skip
    return found


def flat(lab: Session, folder: Path, count: int) -> list[Row]:
    """Memory after each quarter of a long sweep; questions already asked are passed over, so each call is a quarter.

    Before it the session's store of what it may need again (a GiB by default) is full: until then memory grows, and then no more.
    """
    lab.cache_bytes = REUSE
    vila_lab.sweep(questions(folder, count // 4, 8), folder / "full", lab=lab, batch_size=BATCH)
    rows = questions(folder, count, 7)
    found = []
    for quarter in range(1, 5):
        spent = seconds(
            lambda quarter=quarter: vila_lab.sweep(
                rows[: count * quarter // 4], folder / "flat", lab=lab, batch_size=BATCH
            )
        )
        found.append(
            {
                "questions": count * quarter // 4,
                "MB resident": memory(),
                "MB kept for reuse": kept(lab) / 1e6,
                "questions a second": count / 4 / spent,
            }
        )
    return found


def workers(folder: Path, count: int) -> list[Row]:
    """One and two workers of Ray: from the first part to the last."""
    rows = questions(folder, count, 9)
    found: list[Row] = []
    for number in (1, 2):
        out = folder / f"ray {number}"
        start = time.time()
        vila_lab.sweep(rows, out, batch_size=BATCH, engine="ray", workers=number)
        ends = sorted(set(Store(out).table("part", ["at"])["at"].to_pylist()))
        parts = len(list(out.glob("part-*.parquet")))
        found.append(
            {
                "workers": number, "questions": count, "until the first part s": ends[0] - start,
                "parts a second after it": (parts - 1) / (ends[-1] - ends[0]),
            }
        )  # fmt: skip
    for row in found:
        row["over one worker"] = row["parts a second after it"] / found[0]["parts a second after it"]
    return found


def reported(lab: Session, folder: Path, count: int, page: Path) -> list[Row]:
    """A sweep of the embedded world with the methods that a report speaks of, and its report."""
    sweep = None
    rows = questions(folder, count, 11)
    spent = seconds(
        lambda: vila_lab.sweep(rows, folder / "world", lab=lab, methods="ledger,leave_one_out", batch_size=BATCH)
    )
    sweep = vila_lab.open_sweep(folder / "world")
    written = write_report(sweep, worst=3)
    shutil.copyfile(written[0], page)
    frame = sweep.frame()
    return [
        {
            "questions": len(frame), "right": float(frame["right"].mean()), "questions a second": count / spent,
            "report MB": page.stat().st_size / 1e6,
        }
    ]  # fmt: skip


def extrapolated(rate: float) -> list[Row]:
    """Hours for 100,000 questions at a rate, and what eight of the same would take if nothing came between them. Not measured."""
    return [
        {
            "asked by": name,
            "questions a second": each * count,
            "hours for 100,000 (extrapolated)": 1e5 / (each * count) / 3600,
        }
        for name, each, count in (
            ("this machine, embedded model", rate, 1),
            ("1 GPU at 2 questions a second (assumed)", 2.0, 1),
            ("8 such GPUs", 2.0, 8),
        )
    ]


def printed(report: dict[str, Any]) -> str:
    """The tables of a run, one below the other."""
    return "\n\n".join(f"{caption}:\n\n{table(report[part])}" for part, caption in PARTS.items() if part in report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=128, help="questions of a round")
    parser.add_argument("--questions", type=int, default=0, help="of a sweep with a report")
    parser.add_argument("--report", type=Path, help="where its page goes")
    parser.add_argument("--only", choices=list(PARTS), help="measure this again, and keep what was found of the rest")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = vila_lab.load()
    report: Row = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "aims": AIMS,
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], list[Row]]] = {
            "loop": lambda: loop_beside_ask_many(lab, folder, options.count, options.rounds),
            "memory": lambda: flat(lab, folder, 4 * options.count),
            "workers": lambda: workers(folder, 4 * options.count),
        }
        if options.report:
            parts["world"] = lambda: reported(lab, folder, options.questions or 2000, options.report)
        parts["100,000"] = lambda: extrapolated(report["memory"][-1]["questions a second"])
        if options.only:
            report = json.loads(options.json.read_text(encoding="utf-8"))
            parts = {options.only: parts[options.only]}
        for part, measure in parts.items():
            try:
                report[part] = measure()
            except VilaLabError as error:  # Ray may not start; the rest is still worth telling
                report[part] = [{"not measured": str(error)}]
            print(f"\n{printed({part: report[part]})}", flush=True)
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
