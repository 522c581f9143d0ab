"""No warning, of Python's or another package's, reaches the screen of who asks: the demo, the command line, the first notebook.

Python is told to show every warning once, deprecations of all packages among them, which by itself it hides.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TELLING = {"PYTHONWARNINGS": "default", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "warning"}
PICTURES = [str(ROOT / "demo_images" / name) for name in ("g.png", "m.png")]


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | TELLING | {"TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_warning_would_be_seen(tmp_path):
    assert "DeprecationWarning: old" in run(
        "-c", "import warnings; warnings.warn('old', DeprecationWarning)", cwd=tmp_path
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["infer", "--text", "What is in image 2?", "--media", *PICTURES],
        ["infer", "--text", "What is in image 2?", "--media", *PICTURES, "--html", "page.html", "--json"],
    ],
    ids=["demo", "infer", "infer with a page"],
)
def test_the_command_line_says_what_it_does_and_no_more(tmp_path, arguments):
    lines = run("-m", "vila_lab.cli", *arguments, cwd=tmp_path).splitlines()
    ours = ("loading ", "note: ", "page: ", "the embedded model answered", "图像1")
    assert [line for line in lines if not line.startswith(ours)] == []


def test_the_first_notebook_shows_nothing_in_pink(monkeypatch):
    """Neither does progress, which is on here."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for name, value in TELLING.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "notebooks" / "01_first_look.ipynb", as_version=4)
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert not [output for output in outputs if "Warning" in output.get("text", "")]
