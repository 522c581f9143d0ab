"""Workers of Ray: processes, here or on other machines, that ask batches side by side. Knows Ray and workers, nothing of what they ask.

Ray is not imported before it is asked for. It schedules, heals workers and finds GPUs; a worker writes its own parts, so that a batch
that is asked twice, because its worker was killed, is there once.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..errors import MissingExtra, RayError, VilaLabError
from ..inputs.sources import reason, shorten
from ..resident import load
from .plan import Plan
from .store import Store
from .worker import Done, Keyed, Worker, about

__all__ = ["Cluster", "Pool"]

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0"}
CONNECTING = 10.0  # seconds
NOISY = ("ray", "ray.data", "ray.serve", "ray.tune")


@dataclass(frozen=True)
class Cluster:
    """How many workers ask, and where.

    Attributes
    ----------
    workers : int
        Side by side, at most.
    gpus : float or None
        Of each; None is one where there are any, else none.
    address : str or None
        Of a cluster that runs already; None starts one on this machine, for as long as the sweep lasts. Clusters that
        ``ray start`` made want a token (``RAY_AUTH_MODE=token``), which Ray finds in RAY_AUTH_TOKEN or ~/.ray/auth_token.
    """

    workers: int = 1
    gpus: float | None = None
    address: str | None = None


class Remote:
    """What runs in a worker's process: a session, and the worker that asks with it once the plan is known."""

    def __init__(self, loading: Mapping[str, Any]) -> None:
        self._lab = load(**loading)
        self._worker: Worker | None = None

    def about(self, options: Mapping[str, Any]) -> tuple[str, str]:
        """See `vila_lab.sweeps.worker.about`."""
        return about(self._lab, options)

    def run(self, plan: Plan, place: str, batch: list[Keyed]) -> Done:
        """See `Worker.run`."""
        if self._worker is None:
            self._worker = Worker(self._lab, plan, Store(place))
        return self._worker.run(batch)


class Pool:
    """Workers of Ray that have loaded the model, until `close`.

    Parameters
    ----------
    loading
        Of `vila_lab.load`, by which every worker loads its own session.
    cluster
        How many workers, and where.

    Raises
    ------
    MissingExtra
        Without Ray.
    RayError
        If Ray cannot be started or reached.
    """

    def __init__(self, loading: Mapping[str, Any], cluster: Cluster) -> None:
        self._ray = _started(cluster)
        there = float(self._ray.cluster_resources().get("GPU", 0))
        gpus = cluster.gpus if cluster.gpus is not None else float(there > 0)
        if cluster.address is None and gpus > there:  # a cluster may start machines; this one stays as it is
            self._ray.shutdown()
            raise RayError(
                f"a worker wants {gpus:g} GPUs, and Ray finds {there:g} on this machine; give fewer as gpus="
            )
        kind = self._ray.remote(num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(Remote)
        self._workers = [kind.remote(dict(loading)) for _ in range(cluster.workers)]
        self._starting: dict[Any, Any] = {}

    @property
    def edits(self) -> tuple[str, ...]:
        """None: edits act where they were made, and workers have sessions of their own."""
        return ()

    def about(self, options: Mapping[str, Any]) -> tuple[str, str]:
        """See `Remote.about`; of the first worker that is there."""
        self._starting = {worker.about.remote(dict(options)): worker for worker in self._workers}
        found: tuple[str, str] = self._first_of(self._starting)[1]
        return found

    def run(self, plan: Plan, store: Store, batches: Iterable[list[Keyed]]) -> Iterator[tuple[list[Keyed], Done]]:
        """Batches and what became of them, as they come; read no further ahead than workers can follow.

        A worker gets its first batch once it is there, so that none lies with a machine that a cluster has still to start; and it
        goes when there is none left for it, so that the cluster can give its machine back.

        Raises
        ------
        RayError
            If a worker cannot go on.
        """
        source = iter(batches)
        waiting: dict[Any, tuple[Any, list[Keyed]]] = {
            future: (worker, []) for future, worker in self._starting.items()
        }
        is_more = True
        while is_more or any(batch for _, batch in waiting.values()):
            ready, done = self._first_of(waiting)
            worker, batch = waiting.pop(ready)
            following = next(source, None)
            is_more = following is not None
            if following is None:
                self._ray.kill(worker)
            else:
                waiting[worker.run.remote(plan, store.place, following)] = worker, following
            if batch:
                yield batch, done

    def _first_of(self, futures: Iterable[Any]) -> tuple[Any, Any]:
        """Whichever is there first, and what came of it."""
        with _said():
            (ready, *_), _ = self._ray.wait(list(futures), num_returns=1)
            return ready, self._ray.get(ready)

    def close(self) -> None:
        """Let the workers go, and Ray where it was started for them."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._ray.shutdown()


@contextmanager
def _said() -> Iterator[None]:
    """What Ray raises as one sentence; what a worker raised of ours as it is."""
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, VilaLabError):
            raise cause from error
        raise RayError(
            f"a worker of Ray cannot go on ({shorten(reason(error), 300)}); the loop engine shows why: --engine loop"
        ) from error


def _started(cluster: Cluster) -> Any:
    """Ray, quiet, started or reached."""
    for name, value in QUIET.items():  # read when ray is imported, and by the processes that it starts
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingExtra('workers of Ray need it: pip install "vila-lab[sweep]"') from error
    _check_answers(cluster.address)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    local: dict[str, Any] = {"include_dashboard": False} if cluster.address is None else {}
    try:
        ray.init(address=cluster.address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:
        if cluster.address is None:
            did, way = "started", "the loop engine does without: --engine loop"
        else:
            did, way = "reached", "does it run, and is its token in RAY_AUTH_TOKEN?"
        raise RayError(f"Ray cannot be {did} ({shorten(reason(error), 200)}); {way}") from error
    return ray


def _check_answers(address: str | None) -> None:
    """Refuse an address where nobody listens; Ray by itself tries for twenty minutes."""
    where = urlsplit(address if address and "://" in address else f"//{address or ''}")
    try:
        if where.hostname and where.port:
            socket.create_connection((where.hostname, where.port), CONNECTING).close()
    except (OSError, ValueError) as error:
        raise RayError(f"Ray cannot be reached at {address!r} ({reason(error)}); does it run there?") from error
