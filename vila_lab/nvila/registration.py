"""Make transformers' Auto classes know the family without importing transformers. Knows module names only.

Importing torch and transformers takes seconds, and ``import vila_lab`` must not. So the configuration classes are imported
right after the Auto module they register with, and the other classes when the first configuration is made: every Auto class
makes the configuration first. (Following the other Auto modules at once is no way: transformers imports them while modules
that the family needs are still half done.)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_CONFIG = "transformers.models.auto.configuration_auto"
CONFIGURATION = "vila_lab.nvila.configuration_nvila"
OTHERS = ("vila_lab.nvila.image_processing_nvila", "vila_lab.nvila.processing_nvila", "vila_lab.nvila.modeling_nvila")


class _FollowAutoConfig(MetaPathFinder):
    """Import the family's configuration right after transformers' `AutoConfig`."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != AUTO_CONFIG:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_follow(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(CONFIGURATION)

        spec.loader.exec_module = execute_and_follow  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the configurations now if `AutoConfig` is imported already, otherwise as soon as it is."""
    if AUTO_CONFIG in sys.modules:
        importlib.import_module(CONFIGURATION)
    elif not any(isinstance(finder, _FollowAutoConfig) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FollowAutoConfig())


def register_others() -> None:
    """Register image processor, processor and model; each module does so at its end."""
    for name in OTHERS:
        importlib.import_module(name)
