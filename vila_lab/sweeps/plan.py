"""Plan: what a sweep does with every question, and the key that a question has under it. Knows no store and no engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..attribution import methods as attribution_methods
from ..errors import OptionError, VilaLabError
from ..inputs.decoding import HowRead
from ..inputs.naming import Text
from ..options import nearest
from ..picture import Picture
from .row import Row

__all__ = ["Plan", "key_of", "weights_of"]

SAMPLED = 16  # numbers of a tensor that stand for all of it
OWN = ("ledger", "evidence")


@dataclass(frozen=True)
class Plan:
    """What is the same for all questions of a run.

    Attributes
    ----------
    model : str
        Name of the model.
    weights : str
        What tells its weights from others; see `weights_of`.
    methods : tuple of str
        "ledger", "evidence" and names in `vila_lab.methods`.
    options : dict
        Of `Session.ask_many`.
    records : bool
        Whether answers are kept whole, so that they can be opened.
    originals : bool
        Whether they are kept with their pictures as they came, and not only as fine as the model saw them.
    edits : tuple of str
        The edits under which answers are given, in words.
    """

    model: str
    weights: str
    methods: tuple[str, ...] = ("ledger",)
    options: Mapping[str, Any] = field(default_factory=dict)
    records: bool = True
    originals: bool = True
    edits: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """A name of all of it, the same for the same plan."""
        return _digest(asdict(self))[:16]

    @property
    def reading(self) -> HowRead:
        """How pictures are read."""
        return HowRead(self.options.get("apply_exif", False), self.options.get("background"))


def methods_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Methods as they were named, in a list or with commas between.

    Raises
    ------
    OptionError
        For one that is unknown; the message proposes the nearest.
    """
    listed = given.split(",") if isinstance(given, str) else list(given)
    names = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    known = (*OWN, *attribution_methods().index)
    for name in names:
        if name not in known:
            raise OptionError(f"a sweep has no method {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    return names


def key_of(row: Row, plan: Plan) -> str:
    """sha256 of all that an answer depends on: the plan, the texts, the pictures' bytes, and the row's id.

    A picture behind a web address is known by that, so that it is not fetched to find that it was asked about.
    """
    return _digest([plan.run, row.id, list(_identities(row.parts)) or row.question])


def asked_of(row: Row) -> str:
    """sha256 of a row as its table says it, whatever lies behind the names of its pictures: the same once a picture was mended."""
    return _digest([row.id, row.question, row.named])


def _identities(parts: Sequence[Any]) -> Iterator[list[str]]:
    for part in parts:
        if isinstance(part, Text):
            yield ["text", part]
        elif isinstance(part, str):
            yield ["address", part]
        elif isinstance(part, bytes):
            yield ["file", hashlib.sha256(part).hexdigest()]
        elif isinstance(part, Path):
            yield ["file", _digest_of_file(part)]
        else:
            yield ["pixels", _digest_of_pixels(part)]


def _digest_of_pixels(source: Any) -> str:
    try:
        return Picture.of(source).digest
    except VilaLabError:  # asking it will say why
        return f"unreadable {type(source).__name__}"


def _digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def weights_of(model: nn.Module) -> str:
    """What tells a model's weights from others: names, shapes and types of all tensors, and some numbers of each.

    >>> weights_of(nn.Linear(2, 2)) == weights_of(nn.Linear(2, 2))
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        if tensor.is_meta:  # of a model larger than its devices this part lies elsewhere
            continue
        flat = tensor.detach().reshape(-1)
        places = torch.from_numpy(np.linspace(0, max(flat.numel() - 1, 0), min(SAMPLED, flat.numel())).astype(np.int64))
        some = flat[places.to(flat.device)].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes() if some.numel() else b"")
    return digest.hexdigest()[:16]
