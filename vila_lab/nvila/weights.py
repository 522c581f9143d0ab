"""The tensors of a checkpoint under one set of names, whatever the layout. Reads safetensors only; knows no model class.

The three weight folders have key names that never collide, so all layouts become one lazily read mapping with the names
``language_model.``, ``vision_tower.`` and ``mm_projector.``, which transformers' own loading takes for device maps and
quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open

from vila_lab.errors import CheckpointError
from vila_lab.nvila.folder import CheckpointFolder, read_json
from vila_lab.nvila.limits import check_plain_file, inside

PREFIXES = {"llm": "language_model", "vision_tower": "vision_tower", "mm_projector": "mm_projector"}
PICKLES = ("*.bin", "*.pt", "*.pth")
QUANTISED = (".qweight", ".qzeros", ".scaled_zeros")
PS3 = ("top_down_prompt_head", "high_res_pos_embed", "high_res_scale_embed")


class CheckpointTensors:
    """The tensors of one checkpoint, opened but not read.

    Attributes
    ----------
    slices : dict of str to safetensors slice
        By the model's parameter names.

    Raises
    ------
    CheckpointError
        There are no safetensors, a shard is missing, a file is damaged, or the checkpoint is of an unsupported kind.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self._stack = ExitStack()
        self.slices: dict[str, Any] = {}
        try:
            for name, prefix in PREFIXES.items() if folder.split else [("", "")]:
                place = getattr(folder, name) if name else folder.root
                self._open_part(place, prefix, optional=name == "mm_projector")
            self._refuse_unsupported()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> CheckpointTensors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.slices = {}
        self._stack.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(part.get_shape()) for name, part in self.slices.items()}

    @property
    def dtype(self) -> str:
        """The floating type of the language model's first tensor, as torch names it."""
        names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        for name, part in sorted(self.slices.items()):
            if name.startswith("language_model.") and part.get_dtype() in names:
                return names[part.get_dtype()]
        return "float32"

    def _open_part(self, place: Path, prefix: str, *, optional: bool) -> None:
        for path in _weight_files(place, optional=optional):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{place.name}/{path.name} is damaged ({error}); fetch the file again."
                ) from error
            for key in file.keys():  # noqa: SIM118 - the file object is no mapping
                self.slices[f"{prefix}.{key}" if prefix else _from_single_file(key)] = file.get_slice(key)

    def _refuse_unsupported(self) -> None:
        for name in self.slices:
            if name.endswith(QUANTISED):
                raise CheckpointError(
                    "AWQ checkpoints are not supported; load the unquantised checkpoint, with quantization='4bit' if memory is short."
                )
            if any(part in name for part in PS3):
                raise CheckpointError(
                    "PS3 checkpoints (high-resolution selection) are not supported; use a checkpoint without PS3."
                )


def _from_single_file(key: str) -> str:
    return f"language_model.{key[4:]}" if key.startswith("llm.") else key.removeprefix("model.")


def _weight_files(place: Path, *, optional: bool) -> list[Path]:
    index = place / "model.safetensors.index.json"
    if index.is_file():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise CheckpointError(f"{place.name}/{index.name} holds no weight_map of file names; fetch the file again.")
        names = sorted(set(table.values()))
        for name in names:
            inside(place, name, f"{place.name}/{index.name}")
            check_plain_file(place / name)
        if missing := [name for name in names if not (place / name).is_file()]:
            raise CheckpointError(
                f"The checkpoint lacks {place.name}/{missing[0]}, which its index names; fetch that file."
            )
        return [place / name for name in names]
    if files := sorted(place.glob("*.safetensors")):
        return files
    if any(file for pattern in PICKLES for file in place.glob(pattern)):
        raise CheckpointError(
            f"{place.name}/ holds pickle weights, which can run code when they are read; convert them to safetensors first."
        )
    if optional:
        return []
    raise CheckpointError(f"The checkpoint has no weights in {place.name}/; copy its safetensors files there.")


def match_names(
    expected: Mapping[str, tuple[int, ...]], slices: Mapping[str, Any], tied: Mapping[str, str]
) -> dict[str, Any]:
    """Pick the tensors a model needs, under the model's names, and check that all are there in the right shape.

    Parameters
    ----------
    expected : mapping
        Parameter name to shape.
    slices : mapping
        From `CheckpointTensors`.
    tied : mapping
        Parameters that may be absent because they share another's tensor.

    Raises
    ------
    CheckpointError
        Names the first tensor that is missing or has another shape.
    """
    found: dict[str, Any] = {}
    for name, shape in expected.items():
        part = slices.get(name)
        if part is None:  # the tower's files have one more level than transformers' present class
            part = slices.get(name.replace("vision_tower.", "vision_tower.vision_model.", 1))
        if part is None:
            if name in tied and tied[name] in expected:
                continue
            raise CheckpointError(f"The checkpoint lacks the tensor {name}; it is incomplete or of another model.")
        if tuple(part.get_shape()) != shape:
            raise CheckpointError(
                f"The tensor {name} has shape {tuple(part.get_shape())} where the configuration asks for {shape}."
            )
        found[name] = part
    return found
