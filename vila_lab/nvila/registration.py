"""Make transformers' Auto classes know the family without importing transformers. Knows module names only.

Each module of the family registers its classes at its end. Here it is only seen to that the fitting module is imported as
soon as the Auto module it belongs to is: importing torch and transformers takes seconds, and ``import vila_lab`` must not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO = "transformers.models.auto"
FOLLOWERS = {
    f"{AUTO}.configuration_auto": "vila_lab.nvila.configuration_nvila",
    f"{AUTO}.image_processing_auto": "vila_lab.nvila.image_processing_nvila",
    f"{AUTO}.modeling_auto": "vila_lab.nvila.modeling_nvila",
    f"{AUTO}.processing_auto": "vila_lab.nvila.processing_nvila",
}


class _Follow(MetaPathFinder):
    """Import a module of the family right after the Auto module it registers with."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in FOLLOWERS:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_follow(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(FOLLOWERS[fullname])

        spec.loader.exec_module = execute_and_follow  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register now with the Auto modules that are imported already, and later with the others."""
    if not any(isinstance(finder, _Follow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follow())
    for auto, follower in FOLLOWERS.items():
        if auto in sys.modules:
            importlib.import_module(follower)
