"""The commands of sweeps: their options, and what they print. Knows the command line, and imports the rest when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import add_answer, add_family, add_place, add_reading, family_of, form_of, reading_of
from ..errors import OptionError, SweepStopped
from ..options import given

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_report", "add_sweep"]

SHOWN_ERRORS = 5


def add_sweep(commands: Any) -> argparse.ArgumentParser:
    """Add ``vila-lab sweep`` to a parser's commands."""
    found: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="ask many questions, once each; the same call again goes on where it ended",
        description="Ask many questions, once each, and keep what was said and where it came from. The same call again goes on "
        "where it ended, whatever was killed when. `vila-lab sweep compact FOLDER` writes the parts of a sweep as one.",
    )
    add = found.add_argument
    add(
        "questions", nargs="+", metavar="QUESTIONS", help="JSON lines, CSV, Parquet, a dataset, or a folder of pictures"
    )
    add("--out", metavar="FOLDER", help="where the sweep is kept: a folder, or an address such as s3://...")
    add("-m", "--model", help="hub id or folder; without it the small embedded model answers")
    add("--methods", default="ledger", help="with commas: ledger, evidence, and attributions (default: ledger)")
    add("--columns", metavar="FILE", help="JSON: which columns hold images, question, options, answer, id, rests_on")
    add("--pattern", default="", metavar="NAME", help="of a folder: how pictures are named, {id}_{n}.png")
    add("--question", default="", help="of a folder: what to ask of its pictures")
    add("--shard", metavar="I/N", help="every Nth question, beginning with the Ith: one of N calls, on N machines")
    add("--limit", type=int, metavar="N", help="the first N questions alone")
    add("--batch-size", type=int, default=16, metavar="B", help="questions of a part, asked together (default: 16)")
    add("--max-errors", type=int, metavar="N", help="stop when more than N questions failed")
    add("--no-originals", action="store_true", help="keep pictures only as fine as the model saw them")
    add("--no-records", action="store_true", help="keep tables and maps, but no whole answers")
    add_answer(found)
    add_family(found)
    add_reading(found)
    add(
        "--engine",
        choices=["loop", "ray"],
        default="loop",
        help="one after the other here, or workers of Ray (default: loop)",
    )
    add("--workers", type=int, default=1, metavar="N", help="of Ray: how many ask side by side (default: 1)")
    add("--gpus", type=float, metavar="G", help="of Ray: GPUs of a worker, 0.5 for two workers on one")
    add("--ray-address", metavar="ADDRESS", help="of Ray: a cluster that runs already")
    add("--device-map", metavar="MAP", help="auto: a model larger than one GPU, over all that a worker has")
    add_place(found)
    found.set_defaults(run=run_sweep)
    return found


def add_report(commands: Any) -> argparse.ArgumentParser:
    """Add ``vila-lab report`` to a parser's commands."""
    found: argparse.ArgumentParser = commands.add_parser(
        "report", help="write what a sweep shows, as a page and as a notebook, into its folder"
    )
    found.add_argument("folder", metavar="FOLDER", help="of a sweep")
    found.add_argument("--worst", type=int, default=6, metavar="N", help="answers to show whole (default: 6)")
    found.set_defaults(run=run_report)
    return found


def run_sweep(options: argparse.Namespace) -> int:
    """Run a sweep and say how it went: 0, or 1 where questions failed."""
    from .running import sweep

    first, *more = options.questions
    if first == "compact" and more:
        return run_compact(more)
    if more:
        raise OptionError(f"one file or folder of questions at a time; {more[0]!r} is another")
    if not options.out:
        raise OptionError("say where the sweep is kept: --out FOLDER")
    stopped = ""
    loading = given(device=options.device, dtype=options.dtype, device_map=options.device_map)
    try:
        found = sweep(
            first, options.out, model=options.model, loading=loading, methods=options.methods, columns=options.columns, pattern=options.pattern,
            question=options.question, shard=options.shard, limit=options.limit, batch_size=options.batch_size,
            max_errors=options.max_errors, records=not options.no_records, originals=not options.no_originals,
            max_new_tokens=options.max_new_tokens, response_format=form_of(options), engine=options.engine, workers=options.workers, gpus=options.gpus,
            ray_address=options.ray_address, **reading_of(options), **family_of(options),
        )  # fmt: skip
    except SweepStopped as error:
        found, stopped = error.sweep, str(error)
    frame = found.frame()
    frame = frame[frame["run"] == found.run] if len(frame) else frame  # others may lie in the same folder
    sys.stdout.write(summary(frame, found.store.place))
    if stopped:
        sys.stderr.write(f"vila-lab: {stopped}\n")
    return int(bool(stopped) or bool(frame["error"].notna().any()))


def summary(frame: pd.DataFrame, place: str) -> str:
    """What came of a sweep, in lines."""
    errors = frame["error"].dropna()
    lines = [f"{len(frame)} questions, {len(frame) - len(errors)} answered, {len(errors)} failed: {place}"]
    judged = frame["right"].dropna()
    if len(judged):
        lines.append(f"right: {int(judged.sum())} of {len(judged)} ({100 * float(judged.mean()):.1f} %)")
    told = frame.loc[errors.index[:SHOWN_ERRORS]]
    lines += [
        f"  {row if name is None else name}: {said}"
        for name, row, said in zip(told["id"], told["row"], told["error"], strict=True)
    ]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"  and {len(errors) - SHOWN_ERRORS} more; frame()['error'] lists them")
    return "\n".join(lines) + "\n"


def run_compact(folders: list[str]) -> int:
    """Write the parts of each sweep as one."""
    from .compacting import compact
    from .opened import open_sweep

    for folder in folders:
        for path in compact(open_sweep(folder)):
            sys.stdout.write(f"{path}\n")
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Write a sweep's report."""
    from .opened import open_sweep
    from .pages import write_report

    for path in write_report(open_sweep(options.folder), worst=options.worst):
        sys.stdout.write(f"{Path(path)}\n")
    return 0
