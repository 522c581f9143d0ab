"""Runs transformers' own common tests on the family's model, processor and image processor.

    python .ci/common_tests.py [arguments of pytest]

The tests are those of the installed version: its source distribution is fetched with pip and unpacked under build/, which
git ignores. `.ci/common/` says what is tested (`test_nvila.py`) and which tests are exempt and why (`exemptions.py`). A test
that fails and is not exempt fails the run, and so does an exempt one that passes. The last line that is printed holds the
counts.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMON = Path(__file__).parent / "common"
NEEDED = ("parameterized", "pytest")

# What the common tests import and the source distribution does not hold. The generation checks stand in tests/nvila.
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def main(arguments: list[str]) -> int:
    place = ROOT / "build" / "transformers-common" / version("transformers")
    if not (place / "transformers_tests" / "test_modeling_common.py").is_file():
        fetch(place)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    packages = place / "packages"
    if missing and not packages.is_dir():
        pip("install", "--target", str(packages), "--no-deps", *missing)
    paths = [str(ROOT), str(place), str(packages), str(COMMON), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    options = ["-q", "-c", str(COMMON / "pytest.ini"), "-p", "exempting", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(COMMON / "test_nvila.py"), *arguments],
        cwd=COMMON,
        env=environment,
    )
    return run.returncode


def fetch(place: Path) -> None:
    """Unpack the tests of the installed transformers."""
    name = f"transformers-{version('transformers')}"
    pip("download", "--no-deps", "--no-binary", "transformers", "--dest", str(place), name.replace("-", "==", 1))
    archive = next(place.glob("transformers-*.tar.gz"))
    target = place / "transformers_tests"
    with tarfile.open(archive) as packed:
        for member in packed:
            path = Path(member.name)
            if member.isfile() and path.parts[1:2] == ("tests",) and len(path.parts) == 3:
                content = packed.extractfile(member)
                assert content is not None
                write(target / path.name, content.read().decode("utf-8"))
    for path, text in STUBS.items():
        write(target / path, text)
    archive.unlink()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]],
        check=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
