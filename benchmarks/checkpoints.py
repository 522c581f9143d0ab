"""Which checkpoint a benchmark asks, and where it keeps what it finds of it. Knows no measurement."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vila_lab
from vila_lab.engine.band import Band
from vila_lab.evidence.heads import HeadRanking
from vila_lab.session import Session
from vila_lab.tiny import heads_file

HEADS, BAND = (
    "heads.json",
    "band.json",
)  # of another checkpoint, in its folder: what training.rank_heads writes of the embedded model


def loaded(model: str | None) -> Session:
    """The embedded model, or the checkpoint in a folder with the head sets and the band beside it."""
    session = vila_lab.load(model)
    if model is None:
        return session
    session.head_sets.update({kind: ranking.heads for kind, ranking in rankings_of(model).items()})
    band = Path(model) / BAND
    if band.is_file():
        session.engine.band = Band.from_json(json.loads(band.read_text(encoding="utf-8")))
    return session


def rankings_of(model: str | None) -> dict[str, HeadRanking]:
    """The rankings of heads that lie beside a checkpoint's weights; none where there is no file."""
    file = heads_file() if model is None else Path(model) / HEADS
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {kind: HeadRanking.from_json(ranking) for kind, ranking in content.items()}


def results_of(results: Path, model: str | None, data: Path | None = None) -> Path:
    """The embedded model's file of results; beside it that of the checkpoint in a folder, and that of other questions.

    >>> results_of(Path("edits.json"), "tests/goldens/second").name
    'edits_second.json'
    >>> results_of(Path("attribution.json"), None, Path("questions.jsonl")).name
    'attribution_questions.json'
    """
    named = [results.stem, *([Path(model).name] if model else []), *([data.stem] if data else [])]
    return results.with_stem("_".join(named))


def parsed(
    parser: argparse.ArgumentParser, results: Path, printed: Callable[[dict[str, Any]], str]
) -> tuple[argparse.Namespace, Path] | None:
    """What the command line asks for, with which checkpoint and which file added; None where only the file was to be printed."""
    parser.add_argument(
        "--model", help="folder of another checkpoint that can answer these questions, its heads.json in it"
    )
    parser.add_argument(
        "--out", type=Path, help=f"by default benchmarks/results/{results.name}, or _FOLDER.json of --model"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing; print the tables of the results file")
    options = parser.parse_args()
    out = options.out or results_of(results, options.model, getattr(options, "data", None))
    if options.show:
        print(printed(json.loads(out.read_text(encoding="utf-8"))))
        return None
    return options, out
