"""A model's tensors into the three folders of the layout, and their names back. Knows names and files, no model class."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from vila_lab.nvila.folder import read_json, write_json
from vila_lab.writing import make_folder

__all__ = ["TOWER_LEVEL", "model_names", "part_of", "save_tensors", "write_index"]

PARTS = {"language_model": "llm", "vision_tower": "vision_tower", "mm_projector": "mm_projector"}
TOWER_LEVEL = "vision_model."  # in the files of the tower; transformers' present class has one level less
INDEX = "model.safetensors.index.json"


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part under the names that they have in its files."""
    prefix = f"{part}."
    named = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if part != "vision_tower":
        return named
    return {TOWER_LEVEL + name.removeprefix(TOWER_LEVEL): value for name, value in named.items()}


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_size: int | str) -> None:
    """Write safetensors into a folder, in shards where they are larger."""
    make_folder(folder)
    save_torch_state_dict(dict(tensors), folder, max_shard_size=max_shard_size, metadata={"format": "pt"})


def write_index(root: Path, own: Collection[str], tied: Mapping[str, str]) -> None:
    """List the tensors of all parts in one index at the root, under the model's names.

    No reader of the layout needs it; `transformers.Trainer` looks for it before it resumes from a checkpoint.

    Parameters
    ----------
    own : collection of str
        The model's names.
    tied : mapping
        Names without a tensor of their own to those that they share.
    """
    files: dict[str, str] = {}
    size = 0
    for part, folder in PARTS.items():
        for path in _weight_files(root / folder):
            with safe_open(path, framework="pt") as file:
                files |= {_model_name(name, own, [part]): f"{folder}/{path.name}" for name in file.keys()}  # noqa: SIM118
            size += path.stat().st_size
    files |= {name: files[source] for name, source in tied.items() if name not in files and source in files}
    write_json(root / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))})


def model_names(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Tensors that were read from a part's file, under the model's names; names of the model itself stay.

    Parameters
    ----------
    own : collection of str
        The model's names.
    """
    return {_model_name(name, own, PARTS): value for name, value in state.items()}


def _model_name(name: str, own: Collection[str], parts: Iterable[str]) -> str:
    if name in own:
        return name
    return next((known for known in _possible_names(name, parts) if known in own), name)


def _possible_names(name: str, parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        yield f"{part}.{name}"
        yield f"{part}.{name.removeprefix(TOWER_LEVEL)}"


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("model*.safetensors"))
    return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
