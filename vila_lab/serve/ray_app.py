"""The service on Ray Serve, for those who outgrow one machine: every replica has a model and the same app. Knows Ray, and no route.

``serve run vila_lab.serve.ray_app:build replicas=2 gpus=1 model=Efficient-Large-Model/NVILA-8B tokens=tokens.toml``

Replicas share nothing: an answer is kept, and a quota counted, where the question was answered. So all requests with one token go
to one replica, if Ray is started with ``RAY_SERVE_SESSION_ID_HEADER_KEY=authorization``; see docs/serving.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from ..errors import MissingExtra, OptionError
from ..options import nearest
from ..resident import load
from .app import create_app
from .doors import EVERYWHERE
from .settings import Settings
from .worker import WAITING

log = logging.getLogger("vila_lab.serve")
STICKY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
HEADER_KEY = "RAY_SERVE_SESSION_ID_HEADER_KEY"
OPTIONS = ("model", "replicas", "gpus", "tokens", "hosts", "time_limit")


def build(options: dict[str, str]) -> Any:
    """The application that `serve run` and `ray.serve.run` start.

    Parameters
    ----------
    options
        model (a hub id or a folder; by default the embedded model), replicas, gpus (of each), tokens (a file, as for
        `vila-lab serve`), hosts (names under which the service is asked, with commas between), time_limit (seconds).

    Raises
    ------
    MissingExtra
        If Ray Serve is not installed.
    OptionError, FileAccessError
        If an option makes no sense.
    """
    serve = _ray_serve()
    for name in options:
        if name not in OPTIONS:
            raise OptionError(f"{name} is not known{nearest(name, OPTIONS)}; known are {', '.join(OPTIONS)}")
    settings = _settings(options)
    owners, made = settings.owners(log.warning)
    if made:
        log.warning("token: %s", made)
    model, hosts, people, limit = options.get("model"), settings.hosts, tuple(owners), settings.time_limit

    def app() -> FastAPI:  # called in the replica: a session cannot travel
        return create_app(load(model), people, hosts, time_limit=limit)

    deployment = serve.deployment(
        name="vila_lab",
        num_replicas=_replicas(options),
        ray_actor_options={"num_gpus": _gpus(options)},
        max_ongoing_requests=WAITING,  # who waits for what is the worker's to say
        **_routing(serve),
    )
    return deployment(serve.ingress(app)()).bind()


def _ray_serve() -> Any:
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise MissingExtra(f'replicas need {error.name}: pip install "vila-lab[serve]" "ray[serve]"') from error


def _routing(serve: Any) -> dict[str, Any]:
    """Whoever asked comes back to the replica that keeps the answers."""
    if not _is_there(STICKY.rpartition(".")[0]):
        log.warning("this version of Ray sends a client's requests to any replica; kept answers are found by chance")
        return {}
    if os.environ.get(HEADER_KEY, "").lower() != "authorization":
        log.warning("start Ray with %s=authorization, or a client's requests go to any replica", HEADER_KEY)
    return {"request_router_config": serve.config.RequestRouterConfig(request_router_class=STICKY)}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a package around it
        return False


def _settings(options: Mapping[str, str]) -> Settings:
    names = tuple(each.strip() for each in options.get("hosts", "").split(",") if each.strip())
    tokens = Path(options["tokens"]) if "tokens" in options else None
    return Settings(
        host=EVERYWHERE[0], names=names, tokens=tokens, time_limit=_number(options, "time_limit", Settings.time_limit)
    )


def _replicas(options: Mapping[str, str]) -> int:
    number = _number(options, "replicas", 1)
    if number < 1 or number % 1:
        raise OptionError(f"replicas={options['replicas']} must be a whole number from 1")
    return int(number)


def _gpus(options: Mapping[str, str]) -> float:
    number = _number(options, "gpus", 0)
    if number < 0:
        raise OptionError(f"gpus={options['gpus']} must be a number from 0; a part of one is shared")
    return number


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        number = float(options.get(name, default))
    except ValueError as error:
        raise OptionError(f"{name}={options[name]} is no number") from error
    if not math.isfinite(number):
        raise OptionError(f"{name}={options[name]} is no number that can be counted to")
    return number
