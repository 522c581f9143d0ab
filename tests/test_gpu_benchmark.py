"""The benchmark for a CUDA device walks every path on the CPU, keeps what it has when something fails, and stops in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parent.parent
SECTIONS = [
    "checks", "model", "speed, pictures: 1", "speed, pictures: 2", "attribution, pictures: 1", "attribution, pictures: 2",
    "prefill", "reuse", "budget", "implementations", "static",
]  # fmt: skip
VARIANTS = {
    "speed": ["plain", "tape", "live", "masses", "ask", "ask, hook in one layer", "ask, knock-out"],
    "attribution": ["plain forward", "grad_x_attention", "shapley, exact"],
    "static": [f"{cache}, {kind}" for cache in ("dynamic", "static", "static, compiled") for kind in ("plain", "tape")],
}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/gpu.py", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_dry_run_walks_every_path(tmp_path):
    path = tmp_path / "gpu.json"
    done = run("--dry-run", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing failed\n")
    report = json.loads(path.read_text(encoding="utf-8"))
    sections = {name: section["rows"] for name, section in report["sections"].items()}
    assert list(sections) == SECTIONS
    assert report["skipped"] == []
    assert "failed" not in path.read_text(encoding="utf-8")
    assert len(sections["checks"]) == 19
    assert all(row["ok"] and row["difference"] <= row["tolerance"] for row in sections["checks"])
    assert all(row["ok"] for row in sections["budget"])
    assert sections["budget"][-1]["disk MB"] > 0
    for name, rows in sections.items():
        wanted = VARIANTS.get(name.split(",")[0])
        assert wanted is None or [row["variant"] for row in rows] == wanted, name
        timed = [row for row in rows if "whole ratio" in row]
        assert all(row["whole ms"] > 0 and row["whole ratio"] > 0 for row in timed)
        assert all(value == 1 for key, value in (timed[0] if timed else {}).items() if key.endswith("ratio"))
        # A tape, a hook and a compiled step change no token; a cut may.
        assert {row["ids"] for row in timed if "ids" in row and "knock-out" not in row["variant"]} <= {"as plain"}
    assert [row["tokens"] for row in sections["speed, pictures: 2"]] == [gpu.SMALL.tokens] * 7
    assert {row["again"] for row in sections["prefill"]} == {"same bits"}


def test_what_there_is_no_time_for_is_named_and_nothing_is_written():
    before = set((ROOT / "benchmarks" / "results").iterdir())
    done = run("--dry-run", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert [line.split(": skipped")[0] for line in done.stdout.splitlines() if "skipped" in line] == SECTIONS
    assert set((ROOT / "benchmarks" / "results").iterdir()) == before


def test_without_a_device_it_is_one_sentence():
    done = run()
    assert (done.returncode, done.stderr) == (2, "")
    assert len(done.stdout.splitlines()) == 1
    assert "no CUDA device" in done.stdout


def test_a_section_that_fails_keeps_its_rows_and_the_rest_goes_on(tmp_path, capsys):
    path = tmp_path / "deep" / "gpu.json"
    report = gpu.Report({"device": "none"}, path, 1.0)

    def breaks() -> Iterator[dict[str, Any]]:
        yield {"what": "the first", "ok": True}
        raise MemoryError("out of\nmemory")

    report.section("good", lambda: iter([{"what": "all", "ok": True}]))
    assert not report.has_failed
    report.section("bad", breaks)
    report.section("last", lambda: iter([{"what": "all", "ms": 1.5}]))
    assert report.has_failed
    assert "FAILED bad: MemoryError: out of memory\n" in capsys.readouterr().out
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    assert sections["bad"]["failed"] == "MemoryError: out of memory"
    assert [len(section["rows"]) for section in sections.values()] == [1, 1, 1]


def test_a_check_that_is_off_counts_as_failed():
    report = gpu.Report({}, None, 1.0)
    report.section("checks", lambda: iter([{"check": "x", "difference": float("nan"), "ok": False}]))
    assert report.has_failed


def test_a_variant_that_fails_says_why_and_the_others_are_compared():
    report = gpu.Report({}, None, 1.0)
    bench = gpu.Bench(gpu.SMALL, "cpu", report)

    def breaks() -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    took = iter([1.0, 2.0, 3.0, 1.0])  # plain, other; other, plain: turns, and the first round does not count

    def works() -> dict[str, Any]:
        return {"whole ms": next(took), "ids": (1, 2)}

    rows = {row["variant"]: row for row in bench.compared({"plain": works, "flash": breaks, "other": works})}
    assert rows["flash"] == {"variant": "flash", "failed": "RuntimeError: no such kernel"}
    assert rows["other"]["whole ms"] == rows["other"]["whole ratio"] == 3.0
    assert (rows["plain"]["whole ratio"], rows["other"]["ids"], rows["other"]["tokens"]) == (1.0, "as plain", 2)
