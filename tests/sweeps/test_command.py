"""The command line: sweep, sweep compact, report; what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vila_lab
from vila_lab.cli import main

pytest.importorskip("pyarrow")

Questions = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def table(questions: Questions, tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, questions(5))), encoding="utf-8")
    return path


def test_a_sweep_from_the_command_line(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["sweep", str(table), "--out", out, "--methods", "ledger,leave_one_out", "--batch-size", "2"]) == 0
    said = capsys.readouterr().out
    assert "5 questions, 5 answered, 0 failed" in said
    assert "right: 5 of 5 (100.0 %)" in said
    assert main(["sweep", "compact", out]) == 0
    assert main(["report", out]) == 0
    written = capsys.readouterr().out.split()
    assert [Path(each).name for each in written] == [
        "questions.parquet",
        "tokens.parquet",
        "maps.zarr",
        "report.html",
        "report.ipynb",
    ]
    assert all(Path(each).exists() for each in written)


def test_two_shards_are_the_whole(table: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        assert main(["sweep", str(table), "--out", str(tmp_path / "out"), "--shard", shard]) == 0
    assert len(vila_lab.open_sweep(tmp_path / "out").frame()) == 5


def test_failed_questions_are_told_and_end_it_with_one(
    questions: Questions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"images": ["nowhere.png"]} for row in questions(7)]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "7 questions, 0 answered, 7 failed" in said
    assert "  q0: picture 1 of 1: there is no file" in said
    assert "and 2 more" in said
    assert main(["sweep", str(path), "--out", str(tmp_path / "other"), "--max-errors", "1", "--batch-size", "1"]) == 1
    told = capsys.readouterr()
    assert "2 questions, 0 answered, 2 failed" in told.out
    assert "more than max_errors=1" in told.err


def test_the_end_of_a_run_tells_of_no_other(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"id": "x", "images": ["nowhere.png"], "question": "?"}))
    assert main(["sweep", str(broken), "--out", out, "--max-new-tokens", "3"]) == 1
    capsys.readouterr()
    assert main(["sweep", str(table), "--out", out, "--conv-mode", "auto"]) == 0
    assert "5 questions, 5 answered, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "q.jsonl"], "--out"),
        (["sweep", "nowhere.jsonl", "--out", "o"], "nowhere.jsonl"),
        (["sweep", "a.jsonl", "b.jsonl", "--out", "o"], "one file or folder"),
        (["report", "nowhere"], "nowhere"),
        (["sweep", "compact", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_line_and_two(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_nothing_is_left_running(table: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vila_lab.cli", "sweep", str(table), "--out", str(tmp_path / "out")],
        env=os.environ | {"TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
