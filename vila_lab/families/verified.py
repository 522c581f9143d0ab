"""What was proven of each family, and with which versions. Knows a file that `vila_lab.families.verify` writes, and no model."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from ..versions import installed
from . import FAMILIES

if TYPE_CHECKING:
    import pandas as pd

FILE = "verified.json"


def read() -> dict[str, dict[str, Any]]:
    """What was proven, by family."""
    content = resources.files(__package__).joinpath(FILE)
    found: dict[str, dict[str, Any]] = json.loads(content.read_text(encoding="utf-8")) if content.is_file() else {}
    return found


def table() -> pd.DataFrame:
    """The families that can be loaded, a row each: whose checkpoints, by which versions, and the largest error of what was proven.

    >>> found = table()
    >>> found.loc["qwen2_5_vl", "model_class"], bool(found.loc["qwen2_5_vl", "own forward"] < 1e-4)
    ('Qwen2_5_VLForConditionalGeneration', True)
    """
    import pandas as pd

    known = read()
    rows = []
    for name in FAMILIES:
        entry = known.get(name, {})
        proven = entry.get("proven", {})
        rows.append({**{key: value for key, value in entry.items() if key != "proven"}, **proven})
    return pd.DataFrame(rows, index=pd.Index(FAMILIES, name="family"))


def note_of(name: str) -> str | None:
    """What a reader must know where a family is used with another minor version of transformers than it was proven with."""
    entry, here = read().get(name), installed("transformers")
    if entry is None or here is None:
        return f"the family {name} was not verified" if entry is None else None
    proven = str(entry["transformers"])
    if Version(proven).release[:2] == Version(here).release[:2]:
        return None
    return (
        f"{name} was verified with transformers {proven}, and {here} is installed: python -m vila_lab.families.verify with this "
        "model tells whether it holds here too"
    )
