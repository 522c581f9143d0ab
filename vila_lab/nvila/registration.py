"""Make transformers' Auto classes know the family without importing transformers. Knows module names only.

Importing torch and transformers takes seconds, and ``import vila_lab`` must not. So the configuration classes are imported
right after the Auto module they register with, the processors likewise, and the rest when the first configuration is made:
every Auto class makes the configuration first. (The model cannot follow its Auto module at once: transformers imports that
one while modules that the model needs are still half done.)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

FOLLOWERS = {
    "transformers.models.auto.configuration_auto": "vila_lab.nvila.configuration_nvila",
    "transformers.models.auto.image_processing_auto": "vila_lab.nvila.image_processing_nvila",
    "transformers.models.auto.processing_auto": "vila_lab.nvila.processing_nvila",
}
OTHERS = ("vila_lab.nvila.image_processing_nvila", "vila_lab.nvila.processing_nvila", "vila_lab.nvila.modeling_nvila")


class _Follow(MetaPathFinder):
    """Import a module of the family right after the Auto module that it registers with."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
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
    """Register now with the Auto modules that are imported already, and with the others as soon as they are."""
    if not any(isinstance(finder, _Follow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follow())
    for auto, follower in FOLLOWERS.items():
        if auto in sys.modules:
            importlib.import_module(follower)


def register_others() -> None:
    """Register image processor, processor and model; each module does so at its end."""
    for name in OTHERS:
        importlib.import_module(name)
