"""The package as a whole: what importing it costs, and that its papers agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vila_lab

ROOT = Path(__file__).parent.parent
LATE = ("matplotlib", "pandas", "xarray", "captum", "IPython", "ipywidgets", "anywidget")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
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


def test_conda_and_make_install_the_same() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    torch = re.search(r"^TORCH := (\S+)", make, flags=re.MULTILINE)
    assert torch is not None
    assert f"- {torch[1]}\n" in conda
    assert "--constraint constraints.txt" in conda
    assert re.search(r"^\$\(READY\): .*\bconstraints.txt\b", make, flags=re.MULTILINE)
    assert "--constraint constraints.txt" in make


def test_the_constraints_pin_everything_that_is_asked_for(project: dict[str, Any]) -> None:
    """And nothing of it outside the bounds; torch is left to the Makefile."""
    pinned: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier)[2:])
    extras = project["project"]["optional-dependencies"].values()
    for line in [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]:
        asked = Requirement(line)
        name = canonicalize_name(asked.name)
        assert (name in pinned) == (name != "torch"), name
        assert all(asked.specifier.contains(version) for version in pinned.get(name, ())), name


def test_every_dependency_has_a_lower_bound(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    for line in [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]:
        assert any(bound.operator == ">=" for bound in Requirement(line).specifier), line


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_commands(command: str) -> None:
    target = command.removeprefix("make ")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_continuous_integration_runs_what_the_readme_names() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
