"""Where a checkpoint lies and which layout it has. Knows file names and JSON, nothing of tensors or tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_lab.errors import CheckpointError, CheckpointNotFound
from vila_lab.nvila.limits import LARGEST_JSON, check_plain_file, check_plain_files, inside
from vila_lab.progress import progress
from vila_lab.writing import make_folder, write_file

MODEL_TYPES = ("llava_llama", "vila", "nvila", "nvila_lite")
CONFIG_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
PARTS = ("llm", "vision_tower", "mm_projector")
WEIGHT_FILES = ("*.safetensors",)


@dataclass(frozen=True)
class CheckpointFolder:
    """The places inside one checkpoint folder.

    Attributes
    ----------
    root : Path
        The folder that holds ``config.json`` (already stepped into ``model/`` where a training run left it there).
    config : dict
        The content of ``config.json``, unchanged.
    split : bool
        True for the three-folder layout (``llm/``, ``vision_tower/``, ``mm_projector/``), False for one set of files.
    """

    root: Path
    config: dict[str, Any]
    split: bool

    @property
    def llm(self) -> Path:
        return self.part("llm", "llm_cfg")

    @property
    def vision_tower(self) -> Path:
        return self.part("vision_tower", "vision_tower_cfg")

    @property
    def mm_projector(self) -> Path:
        return self.part("mm_projector", "mm_projector_cfg")

    def part(self, name: str, key: str) -> Path:
        """The folder of one part: its own sub-folder, the folder that a string in the root config names, or the root."""
        if not self.split:
            return self.root
        named = self.config.get(key)
        if (self.root / name).is_dir() or not isinstance(named, str):
            return self.root / name
        return inside(self.root, named, f"{key} in config.json")


def find_checkpoint(source: str | Path, *, revision: str | None = None, weights: bool = True) -> CheckpointFolder:
    """Turn a folder or a hub id into the places of a checkpoint.

    Parameters
    ----------
    source : str or Path
        A local folder, or ``owner/name`` on the hub.
    revision : str, optional
        Branch, tag or commit on the hub.
    weights : bool
        False fetches only the small files from the hub.

    Raises
    ------
    CheckpointNotFound
        Nothing is there, or the hub cannot be reached and the files are not in its cache.
    CheckpointError
        Something is there, but it is no NVILA checkpoint.
    """
    root = find_root(source, revision=revision, weights=weights)
    config = read_json(root / "config.json")
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(f"{source} has model type {model_type!r}; this loader reads {', '.join(MODEL_TYPES)}.")
    for folder in (root, *(root / name for name in PARTS)):
        check_plain_files(folder)
    has_parts = (root / "llm").is_dir() or any(
        isinstance(config.get(key), str) for key in ("llm_cfg", "vision_tower_cfg")
    )
    return CheckpointFolder(root, config, split=has_parts)


def find_root(source: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """The folder with a checkpoint's ``config.json``, of whatever family; parameters and errors as in `find_checkpoint`."""
    root = local_or_snapshot(source, revision=revision, weights=weights)
    if not (root / "config.json").is_file() and (root / "model" / "config.json").is_file():
        root = root / "model"
    if not (root / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json, so it is no checkpoint; name the folder that holds it.")
    return root


def local_or_snapshot(source: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """A folder that is here, or one fetched from the hub; parameters and errors as in `find_checkpoint`."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{source} is a file; name the folder of the checkpoint instead.")
    if not _looks_like_hub_id(source):
        raise CheckpointNotFound(
            f"There is no checkpoint folder {source}; give an existing folder or a hub id such as owner/name."
        )
    return _snapshot(str(source), revision, weights)


def _looks_like_hub_id(source: str | Path) -> bool:
    text = str(source)
    return (
        isinstance(source, str)
        and text.count("/") == 1
        and not text.startswith((".", "/", "~", "-"))
        and not text.endswith("/")
    )


def _snapshot(repo_id: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*CONFIG_FILES, *(WEIGHT_FILES if weights else ())]
    try:
        with progress(None, "files", f"fetching {repo_id}") as count:
            heard = count.listener()
            return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, tqdm_class=heard))
    except RevisionNotFoundError as error:
        raise CheckpointNotFound(f"{repo_id} has no revision {revision!r} on the hub; name one that it has.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointNotFound(
            f"{repo_id} is neither a folder here nor a repository you can read on the hub."
        ) from error
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointNotFound(
            f"{repo_id} is not a folder here, and the hub cannot be reached to fetch it; give a local folder or go online."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; an unreadable file becomes a `CheckpointError` that names it."""
    check_plain_file(path, LARGEST_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The checkpoint lacks {path.parent.name}/{path.name}; copy it from where the checkpoint came from."
        ) from error
    except RecursionError:
        raise CheckpointError(f"{path.parent.name}/{path.name} is nested too deep; fetch the file again.") from None
    except OSError as error:
        raise CheckpointError(f"{path.parent.name}/{path.name} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of more digits than Python reads
        raise CheckpointError(
            f"{path.parent.name}/{path.name} is not valid JSON ({error}); fetch the file again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} should hold a JSON object; fetch the file again.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    make_folder(path.parent)
    write_file(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
