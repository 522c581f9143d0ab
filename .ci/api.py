"""The package's public names and signatures, one line each. ``python .ci/api.py`` writes docs/api.txt; a test compares."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import vila_lab

FILE = Path(__file__).parents[1] / "docs" / "api.txt"


def lines() -> Iterator[str]:
    """Every public class, method, property and function, in the module that defines it."""
    for found in sorted(pkgutil.walk_packages(vila_lab.__path__, "vila_lab."), key=lambda each: each.name):
        module = importlib.import_module(found.name)
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or getattr(value, "__module__", None) != found.name:
                continue
            if inspect.isclass(value):
                yield from _of_class(f"{found.name}.{name}", value)
            elif inspect.isfunction(value):
                yield f"{found.name}.{name}{_signature(value)}"


def _of_class(path: str, kind: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"class {path}({bases})"
    for name, value in sorted(vars(kind).items()):
        if name.startswith("_") and (name != "__init__" or _has_foreign_fields(kind)):
            continue
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if inspect.isfunction(value):
            yield f"{path}.{name}{_signature(value)}"
        elif isinstance(value, property) or type(value).__name__ == "cached_property":
            yield f"{path}.{name}: property"


def _has_foreign_fields(kind: type) -> bool:
    """Whether a dataclass has fields of another package's, which change with its version."""
    return any(is_dataclass(base) and not base.__module__.startswith("vila_lab") for base in kind.__mro__[1:])


def _signature(function: Any) -> str:
    return str(inspect.signature(function))


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
