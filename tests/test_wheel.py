"""What a reader gets who has the wheel and no repository: the course, the demo, links that lead somewhere. Built here, unpacked, run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel's files, as an installation lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", str(ROOT), "--quiet", "--no-index"]
    done = subprocess.run(
        [*build, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def run(unpacked, tmp_path) -> Run:
    """Runs Python on the wheel's files alone, in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(unpacked)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="module")
def papers(unpacked) -> Message:
    """The wheel's metadata, whose body is the README as package indexes show it."""
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def test_it_holds_the_course_the_pictures_and_no_leftovers(unpacked):
    names = {
        str(path.relative_to(unpacked / "vila_lab")) for path in (unpacked / "vila_lab").rglob("*") if path.is_file()
    }
    for folder in ("notebooks", "demo_images"):
        here = {f"{folder}/{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in here if ".ipynb_checkpoints" not in name} <= names
    assert [name for name in names if name.endswith(".pyc")] == []


def test_the_course_comes_out_of_it(run, tmp_path, unpacked):
    done = run("-m", "vila_lab.cli", "notebooks", "course")
    assert done.returncode == 0, done.stderr
    course = tmp_path / "course"
    assert (course / "01_first_look.ipynb").read_bytes() == (ROOT / "notebooks" / "01_first_look.ipynb").read_bytes()
    assert (course / "demo_images" / "g.png").is_file()
    where = run("-c", "import vila_lab.course; print(vila_lab.course.notebooks())")
    assert Path(where.stdout.strip()) == unpacked / "vila_lab" / "notebooks"


def test_the_demo_and_the_doctor_run_from_it(run, tmp_path):
    demo = run("-m", "vila_lab.cli", "demo")
    assert demo.returncode == 0, demo.stderr
    assert (tmp_path / "vila-lab-demo.html").is_file()
    doctor = run("-m", "vila_lab.cli", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert re.search(r"(?m)^transformers +\d", doctor.stdout)
    assert re.search(r"(?m)^serve +fastapi \d", doctor.stdout)


def test_its_readme_says_the_same_with_links_that_lead_out(papers):
    shown = papers.get_payload()
    assert isinstance(shown, str)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```", "", shown))
    address = dict(each.split(", ") for each in papers.get_all("Project-URL", []))["Repository"]
    assert [link for link in links if not link.startswith("https://")] == []
    assert f"{address}/raw/HEAD/docs/first_look.png" in links
    for link in links:
        if link.startswith(f"{address}/raw/HEAD/") or link.startswith(f"{address}/blob/HEAD/"):
            place = link.removeprefix(f"{address}/").split("/", 2)[2]
            assert (ROOT / place.split("#")[0]).exists(), link
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = r"(?ms)^```.*?^```$"
    assert re.findall(blocks, shown) == re.findall(blocks, readme)
    assert papers["Description-Content-Type"].startswith("text/markdown")
