"""The package as a whole: what importing it costs, and that its papers agree with each other."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
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
    """And nothing of it outside the bounds; torch is left to the Makefile, and bench has an environment of its own."""
    pinned: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier)[2:])
    extras = {name: asked for name, asked in project["project"]["optional-dependencies"].items() if name != "bench"}
    for line in [*project["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]:
        asked = Requirement(line)
        name = canonicalize_name(asked.name)
        assert (name in pinned) == (name != "torch"), name
        assert all(asked.specifier.contains(version) for version in pinned.get(name, ())), name


def test_the_constraints_are_made_of_every_extra_but_one(project: dict[str, Any]) -> None:
    extras = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert extras is not None
    assert {*extras[1].split(), "bench"} == set(project["project"]["optional-dependencies"])


def test_every_dependency_has_a_lower_bound(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    for line in [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]:
        assert any(bound.operator == ">=" for bound in Requirement(line).specifier), line


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_commands(command: str) -> None:
    target = command.removeprefix("make ")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def address() -> ModuleType:
    """The program that writes the repository's address."""
    spec = importlib.util.spec_from_file_location("address", ROOT / ".ci" / "address.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_repositorys_address_is_the_same_everywhere(project: dict[str, Any], address: ModuleType) -> None:
    """If this fails, pyproject.toml was changed: ``make address`` writes it everywhere else."""
    there = project["project"]["urls"]["Repository"]
    assert address.written() == there
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == there
    assert all(url.startswith(there) for url in project["project"]["urls"].values())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    badges = re.findall(
        r"https://(?:mybinder\.org/v2/gh|colab\.research\.google\.com/github)/([\w.-]+/[\w.-]+)/", readme
    )
    assert set(badges) == {address.owner_and_name(there)}
    assert len(badges) > 1


def test_a_fork_changes_it_in_one_place(address: ModuleType, tmp_path: Path) -> None:
    old = address.address()
    for path in address.files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    papers = tmp_path / "pyproject.toml"
    line = f'Repository = "{old}"'
    assert papers.read_text(encoding="utf-8").count(line) == 1
    papers.write_text(
        papers.read_text(encoding="utf-8").replace(line, 'Repository = "https://git.example/b/c"'), encoding="utf-8"
    )
    changed = {str(path.relative_to(tmp_path)) for path in address.write(tmp_path)}
    assert {"README.md", "CITATION.cff", "pyproject.toml", ".github/ISSUE_TEMPLATE/config.yml"} <= changed
    left = [path for path in address.files(tmp_path) if address.owner_and_name(old) in path.read_text(encoding="utf-8")]
    assert left == []
    assert address.write(tmp_path) == []


def test_no_address_stands_where_it_would_be_forgotten(address: ModuleType) -> None:
    listed = subprocess.run(
        ["git", "grep", "-l", "--fixed-strings", address.owner_and_name(address.address())],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode not in (0, 1):
        pytest.skip("this is no git repository")
    assert {ROOT / name for name in listed.stdout.splitlines()} <= set(address.files())


def test_how_to_cite_it_is_up_to_date(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == project["project"]["version"]
    assert citation["license"] == project["project"]["license"]
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])


def test_every_issue_form_can_be_filled_in() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), path.name
        fields = [each for each in form["body"] if each["type"] != "markdown"]
        assert all(each["attributes"]["label"] for each in fields), path.name
        assert len({each["id"] for each in fields}) == len(fields), path.name
        assert any(each.get("validations", {}).get("required") for each in fields), path.name


def test_every_notebook_can_be_opened_on_colab_where_its_first_cell_installs_this(address: ModuleType) -> None:
    """A new notebook begins as the others do: copy their cell "colab", and their line in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    there = address.address()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first = next(cell for cell in cells if cell["cell_type"] == "code")
        source = "".join(first["source"])
        assert '"google.colab" in sys.modules' in source, path.name
        assert f"git+{there}" in source, path.name
        assert {"nbval-skip", "skip-execution", "remove-cell"} <= set(first["metadata"]["tags"]), path.name
        place = f"{address.owner_and_name(there)}/blob/HEAD/notebooks/{path.name}"
        assert f"https://colab.research.google.com/github/{place}" in readme, path.name


def test_binder_installs_what_the_course_needs() -> None:
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    torch = re.search(r"^TORCH := (\S+)", make, flags=re.MULTILINE)
    assert torch is not None
    assert torch[1] in lines
    assert any(line.startswith(".[lab") for line in lines)
    constraints = next(line.split()[1] for line in lines if line.startswith("-c "))
    assert (ROOT / "binder" / constraints).resolve() == ROOT / "constraints.txt"


def test_continuous_integration_runs_what_the_readme_names() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
