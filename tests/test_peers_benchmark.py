"""The benchmark beside other tools: its rows agree where they give the same thing, and a tool that fails is a row that says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import peers
from benchmarks.beside import attention, attribution, pages, tables
from benchmarks.beside.subject import SMALLEST

ROOT = Path(__file__).parents[1]
HALF = 1e-3  # live weights are float16
EXACT = 1e-5


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report of a quick run, and what it printed."""
    path = tmp_path_factory.mktemp("peers") / "quick.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/peers.py", "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8")), done.stdout


def test_every_way_is_a_row(quick):
    report, told = quick
    for part, ways in (("attention", attention.WAYS), ("attribution", attribution.WAYS), ("pages", pages.PAGES)):
        assert list(report[part][SMALLEST]["rows"]) == list(ways)
    assert told.strip().endswith(peers.printed(report).splitlines()[-1])


def test_the_recorders_agree_with_what_transformers_returns_and_need_no_eager_attention(quick):
    rows = quick[0]["attention"][SMALLEST]["rows"]
    for name, bound in (("vila_lab, tape", EXACT), ("vila_lab, live", HALF)):
        assert rows[name]["difference"] <= bound, name
        assert rows[name]["under sdpa"] == rows[name]["while generating"] == "yes"
    for name in (attention.REFERENCE, "transformers, forward hooks", "lvlm-interpret's way"):
        assert rows[name]["under sdpa"] == "ValueError: the model returned no attention weights"
    assert rows["transformers, forward hooks"]["difference"] == 0
    assert rows["lvlm-interpret's way"]["columns"] == 1


def test_scores_agree_with_captums_own_loops(quick):
    rows = quick[0]["attribution"][SMALLEST]["rows"]
    for name in ("vila_lab leave_one_out", "vila_lab shapley", "captum LLMAttribution, whole sequence"):
        assert rows[name]["difference"] <= EXACT, name
        assert rows[name]["largest score"] > 100 * EXACT, name
    assert 0 < rows["captum ShapleyValueSampling, own forward function"]["difference"] < 1  # it draws orders


def test_a_quick_run_writes_no_results():
    before = peers.RESULTS.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "benchmarks/peers.py", "--quick", "--part", "pages", "--only", "vila_lab"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n| vila_lab")) == (0, 1), done.stderr
    assert peers.RESULTS.read_bytes() == before


def test_a_tool_that_fails_says_how_and_the_others_go_on():
    def run(way: attention.Way, subject: Any, implementation: str) -> dict[str, Any]:
        name = way.gives
        if name == "nnsight":
            return {"failed": f"KeyError: there is no such thing. And more of {implementation}."}
        if name == attention.REFERENCE and implementation == "sdpa":
            return {"failed": "ValueError: no weights"}
        shares = [[0.1, 0.2]] if name != "lvlm-interpret's way" else [[0.3]]
        return {
            "seconds": 2.0, "peak": 10, "kept": 1, "ids": [5], "shares": shares, "positions": 9, "pictures": 2,
            "tokens": 1, "replaced": name == "inseq",
        }  # fmt: skip

    ways = {name: replace(way, package="torch", gives=name) for name, way in attention.WAYS.items()}
    ways["TransformerLens"] = replace(ways["TransformerLens"], package="no-such-package")
    found = peers.in_turns(run, ways, cast("Any", None), ("sdpa", "eager"), 2)
    part = tables.setting(found) | {"rows": tables.attention_rows(found)}
    cells = {name: tables.attention_cells(name, row, part) for name, row in part["rows"].items()}
    assert cells["nnsight"]["gives, or what happened"] == "KeyError: there is no such thing"
    assert part["rows"]["nnsight"]["failed"].endswith("of eager.")
    assert cells["TransformerLens"]["gives, or what happened"] == "not installed"
    assert cells["nnsight"]["time"] == cells["nnsight"]["several pictures"] == "-"
    assert cells["lvlm-interpret's way"]["several pictures"] == "no: 1 of 2"
    assert cells["inseq"]["under sdpa"] == "no: its own"
    assert cells["vila_lab, tape"]["under sdpa"] == cells["vila_lab, tape"]["several pictures"] == "yes"
    assert cells[attention.REFERENCE]["under sdpa"] == "no"
    assert part["rows"]["vila_lab, tape"]["rounds"] == part["rows"][attention.REFERENCE]["rounds"] == 2


def test_a_row_that_takes_long_is_measured_once_and_one_that_kills_its_process_says_so():
    def run(way: attention.Way, subject: Any, implementation: str) -> dict[str, Any]:
        return {"seconds": 2.0 * peers.LONG}

    ways = {"nnsight": replace(attention.WAYS["nnsight"], package="torch")}
    assert len(peers.in_turns(run, ways, cast("Any", None), ("sdpa",), 3)["nnsight"]["runs"]) == 1
    assert peers.apart(sys.exit, 3) == {"failed": "the process ended with 3"}


def test_other_words_and_zeros_are_not_a_yes():
    run = {"seconds": 1.0, "peak": 0, "positions": 9, "pictures": 2, "tokens": 1, "kept": 0, "replaced": False}
    plain = {"version": "1", "tried": {}, "runs": [{**run, "ids": [5], "shares": None}]}
    mine = {"version": "1", "tried": {}, "runs": [{**run, "ids": [6], "shares": [[0.1, 0.2]]}]}
    rows = tables.attention_rows({attention.PLAIN: plain, attention.REFERENCE: mine, "nnsight": mine})
    assert rows["nnsight"]["while generating"] == "no: other words"
    assert "memory" not in rows["nnsight"]  # a ratio to nothing
    zeros = {"version": "1", "runs": [{**run, "scores": [0.0, 0.0]}]}
    wanted = {"version": "1", "runs": [{**run, "scores": [1.0, 0.5]}]}
    name = "captum LLMAttribution, defaults"
    found = tables.attribution_rows({attribution.PLAIN: wanted, attribution.ABLATION: wanted, name: zeros})
    assert tables.attribution_cells(name, found[name], {"pictures": 2})["several pictures"] == "no: all 0"
    assert found[name]["difference"] == 1.0
    others = found[name] | {"largest score": 1.5}
    assert tables.attribution_cells(name, others, {"pictures": 2})["several pictures"] == "no: other numbers"
    assert tables.attribution_cells(name, others | {"difference": 0.1}, {"pictures": 2})["several pictures"] == "yes"


def test_rows_measured_again_take_their_places():
    report = {"pages": {"x": {"sizes": [4], "rows": {"vila_lab": {"version": "0"}}}}}
    new = {"BertViz head_view, answer alone": {"version": "2"}, "vila_lab": {"version": "1"}}
    peers.merge(report, "pages", "x", {"sizes": [4, 8], "rows": new})
    assert list(report["pages"]["x"]["rows"]) == ["vila_lab", "BertViz head_view, answer alone"]
    assert (report["pages"]["x"]["sizes"], report["pages"]["x"]["rows"]["vila_lab"]["version"]) == ([4, 8], "1")


def test_the_committed_run_holds_every_row_once_and_no_tool_was_missing():
    report = json.loads(peers.RESULTS.read_text(encoding="utf-8"))
    for part, ways in (("attention", attention.WAYS), ("attribution", attribution.WAYS), ("pages", pages.PAGES)):
        assert list(report[part]) == peers.SUBJECTS_OF[part]
        for found in report[part].values():
            assert list(found["rows"]) == list(ways)
            assert [name for name, row in found["rows"].items() if row.get("failed") == "not installed"] == []
