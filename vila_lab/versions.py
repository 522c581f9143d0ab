"""Which versions of other packages were verified, and which are installed. Knows package metadata only."""

from __future__ import annotations

import re
import warnings
from importlib import metadata

from packaging.requirements import Requirement

__all__ = ["UnverifiedVersionWarning", "installed", "remedy", "unverified", "warn_if_unverified"]

PACKAGE = "vila-lab"


class UnverifiedVersionWarning(UserWarning):
    """A package is installed in a version with which vila_lab was not tested."""


def requirements() -> dict[str, Requirement]:
    """What vila_lab needs, by package, as its metadata states it; nothing where it is not installed as a package."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    needed = (Requirement(line) for line in lines)
    return {_canonical(each.name): each for each in needed if each.marker is None}


def unverified() -> dict[str, tuple[str, str]]:
    """Installed version and verified range of every needed package that is outside of it.

    >>> unverified()
    {}
    """
    found = {}
    for name, needed in requirements().items():
        version = installed(name)
        if version is not None and not needed.specifier.contains(version, prereleases=True):
            found[name] = version, str(needed.specifier)
    return found


def warn_if_unverified(stacklevel: int = 2) -> None:
    """Say once which packages are outside the verified range, and how to get back into it."""
    outside = unverified()
    if not outside:
        return
    named = ", ".join(f"{name} {version} ({allowed})" for name, (version, allowed) in outside.items())
    warnings.warn(
        f"outside the versions vila_lab was verified with: {named}; results may be wrong: {_pip_line(outside)}",
        UnverifiedVersionWarning,
        stacklevel=stacklevel + 1,
    )


def remedy() -> str:
    """The way out for an error that a version may have caused."""
    version = installed("transformers") or "none"
    needed = requirements().get("transformers")
    if needed is None:
        return f"transformers {version} is installed; take the version that vila_lab's pyproject.toml names"
    return f"transformers {version} is installed; verified are {needed.specifier}: pip install '{needed.name}{needed.specifier}'"


def _pip_line(outside: dict[str, tuple[str, str]]) -> str:
    return "pip install " + " ".join(f"'{name}{allowed}'" for name, (_, allowed) in outside.items())


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
