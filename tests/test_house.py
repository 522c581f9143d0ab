"""The house's own rules: nobody reaches into another file's private names, and what is public changes on purpose."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("vila_lab", "training", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# The files that may: other packages' private names stand there, and the tests of those names.
MAY = [ROOT / "vila_lab" / "upstream.py", ROOT / "tests" / "inside.py", ROOT / "tests" / "test_upstream.py"]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith(("__", "_repr_", "_ipython_display_"))  # IPython's own protocol


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _own_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def reaches(source: str) -> list[str]:
    """Private names that a file reads of something that is not its own."""
    tree = ast.parse(source)
    own, found = set(_own_names(tree)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            if not _is_self(node.value):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            found += [f"line {node.lineno}: import {each.name}" for each in node.names if _is_private(each.name)]
    return found


def test_a_reach_is_found():
    assert reaches("import other\nother._name") == ["line 2: other._name"]
    assert reaches("from other import _name") == ["line 1: import _name"]
    assert reaches("class A:\n  def f(self, other):\n    self._x = 1\n    return other._x, other._repr_html_") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_reaches_into_another_files_private_names(path):
    found = reaches(path.read_text(encoding="utf-8"))
    assert path in MAY or not found, found


def test_what_is_public_changes_on_purpose():
    """If this fails and the change is meant: ``python .ci/api.py``, and say so in CHANGELOG.md."""
    code = "import sys; sys.path.insert(0, '.ci'); import api; print(*api.lines(), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    written = (ROOT / "docs" / "api.txt").read_text(encoding="utf-8").splitlines()
    now = done.stdout.splitlines()
    assert sorted(set(now) - set(written)) == [], "new or changed"
    assert sorted(set(written) - set(now)) == [], "gone or changed"
    assert len(now) > 500


WRITES = ("write_text", "write_bytes", "mkdir", "copy2", "copyfile", "copytree", "savefig", "to_csv")


def writes(source: str) -> list[str]:
    """Where a file writes files by itself; into a buffer it may."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            into = node.args[0] if node.args else None
            is_passed_on = ast.unparse(node.func.value) == "super()"
            if not is_passed_on and not (isinstance(into, ast.Name) and into.id == "buffer"):
                found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
    return found


def test_a_writer_is_found():
    assert writes("path.write_text('a')\nfigure.savefig(buffer)") == ["line 1: path.write_text"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "vila_lab").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_are_written_in_one_place(path):
    """`vila_lab.writing` writes beside and renames, so that a good file is never lost, and says in one sentence why it cannot."""
    found = writes(path.read_text(encoding="utf-8"))
    assert path.name == "writing.py" or not found, found
