"""The code of the guides runs as it is pasted, page by page, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from vila_lab.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", DOCS / "methods.md", *sorted((DOCS / "guides").glob("*-*.md"))]
# A block with a caption says what it needs; one in plain fences runs here. What is printed follows it as text.
FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^vila-lab (.*)$", flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    printed, blocks = "", FENCE.findall(page.read_text(encoding="utf-8"))
    for kind, content in blocks:
        if kind == "text":
            assert printed == content
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(content, page.name, "exec"), names)
        printed = out.getvalue()
    assert blocks


def test_the_commands_of_the_guides_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for page in PAGES for line in COMMANDS.findall(page.read_text(encoding="utf-8"))]
    assert lines
    for command, *options in map(str.split, lines):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        told = capsys.readouterr().out
        assert end.value.code == 0
        assert [each for each in options if each.startswith("-") and each not in told] == [], command
