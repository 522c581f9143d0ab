"""Installs vila_lab with the lowest, the newest or pre-released versions of what it needs, and runs checks on each.

    python .ci/versions.py lowest newest          # what `make versions` does: some ten minutes, and docs/verified.md
    python .ci/versions.py lowest --probe         # what every run of the continuous integration does: two minutes
    python .ci/versions.py pre --torch torch      # nightly

Every job has a virtual environment of its own under build/versions, made anew when what it installs has changed, and
first asserts that the versions it was to install are there. Needs the `packaging` package.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
import venv
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "versions"
TABLE = ROOT / "docs" / "verified.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTS = (
    "tests/test_upstream.py",
    "tests/nvila",
    "tests/hooks",
    "tests/edits",
    "tests/attribution",
    "tests/engine",
    "tests/test_stream.py",
    "tests/test_chat.py",
    "tests/test_many.py",
    "tests/test_forms.py",
    "tests/serve",
    "tests/test_experiments.py",
    "tests/families",
    "tests/sweeps",
    "tests/test_session.py",
)
COMMON = ROOT / ".ci" / "common_tests.py"
SHOWN = ("torch", "transformers", "accelerate", "captum", "numpy", "pillow")
JOBS = ("lowest", "newest", "pre")
HEAD = """# What was verified

Written by `make versions` (`.ci/versions.py`), which installs each set of versions in an environment of its own, asserts
what it installed and runs, with these versions, the probe (import, demo, an answer, an edit, an attribution: `.ci/probe.py`),
the tests of the model, capture, edits, attribution and session, and those of transformers' own common tests that apply.
`lowest` is every lower bound of pyproject.toml at once, `newest` the newest release that its bounds allow.

