"""The notebooks, where Sphinx finds its pages: copies beside them, made anew before it looks. Knows folders, and no notebook."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SITE = Path(__file__).parents[1]
COURSE = SITE.parent / "notebooks"
COPIES = SITE / "notebooks"


def _copy(app: Sphinx) -> None:
    shutil.rmtree(COPIES, ignore_errors=True)  # a notebook may be gone
    for source in sorted(COURSE.rglob("*.ipynb")):
        copy = COPIES / source.relative_to(COURSE)
        if ".ipynb_checkpoints" not in copy.parts:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
