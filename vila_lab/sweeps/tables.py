"""Rows of questions from wherever they lie: JSON lines, CSV, Parquet, a dataset, a folder of pictures, a list. Knows no model.

What is long is read a piece at a time.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError, MissingExtra, OptionError, SavedFileNotFound
from ..inputs.sources import expanded, reason

__all__ = ["Table"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PLACES = {"id": r"(?P<id>.+?)", "n": r"(?P<n>\d+)", "*": ".*"}


@dataclass(frozen=True)
class Table:
    """Rows, each a mapping from names of columns to cells.

    Attributes
    ----------
    source : object
        A file, a folder, or an iterable of mappings; a table of pandas or a dataset is one.
    pattern : str
        Of a folder of pictures: how their names are made, "{id}_{n}.png"; pictures of one id are a row, ordered by n.
    question : str
        What is asked of a folder's pictures.

    Examples
    --------
    >>> list(Table([{"question": "Why?"}]))
    [{'question': 'Why?'}]
    """

    source: Any
    pattern: str = ""
    question: str = ""

    @property
    def folder(self) -> Path | None:
        """Where pictures with a relative name lie: beside the file, in the folder; None for rows that are given."""
        if not isinstance(self.source, str | Path):
            return None
        path = expanded(str(self.source))
        return path if path.is_dir() else path.parent

    @property
    def name(self) -> str:
        """What was asked, in words."""
        return str(self.source) if isinstance(self.source, str | Path) else f"a {type(self.source).__name__} of rows"

    @property
    def count(self) -> int | None:
        """How many rows there are, where that is known without reading them all."""
        if not isinstance(self.source, str | Path):
            return len(self.source) if hasattr(self.source, "__len__") else None
        path = expanded(str(self.source))
        if path.suffix.lower() in (".jsonl", ".ndjson") and path.is_file():
            with path.open("rb") as lines:
                return sum(bool(line.strip()) for line in lines)
        if path.suffix.lower() == ".parquet" and path.is_file():
            with opened(path) as file:
                return int(file.metadata.num_rows)
        return None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        if not isinstance(self.source, str | Path):
            yield from _given(self.source)
            return
        path = expanded(str(self.source))
        if not path.exists():
            raise SavedFileNotFound(
                f"there is no file or folder {str(self.source)!r} with questions; check its spelling"
            )
        if path.is_dir():
            yield from self._of_folder(path)
            return
        readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".json": _json}
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(f"questions in {path.name!r} cannot be read; give one of {', '.join(SUFFIXES)}")
        yield from readers.get(path.suffix.lower(), _json_lines)(path)

    def _of_folder(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            yield from _dataset(folder)
            return
        parts = sorted(folder.glob("*.parquet"))
        if parts and not self.pattern:
            for part in parts:
                yield from _parquet(part)
            return
        if not self.question:
            raise OptionError(f"{str(folder)!r} is a folder of pictures: say what to ask of them (question=)")
        for name, files in _grouped(folder, self.pattern).items():
            yield {"id": name, "images": [str(file.relative_to(folder)) for file in files], "question": self.question}


def _grouped(folder: Path, pattern: str) -> dict[str, list[Path]]:
    """The pictures of a folder by the id in their names, in order; each by itself without a pattern."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    if not pattern:
        return {file.relative_to(folder).as_posix(): [file] for file in files}
    if "{id}" not in pattern:
        raise OptionError(f"a pattern says where a name holds the id, as in {{id}}_{{n}}.png; {pattern!r} does not")
    pieces = re.split(r"\{(id|n)\}|(\*)", pattern)
    shape = "".join(PLACES[piece] if piece in PLACES else re.escape(piece or "") for piece in pieces)
    found: dict[str, list[tuple[int, str, Path]]] = {}
    for file in files:
        if match := re.fullmatch(shape, file.relative_to(folder).as_posix()):
            place = match.groupdict()
            found.setdefault(place["id"], []).append((int(place.get("n") or 0), file.name, file))
    if not found:
        raise OptionError(
            f"no picture in {str(folder)!r} has a name like {pattern!r}; the first of {len(files)} is "
            + (files[0].name if files else "none")
        )
    return {name: [file for _, _, file in sorted(each)] for name, each in sorted(found.items())}


def _given(source: Any) -> Iterator[Mapping[str, Any]]:
    """Rows that are in memory."""
    if hasattr(source, "to_dict") and hasattr(source, "iloc"):  # a table of pandas
        source = source.to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise OptionError(f"questions come as a file, a folder or a list of rows, not as {type(source).__name__}")
    for number, cells in enumerate(source):
        if not isinstance(cells, Mapping):
            raise OptionError(
                f"row {number + 1} is a {type(cells).__name__}; give a mapping: {{'images': [...], 'question': ...}}"
            )
        yield cells


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _object(line, f"line {number} of {path.name}")


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise FileError(f"{where} is no JSON ({error}); mend the file") from error
    if not isinstance(found, dict):
        raise FileError(f"{where} is a {type(found).__name__} where an object was expected; mend the file")
    return found


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise FileError(f"{path.name} is no JSON ({error}); mend the file, or name it .jsonl") from error
    if isinstance(found, dict):  # by id, or under one name
        lists = [value for value in found.values() if isinstance(value, list)]
        found = (
            lists[0]
            if len(lists) == 1
            else [{"id": name, **cells} for name, cells in found.items() if isinstance(cells, dict)]
        )
    yield from _given(found)


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        csv.field_size_limit(2**31 - 1)  # a cell may hold a picture
        yield from csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A Parquet file.

    Raises
    ------
    MissingExtra
        Without pyarrow.
    FileError
        If it is none, or is damaged.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra('Parquet files need pyarrow: pip install "vila-lab[sweep]"') from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError) as error:
        raise FileError(f"{path.name} cannot be read as Parquet ({reason(error)}); write it again") from error


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with opened(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


def _dataset(folder: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra('a dataset on disk needs datasets: pip install "vila-lab[sweep]"') from error
    found = datasets.load_from_disk(str(folder))
    for split in found.values() if isinstance(found, datasets.DatasetDict) else [found]:
        kinds = {name: kind for name, kind in split.features.items()}
        for name, kind in kinds.items():
            if isinstance(kind, datasets.Image):
                split = split.cast_column(name, datasets.Image(decode=False))  # the file as it came
        yield from split
