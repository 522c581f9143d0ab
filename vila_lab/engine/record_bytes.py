"""A record as a JSON header and named tensors, and back, every field checked. Knows what a record holds, no file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..hooks import Tape
from ..picture import Frame
from ..tokens import Token
from ..wire import UNCHECKED, prompt_arrays, prompt_header, restored_prompt, str_of
from .said import Said

if TYPE_CHECKING:
    from .record import Record

KEY = "vila_lab"


SEEN = 64  # pixels of each side of a cell of a picture's map: no family's tower gives a token more


def packed(
    record: Record, *, pictures: bool = True, tape: bool = True, originals: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a record."""
    images = record.images if originals else as_seen(record)
    arrays = prompt_arrays(record.token_map, images if pictures else ())
    arrays["norms"] = record.norms
    if record.has_attention:
        arrays["layer_means"] = record.layer_means()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    held, tape_header = record.kept.get() if tape else None, None
    if held is not None:
        tape_header, tape_tensors = held.export()
        tensors |= {f"tape.{name}": value for name, value in tape_tensors.items()}
    header = prompt_header(record.token_map) | {
        "text": record.text,
        "tokens": [asdict(token) for token in record.tokens],
        "parts": record.parts,
        "history": [asdict(said) for said in record.history],
        "choices": record.choices,
        "frames": [frame and asdict(frame) for frame in record.frames],
        "notes": [*record.notes, *(f"picture {k}: {note}" for k, note in _left_out(record.images, images))],
        "asked": _asked(record, images),
        "written_sizes": None if originals else [image.size for image in images],
        "model": record.model,
        "edits": record.edits,
        "options": record.options,
        "head_sets": {name: [list(pair) for pair in pairs] for name, pairs in record.head_sets.items()},
        "tape": tape_header,
    }
    return header, tensors


def as_seen(record: Record) -> list[Image.Image]:
    """The pictures as fine as the model saw them, and no finer than needed for that."""
    found = []
    for k, image in enumerate(record.images):
        rows, columns = record.token_map.grid(k)
        factor = min(1.0, max(SEEN * columns / image.width, SEEN * rows / image.height))
        size = max(1, round(factor * image.width)), max(1, round(factor * image.height))
        found.append(image if factor == 1 else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
    return found


def _asked(record: Record, images: Sequence[Image.Image]) -> dict[str, Any]:
    """How it was asked, with pictures as they are written."""
    missing = dict(_left_out(record.images, images))
    if not missing:
        return record.asked
    told = [
        [*picture.notes, *([missing[k]] if k in missing else [])] for k, picture in enumerate(record.prompt.pictures, 1)
    ]
    return {**record.asked, "pictures": told}


def _left_out(originals: Sequence[Image.Image], written: Sequence[Image.Image]) -> list[tuple[int, str]]:
    """For each picture whose original is not in the file its number, from 1, and a note."""
    return [
        (
            k,
            f"saved without its original of {old.width} × {old.height} pixels, as fine as the model saw it: "
            f"{new.width} × {new.height}",
        )
        for k, (old, new) in enumerate(zip(originals, written, strict=True), 1)
        if new.size != old.size
    ]


def unpacked(
    header: Mapping[str, Any], tensors: dict[str, Tensor], images: Sequence[Image.Image] | None = None
) -> dict[str, Any]:
    """What to make the record of again; a field that is wrong raises what `vila_lab.wire.reading` names as damage."""
    taped = {name.removeprefix("tape."): tensors.pop(name) for name in list(tensors) if name.startswith("tape.")}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    token_map, images = restored_prompt(header, arrays, images)
    tape = Tape.restore(header["tape"], taped) if header["tape"] is not None else None
    tokens = [_token(entry, len(token_map)) for entry in header["tokens"]]
    if tape is not None:
        _check_tape(tape, tokens, len(token_map))
    means = None
    if "layer_means" in arrays:
        means = _checked(arrays["layer_means"], (len(tokens), None, len(token_map)), "layer_means")
    return {
        "text": str_of(header["text"]),
        "tokens": tokens,
        "images": images,
        "token_map": token_map,
        "parts": [_part(part, len(images)) for part in header["parts"]],
        "history": [_said(said, len(images)) for said in header.get("history", ())],
        "choices": {str_of(name): float(value) for name, value in header.get("choices", {}).items()},
        "frames": _frames(header.get("frames", ()), len(images)),
        "notes": [*map(str_of, header["notes"]), *([UNCHECKED] if header["unchecked"] else [])],
        "model": str_of(header["model"]),
        "norms": _checked(arrays["norms"], (None,), "norms"),
        "tape": tape,
        "asked": _told(header.get("asked") or {}, len(images)),
        "edits": [str_of(edit) for edit in header.get("edits", ())],
        "options": {str_of(name): value for name, value in (header.get("options") or {}).items()},
        "head_sets": {
            str(name): [(int(a), int(b)) for a, b in pairs] for name, pairs in header.get("head_sets", {}).items()
        },
        # Without a checksum what can be computed again is not believed.
        "layer_means": None if header["unchecked"] and tape is not None else means,
    }


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


def _told(asked: Mapping[str, Any], pictures: int) -> dict[str, Any]:
    """How it was asked; files of before do not say."""
    notes = [[str_of(note) for note in listed] for listed in asked.get("pictures", ())]
    if len(notes) not in (0, pictures):
        raise ValueError(f"it has notes on {len(notes)} of {pictures} pictures")
    return {str_of(name): value for name, value in asked.items()} | ({"pictures": notes} if notes else {})


def _frames(entries: Sequence[Mapping[str, Any] | None], pictures: int) -> list[Frame | None]:
    """Which frames the pictures are; files from before there were videos hold none."""
    if len(entries) not in (0, pictures):
        raise ValueError(f"it has {len(entries)} frames for {pictures} pictures")
    return [None if entry is None else _frame(entry) for entry in entries]


def _frame(entry: Mapping[str, Any]) -> Frame:
    seconds = entry["seconds"]
    if seconds is not None and not math.isfinite(float(seconds)):
        raise ValueError(f"a frame is shown at {seconds} s")
    return Frame(
        video=str_of(entry["video"]),
        number=int(entry["number"]),
        count=int(entry["count"]),
        seconds=None if seconds is None else float(seconds),
    )


def _said(entry: Mapping[str, Any], pictures: int) -> Said:
    parts, ids = entry["parts"], entry["ids"]
    return Said(str_of(entry["role"]), tuple(_part(part, pictures) for part in parts), tuple(int(each) for each in ids))


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
