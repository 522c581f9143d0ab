"""The embedded model: a small NVILA and the drawn world it was trained on. Knows nothing of hooks, answers or views."""

from __future__ import annotations

from pathlib import Path


def weights_folder() -> Path:
    """The embedded checkpoint, in NVILA's three-folder layout."""
    return Path(__file__).parent / "weights"


def demo_images() -> Path:
    """The folder of demo pictures: four company marks and six drawn scenes, with their boxes in ``boxes.json``."""
    return Path(__file__).parents[2] / "demo_images"