| job | Python | {shown} | probe | tests | transformers' common tests | date |
| --- | --- | {rules} | --- | --- | --- | --- |
""".format(shown=" | ".join(SHOWN), rules=" | ".join("---" for _ in SHOWN))


class Failed(Exception):
    """A job found something wrong; the message says what."""


@dataclass
class Job:
    """One set of versions and the environment it is installed in."""

    name: str
    probe_only: bool
    torch: str
    results: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        suffix = "-probe" if self.probe_only else ""
        return WORK / f"{self.name}{suffix}-{re.sub(r'[^a-z0-9.]+', '-', self.torch)}"

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def extras(self) -> dict[str, list[str]]:
        """The extras that this job installs: all that pyproject.toml has but bench, which has an environment of its own; or none."""
        everything = PROJECT["optional-dependencies"].items()
        return {} if self.probe_only else {name: asked for name, asked in everything if name != "bench"}

    @property
    def asked(self) -> list[Requirement]:
        """What vila_lab needs for this job, with the bounds of pyproject.toml."""
        return [Requirement(line) for line in chain(PROJECT["dependencies"], *self.extras.values())]

    def pins(self) -> list[str]:
        """The lower bound of everything but torch, which is given."""
        if self.name != "lowest":
            return []
        return [f"{each.name}=={lower_bound(each)}" for each in self.asked if each.name != "torch"]

    def install(self) -> None:
        """Make the environment, unless it is there with the same content."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        what = [
            *self.pins(),
            *(["--pre", "--upgrade"] if self.name == "pre" else []),
            self.torch,
            "--editable",
            f"{ROOT}{extras}",
        ]
        wanted = hashlib.sha256(json.dumps([what, (ROOT / "pyproject.toml").read_text("utf-8")]).encode()).hexdigest()
        done = self.folder / "installed"
        if self.name == "lowest" and done.is_file() and done.read_text() == wanted:
            return
        venv.create(self.folder / "venv", with_pip=True, clear=True)
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
        done.write_text(wanted)

    def installed(self) -> dict[str, str]:
        listed = self.run("-m", "pip", "list", "--format", "json", "--disable-pip-version-check", capture=True)
        return {canonicalize_name(each["name"]): each["version"] for each in json.loads(listed)}

    def check_versions(self) -> None:
        """Assert that each package has the version of this job."""
        found = self.installed()
        self.results |= {name: found[name] for name in SHOWN}
        wrong = []
        for each in self.asked:
            name, version = canonicalize_name(each.name), found.get(canonicalize_name(each.name), "missing")
            if name == "torch":  # given, and pip may be told elsewhere where to stop
                wanted = str(Requirement(self.torch).specifier)[2:] or version
            else:
                wanted = lower_bound(each) if self.name == "lowest" else self.newest(each)
            if Version(version.partition("+")[0]) != Version(wanted):
                wrong.append(f"{name} is {version}, not {wanted}")
        if wrong:
            raise Failed("; ".join(wrong))

    def newest(self, asked: Requirement) -> str:
        """The newest release for this Python that the bounds allow; pip knows which were withdrawn."""
        flags = ["--pre"] if self.name == "pre" else []
        shown = self.run(
            "-m", "pip", "index", "versions", asked.name, "--disable-pip-version-check", *flags, capture=True
        )
        known = re.findall(r"[^\s,]+", next(line for line in shown.splitlines() if line.startswith("Available"))[19:])
        return max(asked.specifier.filter(known, prereleases=self.name == "pre"), key=Version)

    def probe(self) -> None:
        self.run(str(ROOT / ".ci" / "probe.py"))
        self.results["probe"] = "passed"

    def test(self) -> None:
        # An old release of one package may use what a new one of another will drop: Python hides that from users.
        lenient = ("-W", "ignore::DeprecationWarning") if self.name == "lowest" else ()
        command = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *lenient, *TESTS)
        shown = self.run(*command, capture=True)
        self.results["tests"] = shown.strip().splitlines()[-1].partition(" in ")[0]

    def common(self) -> None:
        shown = self.run(str(COMMON), capture=True)
        self.results["common"] = shown.strip().splitlines()[-1]

    def run(self, *arguments: str, capture: bool = False) -> str:
        """Run this environment's Python at the root of the repository."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(
            [self.python, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE if capture else None
        )
        if done.returncode:
            raise Failed(
                f"{' '.join(arguments[:3])} ended with status {done.returncode}\n{(done.stdout or '')[-6000:]}"
            )
        return done.stdout or ""


def lower_bound(asked: Requirement) -> str:
    return next(str(Version(bound.version)) for bound in asked.specifier if bound.operator == ">=")


def row(job: Job) -> str:
    shown = [job.results.get(name, "") for name in (*SHOWN, "probe", "tests", "common")]
    today = datetime.date.today().isoformat()
    return "| " + " | ".join([job.name, platform.python_version(), *shown, today]) + " |"


def write_table(job: Job) -> None:
    """Put the row of a job into the table; one of the same job, Python and torch is replaced."""
    text = TABLE.read_text(encoding="utf-8") if TABLE.is_file() else ""
    rows = [line for line in text.splitlines() if line.startswith(tuple(f"| {name} " for name in JOBS))]
    new = row(job)
    rows = [line for line in rows if line.split("|")[1:4] != new.split("|")[1:4]] + [new]
    rows.sort(key=lambda line: (JOBS.index(line.split()[1]), line))
    TABLE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="check vila_lab with other versions of what it needs")
    parser.add_argument("jobs", nargs="+", choices=JOBS)
    parser.add_argument(
        "--torch", default="torch", help="the torch to install, a requirement (default: what pip prefers)"
    )
    parser.add_argument("--probe", action="store_true", help="install no test tools and run the probe only")
    chosen = parser.parse_args()
    jobs = [Job(name, chosen.probe, chosen.torch) for name in chosen.jobs]
    for job in jobs:
        start = time.monotonic()
        print(f"{job.name}: installing", flush=True)
        try:
            job.install()
            job.check_versions()
            print(f"{job.name}: {' '.join(f'{name} {job.results[name]}' for name in SHOWN)}", flush=True)
            job.probe()
            if not chosen.probe:
                job.test()
                print(f"{job.name}: tests {job.results['tests']}", flush=True)
                job.common()
                print(f"{job.name}: transformers' common tests {job.results['common']}", flush=True)
        except Failed as error:
            print(f"{job.name}: {error}", file=sys.stderr)
            return 1
        print(f"{job.name}: passed in {time.monotonic() - start:.0f} s", flush=True)
        if not chosen.probe:
            write_table(job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
