"""The repository's address: pyproject.toml's `Repository` decides, ``python .ci/address.py`` writes it wherever else it stands.

Knows text files and one address, no host: what stands behind the address there (``/blob/HEAD/...``) is left as it is.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
PLACES = (
    "*.md", "*.toml", "CITATION.cff", "binder/*", ".github/ISSUE_TEMPLATE/*", "docs/**/*.md", "docs/**/*.py", "notebooks/**/*.ipynb",
)  # fmt: skip
CLONED = re.compile(r"(?m)^git clone (\S+)")


def address(root: Path = ROOT) -> str:
    """What pyproject.toml says."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"]).rstrip("/")


def written(root: Path = ROOT) -> str:
    """What the other files say: the README's line to clone."""
    found = CLONED.search((root / "README.md").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("README.md has no line that begins with git clone")
    return found[1]


def owner_and_name(url: str) -> str:
    """How badges write it, without the host."""
    return urlsplit(url).path.strip("/")


def files(root: Path = ROOT) -> Iterator[Path]:
    """Every file in which an address may stand."""
    for place in PLACES:
        yield from sorted(
            path for path in root.glob(place) if path.is_file() and ".ipynb_checkpoints" not in path.parts
        )


def write(root: Path = ROOT) -> list[Path]:
    """Put the address of pyproject.toml in place of the old one; returns the files that were changed."""
    old, new = written(root), address(root)
    changed = []
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        replaced = text.replace(old, new).replace(owner_and_name(old), owner_and_name(new))
        if replaced != text:
            path.write_text(replaced, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path.relative_to(ROOT)}\n" for path in write()))
