"""LoRA adapters: trained beside a checkpoint, put into it when it is loaded. Knows a transformers model, no family and no prompt."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, MissingExtra, OptionError
from ..nvila.folder import local_or_snapshot, read_json
from ..nvila.limits import check_plain_files

CONFIG = "adapter_config.json"


def find_adapter(adapter: str | Path) -> Path:
    """The folder of an adapter, a local one or fetched from the hub.

    Raises
    ------
    OptionError, MissingExtra, CheckpointNotFound, CheckpointError
    """
    if not isinstance(adapter, str | Path):
        raise OptionError(f"adapter is a folder or a hub id, not {adapter!r}")
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("adapters need peft: pip install peft")
    folder = local_or_snapshot(adapter)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{adapter} has no {CONFIG}, so it is no adapter; name the folder that peft saved.")
    read_json(folder / CONFIG)
    check_plain_files(folder)
    return folder


def put_in(model: Any, folder: Path) -> None:
    """Put an adapter into a loaded model, whose modules stay where they are.

    Raises
    ------
    CheckpointError
        If it does not fit the model.
    """
    try:
        found = model.load_adapter(str(folder))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # peft has no error of its own for this, and raises many
        raise CheckpointError(
            f"the adapter {folder} does not fit this checkpoint ({' '.join(str(error).split())[:200]}); take the one that was "
            "trained on it."
        ) from error
    unknown = list(getattr(found, "unexpected_keys", ()) or ())
    missing = [name for name in getattr(found, "missing_keys", ()) or () if "lora_" in name]
    if unknown or missing:
        names = unknown or missing
        raise CheckpointError(
            f"the adapter {folder} does not fit this checkpoint: {len(names)} of its tensors have no place or are missing, such as "
            f"{names[0]}; take the one that was trained on it."
        )
    model.eval()
