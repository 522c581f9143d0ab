"""Links between the repository's files, made good on the site. Knows where files lie, and no page's words."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
# Where the site shows a file that lies outside of its folder.
PAGES = {
    ROOT / "CHANGELOG.md": SITE / "changes.md",
    ROOT / "CONTRIBUTING.md": SITE / "contributing.md",
    ROOT / "vila_lab" / "tiny" / "MODEL_CARD.md": SITE / "model-card.md",
}
LINK = re.compile(r"(?<=\]\()(?P<file>[^)\s:#]+)(?P<place>#[^)\s]*)?(?=\))")


def on_site(text: str, home: Path, page: Path) -> str:
    """The text of a file in the folder `home`, with links that hold on the site's `page`."""

    def moved(link: re.Match[str]) -> str:
        target, place = Path(os.path.normpath(home / link["file"])), link["place"] or ""
        target = PAGES.get(target, target)
        if target.is_relative_to(ROOT / "notebooks"):
            target = SITE / target.relative_to(ROOT)
        if not target.is_relative_to(SITE):
            return f"{REPOSITORY}/blob/HEAD/{target.relative_to(ROOT).as_posix()}{place}"
        return Path(os.path.relpath(target, page.parent)).as_posix() + place

    return LINK.sub(moved, text)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    copied = page.is_relative_to(SITE / "notebooks")
    content[0] = on_site(content[0], (ROOT / page.relative_to(SITE) if copied else page).parent, page)


def _included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:
    content[0] = on_site(content[0], (SITE / path).resolve().parent, Path(app.env.doc2path(name)))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _read)
    app.connect("include-read", _included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
