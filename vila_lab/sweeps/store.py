"""Store: a folder of immutable parts, each whole or not there. Knows tables, arrays and bytes; no question and no model.

A batch is three files of one name: what was asked and said (``part-NAME.parquet``), its tokens (``tokens-NAME.parquet``), and its
maps and whole answers (``part-NAME.safetensors``). The first is written last, so that it stands for all three. Whoever is killed in
between leaves files that nobody reads. The folder may be any place that fsspec knows, such as ``s3://...``.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from ..errors import FileAccessError, FileError, MissingExtra, SavedFileNotFound
from ..inputs.sources import expanded, reason
from ..writing import make_folder, write_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Store"]

QUESTIONS, TOKENS = "part", "tokens"
COMPACTED = {QUESTIONS: "questions.parquet", TOKENS: "tokens.parquet"}
READERS = 8  # files read side by side: a place behind a network answers each after a while
COVERS = b"vila_lab_parts"  # in the metadata of what was compacted: the parts that it stands for
TEXTS, NUMBERS = ("images", "options", "notes"), ("rests_on",)  # columns of lists that hold no measurements


def arrow() -> Any:
    """The module pyarrow.

    Raises
    ------
    MissingExtra
        If it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra('sweeps need pyarrow: pip install "vila-lab[sweep]"') from error
    return pyarrow


