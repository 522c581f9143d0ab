"""An answer in a file: safetensors with a JSON header, read back without any model. Knows what an answer holds, no pickle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .answer import Answer
from .capture import Tape
from .files import prompt_arrays, prompt_header, read, restored_prompt, write
from .tokens import Token

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
    PictureError
        If the file is no saved answer.
    FileNotFoundError
        If there is no such file.
    """
    header, tensors = read(path, FILE_KEY, "answer")
    taped = {name.removeprefix("tape."): tensors.pop(name) for name in list(tensors) if name.startswith("tape.")}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    token_map, images = restored_prompt(header, arrays)
    answer = Answer(
        text=header["text"],
        tokens=[_token(entry) for entry in header["tokens"]],
        images=images,
        token_map=token_map,
        parts=header["parts"],
        notes=header["notes"],
        model=header["model"],
        norms=arrays["norms"],
        tape=Tape.restore(header["tape"], taped) if header["tape"] is not None else None,
        edits=header.get("edits", ()),
        head_sets={name: [(a, b) for a, b in pairs] for name, pairs in header.get("head_sets", {}).items()},
    )
    answer._layer_means = arrays.get("layer_means")
    return answer


def _token(entry: dict[str, Any]) -> Token:
    return Token(**{**entry, "alternatives": tuple((text, int(i), float(p)) for text, i, p in entry["alternatives"])})
