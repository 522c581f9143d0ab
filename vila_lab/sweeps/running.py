"""Sweep: asks many questions, once each, and can be stopped and gone on with at any time. Knows tables, workers and engines.

Every batch is a part of its own in the folder, named by what was asked; what has a part is not asked again. So it does not matter
who was killed when: the same call goes on where it ended.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack, get_args

from ..engine.request import Request, limits_of
from ..engine.sampling import Sampling
from ..errors import OptionError, SweepStopped
from ..families.options import FamilyOptions
from ..inputs.decoding import Colour, HowRead
from ..options import check_range, given, nearest
from ..progress import Count, progress, told_to
from ..prompt import Prompt
from ..resident import load
from ..session import Session
from ..versions import installed
from .columns import Columns
from .opened import Sweep
from .plan import Plan, key_of, methods_of
from .ray_pool import Cluster, Pool
from .row import Row, row_of
from .store import Store
from .tables import Table
from .worker import Done, Keyed, Worker, about

__all__ = ["sweep"]

Engine: TypeAlias = Literal["loop", "ray"]
BATCH = 16  # questions of a part: as many are asked twice at most, after a kill
MADE_WITH = ("vila-lab", "torch", "transformers", "numpy", "pillow", "pyarrow")


def sweep(
    source: Any,
    out: str | Path,
    *,
    lab: Session | None = None,
    model: str | Path | None = None,
    loading: Mapping[str, Any] | None = None,
    methods: str | Sequence[str] = "ledger",
    columns: Columns | Mapping[str, Any] | str | Path | None = None,
    pattern: str = "",
    question: str = "",
    shard: str | tuple[int, int] | None = None,
    limit: int | None = None,
    batch_size: int = BATCH,
    max_errors: int | None = None,
    records: bool = True,
    originals: bool = True,
    engine: Engine = "loop",
    workers: int = 1,
    gpus: float | None = None,
    ray_address: str | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    logprobs: int | None = None,
    response_format: Any = None,
    apply_exif: bool = False,
    background: Colour | None = None,
    **options: Unpack[FamilyOptions],
) -> Sweep:
    """Ask many questions, and keep what was said and where it came from; the same call again goes on where it ended.

    Parameters
    ----------
    source
        A file (JSON lines, JSON, CSV, Parquet), a dataset of Hugging Face on disk, a folder of pictures, a table of pandas, or any
        rows: mappings with ``images``, ``question`` and what else there is. A picture is a path, bytes, an address or an image. A
        text is split at ``<image>``, where the next picture stands; without that pictures come first.
    out
        A folder, or an address that fsspec knows: every batch becomes a part there, whole as soon as it was asked.
    lab, model, loading
        A session; or what to load, as `vila_lab.load` takes it, with options of it in `loading`. By default the embedded model.
    methods
        What is computed of each answer, in a list or with commas between: "ledger" (attention to each picture), "evidence" (a
        verdict), and names in `vila_lab.methods`.
    columns
        Which columns hold what (`vila_lab.sweeps.columns.Columns`), or a JSON file of it; by default they are found by the names
        that benchmarks use.
    pattern, question
        Of a folder of pictures: how their names are made, ``"{id}_{n}.png"``, and what to ask of the pictures of each id.
    shard
        "1/4" asks every fourth question, from the first: one of four calls on four machines, into the same folder.
    limit
        So many of the first questions alone.
    batch_size
        Questions of a part. As many are asked again at most, after a kill.
    max_errors
        How many questions may fail.
    records
        Whether answers are kept whole, so that ``sweep[key]`` opens them.
    originals
        False keeps their pictures only as fine as the model saw them: photographs of a telephone are most of a sweep's bytes.
    engine
        "loop": one batch after the other, here. "ray": by workers of Ray, which load the model by themselves.
    workers, gpus, ray_address
        Of Ray: how many workers, GPUs of each (0.5 puts two on one; by default one where there are any), and the address of a
        cluster that runs already.
    max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, background, options
        As in `Session.ask`, for every question.

    Other Parameters
    ----------------
    conv_mode, tile_all_images, tile_first, image_aspect_ratio, generation_config, picture_order
        As in `Session.ask`.

    Returns
    -------
    Sweep
        A question that failed is a row with its error.

    Raises
    ------
    OptionError
        If something cannot be as it is said, before anything is asked.
    SweepStopped
        If more questions failed than `max_errors`; its ``sweep`` is what was asked until then.
    MissingExtra
        Without the extra ``sweep``.
    RayError
        If Ray cannot be started or reached.

    Examples
    --------
    >>> import tempfile, vila_lab
    >>> g, m = (str(vila_lab.demo_images() / name) for name in ("g.png", "m.png"))
    >>> rows = [{"id": "a", "images": [g, m], "question": "What is in image 2?", "answer": "Microsoft"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = vila_lab.sweep(rows, folder, methods="ledger,leave_one_out").frame()
    >>> frame["id"][0], frame["answer"][0], frame["right"][0], int(frame["leave_one_out_picture"][0])
    ('a', 'Microsoft.', True, 2)
    """
    check_range("batch_size", batch_size, least=1)
    check_range("workers", workers, least=1)
    check_range("limit", limit, least=0)
    check_range("max_errors", max_errors, least=0)
    if engine not in get_args(Engine):
        raise OptionError(
            f"engine {engine!r} is unknown{nearest(engine, get_args(Engine))}; choose one of {', '.join(get_args(Engine))}"
        )
    if lab is not None and (engine == "ray" or model is not None or loading):
        raise OptionError(
            "a session asks by itself: give lab= alone, or model= and loading= without it, as workers of Ray need them"
        )
    part, parts = shard_of(shard)
    chosen = methods_of(methods)
    table = Table(source, pattern, question)
    rows = _rows(table, Columns.of(columns))
    # What no question could be asked with is told now, and not as every row's error.
    sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
    Request(Prompt.of("?"), None, sampling, **limits_of(max_new_tokens, stop, logprobs, response_format))
    HowRead(apply_exif, background)
    asked = given(
        max_new_tokens=max_new_tokens, do_sample=do_sample or None, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        seed=seed, stop=stop, logprobs=logprobs, response_format=response_format, apply_exif=apply_exif or None, background=background,
    )  # fmt: skip
    store = Store(out, new=True)
    load_options = {"source": model, **(loading or {})}
    cluster = Cluster(workers, gpus, ray_address)
    with _asking(engine, lab, load_options, cluster) as asker:
        plan = Plan(*asker.about(options), chosen, {**asked, **options}, records, originals, asker.edits)
        write_manifest(store, plan, table)
        mine = (row for row in islice(rows, limit) if row.number % parts == part)
        errors: list[str] = []
        with progress(_expected(table, limit, part, parts), "questions", "sweeping") as bar:
            for batch, done in asker.run(plan, store, _batches(mine, plan, store, batch_size, bar)):
                bar.update(len(batch))
                errors += done.errors.values()
                if max_errors is not None and len(errors) > max_errors:
                    raise SweepStopped(
                        f"{len(errors)} of {bar.done} questions failed, more than max_errors={max_errors} allows; the last: {errors[-1]}",
                        Sweep(store, plan.run),
                    )
    return Sweep(store, plan.run)


class Here:
    """One session, in this process, one batch after the other."""

    def __init__(self, lab: Session) -> None:
        if not isinstance(lab, Session):
            raise OptionError(f"a sweep asks a session of this process, as vila_lab.load() gives, not {lab!r}")
        self._lab = lab

    @property
    def edits(self) -> tuple[str, ...]:
        """Those that act on it now, in words: an answer under an edit is another answer."""
        return tuple(map(str, self._lab.edits))

    def about(self, options: Mapping[str, Any]) -> tuple[str, str]:
        """See `vila_lab.sweeps.worker.about`."""
        return about(self._lab, options)

    def run(self, plan: Plan, store: Store, batches: Iterable[list[Keyed]]) -> Iterator[tuple[list[Keyed], Done]]:
        """Batches and what became of them."""
        worker = Worker(self._lab, plan, store)
        for batch in batches:
            with told_to(lambda *_: None):  # the sweep's own progress is the one to show
                done = worker.run(batch)
            yield batch, done


@contextmanager
def _asking(engine: Engine, lab: Session | None, loading: Mapping[str, Any], cluster: Cluster) -> Iterator[Here | Pool]:
    """Whoever asks; what was started for it ends with it."""
    if engine == "loop":
        yield Here(lab or load(**loading))
        return
    pool = Pool(loading, cluster)
    try:
        yield pool
    finally:
        pool.close()


def shard_of(shard: str | tuple[int, int] | None) -> tuple[int, int]:
    """Which part of how many, from 0.

    >>> shard_of("1/2"), shard_of(None)
    ((0, 2), (0, 1))
    """
    if shard is None:
        return 0, 1
    try:
        number, count = (int(each) for each in (shard.split("/") if isinstance(shard, str) else shard))
    except (ValueError, TypeError) as error:
        raise OptionError(f'a shard is its number and how many there are, "1/4", not {shard!r}') from error
    if not 1 <= number <= count:
        raise OptionError(f"shard {shard!r} is not one of {count}: the first is 1/{max(count, 1)}")
    return number - 1, count


def _rows(table: Table, columns: Columns | None) -> Iterator[Row]:
    """The table's rows; its columns are looked at before the first is asked."""
    cells = iter(table)
    first = next(cells, None)
    if first is None:
        return iter(())
    (columns or _found(tuple(map(str, first)))).check(map(str, first))
    # Rows of one table may have other columns than its first: JSON leaves out what is not there.
    return (
        row_of(each, number, columns or _found(tuple(map(str, each))), table.folder)
        for number, each in enumerate(chain([first], cells))
    )


@cache
def _found(names: tuple[str, ...]) -> Columns:
    return Columns.found_in(names)


def _expected(table: Table, limit: int | None, part: int, parts: int) -> int | None:
    """How many questions there are to ask, where that is known."""
    count = table.count
    if count is None:
        return None
    return len(range(part, count if limit is None else min(limit, count), parts))


def _batches(rows: Iterable[Row], plan: Plan, store: Store, size: int, bar: Count) -> Iterator[list[Keyed]]:
    """What is still to be asked, so many at a time."""
    known = answered(store)
    batch: list[Keyed] = []
    for row in rows:
        key = key_of(row, plan)
        if key in known:
            if bar.total:  # the time that is left is told by what was asked now
                bar.total -= 1
            continue
        known.add(key)
        batch.append(Keyed(key, row))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def answered(store: Store) -> set[str]:
    """Keys of the questions that have an answer."""
    table = store.table("part", ["key", "error"])
    if not table.num_rows:
        return set()
    pairs = zip(table["key"].to_pylist(), table["error"].to_pylist(), strict=True)
    return {key for key, error in pairs if error is None}


def write_manifest(store: Store, plan: Plan, table: Table) -> None:
    """Write what a run is made of, once."""
    name = f"run-{plan.run}.json"
    if store.has(name):
        return
    manifest = {
        "format": 1, "run": plan.run, "plan": asdict(plan), "questions": table.name, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {name: installed(name) for name in MADE_WITH}, "python": platform.python_version(),
    }  # fmt: skip
    store.put(name, (json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n").encode())
