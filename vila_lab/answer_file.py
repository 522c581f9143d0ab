"""An answer in a file: safetensors with a JSON header, read back without any model. Knows what an answer holds, no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .answer import Answer
from .hooks import Tape
from .tokens import Token
from .wire import UNCHECKED, prompt_arrays, prompt_header, reading, restored_prompt, str_of, write

FILE_KEY = "vila_lab"


def save_answer(answer: Answer, path: str | Path) -> Path:
    """Write everything of an answer to one file; see `Answer.save`."""
    arrays = prompt_arrays(answer.token_map, answer.images)
    arrays["norms"] = answer._norms
    if answer._tape is not None or answer._layer_means is not None:
        arrays["layer_means"] = answer.layer_means()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    tape_header = None
    if answer._tape is not None:
        tape_header, tape_tensors = answer._tape.export()
        tensors |= {f"tape.{name}": value for name, value in tape_tensors.items()}
    header = prompt_header(answer.token_map) | {
        "text": answer.text,
        "tokens": [asdict(token) for token in answer.tokens],
        "parts": answer.parts,
        "notes": answer.notes,
        "model": answer.model,
        "edits": answer.edits,
        "head_sets": {name: [list(pair) for pair in pairs] for name, pairs in answer.head_sets.items()},
        "tape": tape_header,
    }
    return write(path, FILE_KEY, header, tensors)


def open_answer(path: str | Path) -> Answer:
    """Read an answer that `Answer.save` wrote; no model is needed to look at it.

    Raises
    ------
    FileError
        If the file is no saved answer, is damaged, or was made by a newer version. Fields that are not known are passed over.
    SavedFileNotFound, FileAccessError
        If there is no such file, or it cannot be read.
    """
    with reading(path, FILE_KEY, "answer") as (header, tensors):
        return _restored(header, tensors)


def _restored(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Answer:
    taped = {name.removeprefix("tape."): tensors.pop(name) for name in list(tensors) if name.startswith("tape.")}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    token_map, images = restored_prompt(header, arrays)
    tape = Tape.restore(header["tape"], taped) if header["tape"] is not None else None
    tokens = [_token(entry, len(token_map)) for entry in header["tokens"]]
    answer = Answer(
        text=str_of(header["text"]),
        tokens=tokens,
        images=images,
        token_map=token_map,
        parts=[_part(part, len(images)) for part in header["parts"]],
        notes=[*map(str_of, header["notes"]), *([UNCHECKED] if header["unchecked"] else [])],
        model=str_of(header["model"]),
        norms=_checked(arrays["norms"], (None,), "norms"),
        tape=tape,
        edits=[str_of(edit) for edit in header.get("edits", ())],
        head_sets={
            str(name): [(int(a), int(b)) for a, b in pairs] for name, pairs in header.get("head_sets", {}).items()
        },
    )
    if tape is not None:
        _check_tape(tape, tokens, len(token_map))
    if "layer_means" in arrays:
        means = _checked(arrays["layer_means"], (len(tokens), None, len(token_map)), "layer_means")
        # Without a checksum what can be computed again is not believed.
        answer._layer_means = None if header["unchecked"] and tape is not None else means
    return answer


def _check_tape(tape: Tape, tokens: Sequence[Token], length: int) -> None:
    if tape.length > length:
        raise ValueError(f"its tape has {tape.length} columns for {length} positions")
    for token in tokens:
        tape.row_of(token.position - 1)


def _checked(array: NDArray[Any], shape: tuple[int | None, ...], name: str) -> NDArray[Any]:
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    return array


def _part(part: Any, pictures: int) -> str | int:
    if isinstance(part, str) or (type(part) is int and 0 <= part < pictures):
        return part
    raise ValueError(f"the prompt has a part {part!r}")


def _token(entry: dict[str, Any], length: int) -> Token:
    """A token of the fields that are known; a newer version may have written others."""
    position = int(entry["position"])
    if not 0 < position <= length:
        raise ValueError(f"a token stands at position {position} of {length}")
    return Token(
        text=str_of(entry["text"]),
        id=int(entry["id"]),
        logprob=float(entry["logprob"]),
        position=position,
        alternatives=tuple((str_of(text), int(i), float(p)) for text, i, p in entry["alternatives"]),
        stop=bool(entry["stop"]),
    )
