"""The package as a whole: what importing it costs, and that its papers agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vila_lab

ROOT = Path(__file__).parent.parent
LATE = ("matplotlib", "pandas", "xarray", "captum", "IPython", "ipywidgets", "anywidget")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


def test_importing_loads_nothing_that_only_some_results_need() -> None:
    code = f"import sys, vila_lab; print(*sorted(set({LATE!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert vila_lab.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_conda_and_pip_ask_for_the_same(project: dict[str, Any]) -> None:
    """Every dependency of the package stands in environment.yml with the same bounds."""
    wanted = {line.replace("torch>", "pytorch>") for line in project["project"]["dependencies"]}
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^  - ([\w>=<.,-]+)", text, flags=re.MULTILINE))
    assert wanted - {"captum>=0.8"} <= listed  # captum is left to the pip part


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_commands(command: str) -> None:
    target = command.removeprefix("make ")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_continuous_integration_runs_what_the_readme_names() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
