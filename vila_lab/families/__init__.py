"""Which model families there are, and how a checkpoint finds its own. Knows no session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import Family, Prepared

__all__ = ["FAMILIES", "Family", "Prepared", "load_family"]


def _nvila(source: str | Path, **options: Any) -> Family:
    from .nvila import NVILAFamily

    return NVILAFamily.load(source, **options)


FAMILIES: dict[str, Callable[..., Family]] = {"nvila": _nvila}


def load_family(source: str | Path, *, family: str = "nvila", **options: Any) -> Family:
    """Load a checkpoint of a family.

    Parameters
    ----------
    source
        Folder or hub id.
    family
        A name in `FAMILIES`.
    """
    return FAMILIES[family](source, **options)
