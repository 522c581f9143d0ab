"""A training run that can be ended and goes on from where it was saved. Knows no model and no data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def resume(folder: Path, parts: Mapping[str, Any]) -> int:
    """Give parts the state that `save` wrote; the step to go on with, 0 where there is none."""
    state = folder / "state.pt"
    if not state.exists():
        return 0
    saved = torch.load(state, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def save(folder: Path, step: int, parts: Mapping[str, Any]) -> None:
    """Write the state of all parts after so many steps."""
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, folder / "state.pt")


def log(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a line to ``log.jsonl``."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