class Store:
    """The parts of a sweep.

    Parameters
    ----------
    place
        A folder, or an address that fsspec knows.
    new
        Whether to make the folder where it is not there.

    Raises
    ------
    SavedFileNotFound
        If there is no such folder, and none is made.
    FileAccessError
        If it cannot be made.

    Examples
    --------
    >>> import pyarrow as pa
    >>> store = Store("memory://an example", new=True)
    >>> store.write("a", pa.table({"key": ["k"]}), pa.table({"key": ["k"], "token": [0]}), {"k/record": np.zeros(3, np.uint8)})
    >>> store.names(), store.table("part").num_rows, store.arrays("a", ["k/record"])["k/record"].size
    (['a'], 1, 3)
    """

    def __init__(self, place: str | Path, *, new: bool = False) -> None:
        self.place = str(place)
        try:
            self.files, self.root = fsspec.core.url_to_fs(
                str(expanded(self.place)) if "://" not in self.place else self.place
            )
        except (ImportError, ValueError) as error:
            raise FileAccessError(f"{self.place!r} is no place that can be written ({reason(error)})") from error
        if new and self.is_local:
            make_folder(self.root)
        elif new:
            self.files.makedirs(self.root, exist_ok=True)
        elif not self.files.isdir(self.root):
            raise SavedFileNotFound(f"there is no folder {self.place!r} with a sweep; check its spelling")

    @property
    def is_local(self) -> bool:
        """Whether its files are this machine's."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def path(self, name: str) -> str:
        """Where a file of that name lies."""
        return posixpath.join(self.root, name)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def write(self, name: str, questions: pa.Table, tokens: pa.Table, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a part; the same name replaces it as a whole.

        Raises
        ------
        FileAccessError
            If it cannot be written; nothing of it stands then.
        """
        if arrays:
            self.put(
                f"{QUESTIONS}-{name}.safetensors",
                save({key: np.ascontiguousarray(each) for key, each in arrays.items()}),
            )
        self.put(f"{TOKENS}-{name}.parquet", parquet_bytes(tokens))
        self.put(f"{QUESTIONS}-{name}.parquet", parquet_bytes(questions))

    def put(self, name: str, data: bytes) -> None:
        """Write a file beside its place and rename it there; an object store does the same by itself."""
        if self.is_local:
            write_file(self.path(name), data)
            return
        try:
            self.files.pipe_file(self.path(name), data)
        except OSError as error:
            raise FileAccessError(f"{name!r} cannot be written to {self.place!r} ({reason(error)})") from error

    # ---- reading -----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The parts that are there, in the order of their names."""
        return sorted(map(_part_of, self.files.glob(self.path(f"{QUESTIONS}-*.parquet"))))

    def table(self, kind: str, columns: Sequence[str] | None = None, names: Sequence[str] | None = None) -> pa.Table:
        """The tables of all parts, one below the other.

        Parameters
        ----------
        kind
            "part" or "tokens".
        columns
            Those to read; by default all.
        names
            Of parts; by default all.
        """
        pa = arrow()
        found, covered = self._compacted(kind, columns) if names is None else ([], frozenset())
        wanted = [name for name in (self.names() if names is None else names) if name not in covered]
        with ThreadPoolExecutor(READERS) as pool:
            found += pool.map(lambda name: self._read(f"{kind}-{name}.parquet", columns), wanted)
        if not found:
            return pa.table({name: [] for name in columns or ()})
        return pa.concat_tables(found, promote_options="permissive")

    def _compacted(self, kind: str, columns: Sequence[str] | None) -> tuple[list[pa.Table], frozenset[str]]:
        """What was written as one, and the parts that need not be read beside it."""
        if not self.has(COMPACTED[kind]):
            return [], frozenset()
        table = self._read(COMPACTED[kind], columns)
        return [table.replace_schema_metadata()], frozenset(
            json.loads((table.schema.metadata or {}).get(COVERS, b"[]"))
        )

    def write_compacted(self, kind: str) -> str:
        """Write the tables of all parts as one; returns where.

        A part without an answer may be written again, under its name, once its questions were mended; so it is read again.
        """
        names = self.names()
        table = self.table(kind, names=names)
        answered = [name for name in names if self.table(QUESTIONS, ["error"], [name])["error"].null_count]
        told = {**(table.schema.metadata or {}), COVERS: json.dumps(answered).encode()}
        self.put(COMPACTED[kind], parquet_bytes(table.replace_schema_metadata(told)))
        return self.path(COMPACTED[kind])

    def _read(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        with self._undamaged(name), self.files.open(self.path(name), "rb") as file:
            source = arrow().parquet.ParquetFile(file)
            there = None if columns is None else [each for each in columns if each in source.schema_arrow.names]
            return source.read(columns=there)

    @contextmanager
    def _undamaged(self, name: str) -> Iterator[None]:
        """What reading a file raises, as one sentence."""
        try:
            yield
        except (OSError, ValueError, SafetensorError) as error:
            # Of a batch's three files this one says that it was asked.
            stands = name if name in COMPACTED.values() else f"{QUESTIONS}-{_part_of(name)}.parquet"
            raise FileError(
                f"{name!r} in {self.place!r} is damaged ({reason(error)}); delete {stands!r} and run the sweep again"
            ) from error

    def arrays(self, name: str, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Some arrays of a part; of a local file no others are read.

        Raises
        ------
        KeyError
            If the part has none of that name.
        FileError
            If the file is damaged.
        """
        file = f"{QUESTIONS}-{name}.safetensors"
        if not self.has(file):
            raise KeyError(keys[0] if keys else name)
        with self._undamaged(file):
            if not self.is_local:
                found = load(self.get(file))
                return {key: found[key] for key in keys}
            with safe_open(self.path(file), "np") as source:
                there = set(source.keys())
                if missing := [key for key in keys if key not in there]:
                    raise KeyError(missing[0])
                return {key: source.get_tensor(key) for key in keys}

    def shapes(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Part, name and shape of every array there is; only the files' headers are read."""
        names = self.names()
        with ThreadPoolExecutor(READERS) as pool:
            for name, shapes in zip(names, pool.map(self._shapes, names), strict=True):
                yield from ((name, array, shape) for array, shape in shapes.items())

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        name = f"{QUESTIONS}-{name}.safetensors"
        if not self.has(name):
            return {}
        with self._undamaged(name), self.files.open(self.path(name), "rb") as file:
            # the format: 8 bytes of a length, and as many bytes of JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {key: tuple(told["shape"]) for key, told in sorted(header.items()) if key != "__metadata__"}

    def manifests(self) -> Iterator[dict[str, Any]]:
        """What is known of each run, the oldest first."""
        found = [json.loads(self.files.cat_file(path)) for path in self.files.glob(self.path("run-*.json"))]
        yield from sorted(found, key=lambda each: str(each.get("started")))

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return bool(self.files.exists(self.path(name)))

    def get(self, name: str) -> bytes:
        """The bytes of a file."""
        return bytes(self.files.cat_file(self.path(name)))


def _part_of(file: str) -> str:
    """The part that a file is of, by its name."""
    return posixpath.basename(file).partition("-")[2].partition(".")[0]


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table; every list is one of one type, so that tables of all parts fit together.

    >>> table_of([{"key": "a", "shares": [0.5]}, {"key": "b", "n": 1}]).to_pylist()
    [{'key': 'a', 'shares': [0.5], 'n': None}, {'key': 'b', 'shares': None, 'n': 1}]
    """
    pa = arrow()
    names = dict.fromkeys(["key", *(name for row in rows for name in row)])
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({name: pa.array(values, _type_of(name, values)) for name, values in columns.items()})


def _type_of(name: str, values: Sequence[Any]) -> Any:
    pa = arrow()
    if name in TEXTS:
        return pa.list_(pa.string())
    if name in NUMBERS:
        return pa.list_(pa.int64())
    one = next((value for value in values if value is not None), None)
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), list: pa.list_(pa.float64()), str: pa.string()}
    return pa.null() if one is None and name != "key" else kinds[str if one is None else type(one)]


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    arrow().parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
