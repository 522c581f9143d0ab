"""The README's blocks run as pasted: one below the other, in one session, in a folder that is empty."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks import attribution, peers, verdict
from vila_lab.view.lettering import FONT_REMEDY

ROOT = Path(__file__).parents[1]
LEFT_OUT = re.compile(r"<!-- needs a GPU.* -->")
PORT = "8000"
SESSION = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.colors = "nocolor"
for number, block in enumerate(json.load(sys.stdin), 1):
    if not shell.run_cell(block, store_history=True).success:
        sys.exit(f"block {number} failed:\\n{block}")
"""


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    code: str
    is_left_out: bool


def read(text: str) -> list[Block]:
    found: list[Block] = []
    before, mark, language, lines = "", "", None, []
    for line in text.splitlines():
        if line.startswith("```") and language is None:
            mark, language, lines = before, line[3:], []
        elif line == "```" and language is not None:
            found.append(Block(language, "\n".join(lines) + "\n", bool(LEFT_OUT.fullmatch(mark))))
            language = None
        elif language is not None:
            lines.append(line)
        before = line
    assert language is None, "a block is not closed"
    return found


BLOCKS = read((ROOT / "README.md").read_text(encoding="utf-8"))


def pasted(language: str) -> list[str]:
    return [block.code for block in BLOCKS if block.language == language and not block.is_left_out]


def test_blocks_are_found_and_marked():
    text = "a\n```python\n1\n```\n<!-- needs a GPU, so no test runs it -->\n```python\n2\n```\n"
    assert read(text) == [Block("python", "1\n", False), Block("python", "2\n", True)]


def test_every_block_is_one_that_is_run_but_the_one_for_a_gpu():
    assert {block.language for block in BLOCKS} <= {"python", "bash"}
    (left_out,) = [block for block in BLOCKS if block.is_left_out]
    assert 'device="cuda"' in left_out.code
    assert len(pasted("python")) > 5


@pytest.mark.parametrize(("benchmark", "columns"), [(attribution, 7), (verdict, 9), (peers, 9)])
def test_the_tables_are_what_was_measured(benchmark, columns):
    """What stands below the same heads, row by row; not every column and row of the benchmark need be there."""
    printed = benchmark.printed(json.loads(benchmark.RESULTS.read_text(encoding="utf-8")))
    measured = [cells(line)[:columns] for line in printed.splitlines() if line.startswith("|")]
    lines = [cells(line) for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    shown = list(takewhile(lambda row: row != [""], lines[lines.index(measured[0]) :]))
    assert len(shown) > 5
    assert [row for row in shown if row not in measured] == []


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_the_blocks_run_one_below_the_other(tmp_path):
    """With the server of the last ones on a port that is free here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    blocks = [code.replace(PORT, port) for code in pasted("python")]
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps(blocks),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The one thing that depends on the machine and not on us: whether it has a Chinese font.
    assert "Warning" not in done.stderr or FONT_REMEDY in done.stderr, done.stderr
    assert "Microsoft" in done.stdout


@pytest.mark.slow
def test_the_shell_blocks_run_one_below_the_other(tmp_path):
    """The clone is one of this repository, and make says there what it would do: setting up takes minutes."""
    if subprocess.run(["git", "rev-parse", "--verify", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is no git repository")
    tools, fresh = tmp_path / "tools", tmp_path / "fresh"
    tools.mkdir()
    fresh.mkdir()
    environment = Path(sys.executable).parents[1]
    make = tools / "make"
    make.write_text(f'#!/bin/sh\nln -sfn "{environment}" .venv\nexec /usr/bin/make --dry-run "$@"\n', encoding="utf-8")
    make.chmod(0o755)
    address = re.search(r"(?m)^git clone (\S+)", "".join(pasted("bash")))
    assert address is not None
    done = subprocess.run(
        ["bash", "-e"],
        input="".join(pasted("bash")),
        cwd=fresh,
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "GIT_CONFIG_COUNT": "1"}
        | {"GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": address[1]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "vila-lab demo" in done.stdout  # what make would have run
    assert "英伟达" in done.stdout
    assert "Warning" not in done.stderr
