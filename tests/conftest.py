"""What several folders of tests share: the resident sessions and where the fixtures lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import vila_lab
from vila_lab.session import Session

GOLDENS = Path(__file__).parent / "goldens"

# One checkpoint per way of the family: tiles and thumbnail, three scales, one tile, and VILA1.5 without a chat template.
CHECKPOINTS = ("nvila-lite", "nvila-dynamic_s2", "nvila-resize", "VILA1.5-3b-tiny")


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """A test that leaves gradients off is told so, and not the next one that needs them."""
    yield
    left = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left, "gradients were left off"


@pytest.fixture(scope="session")
def golden_session() -> Callable[[str], Session]:
    """A resident session on a tiny random checkpoint, by its folder's name."""
    return lambda name: vila_lab.load(GOLDENS / "checkpoints" / name, device="cpu")


@pytest.fixture(scope="session")
def golden_image() -> Callable[[str], Path]:
    return lambda name: GOLDENS / "images" / name


@pytest.fixture(scope="session")
def lab() -> Session:
    """The embedded model."""
    return vila_lab.load()


@pytest.fixture(scope="session")
def demo() -> Path:
    return vila_lab.demo_images()
