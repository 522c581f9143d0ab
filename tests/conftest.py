"""What several folders of tests share: the resident sessions and where the fixtures lie."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vila_lab
from vila_lab.session import Session

GOLDENS = Path(__file__).parent / "goldens"

# One checkpoint per way of the family: tiles and thumbnail, three scales, one tile, and VILA1.5 without a chat template.
CHECKPOINTS = ("nvila-lite", "nvila-dynamic_s2", "nvila-resize", "VILA1.5-3b-tiny")

AXE = Path(__file__).parents[1] / ".cache" / "axe" / "axe.min.js"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a test of a browser, a service or Ray waits for them half of its time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then the long ones, so that no process has the last of them to itself at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -count[item.path], str(item.path)))


def pytest_collection_finish() -> None:
    """What was imported and collected stays, and no search for garbage need look at it: there are hundreds, of half a second each."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A chromium, for one file: while it is there, nothing else can run an event loop in this thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    if not AXE.exists():
        pytest.skip("axe-core is not there: make axe fetches it with npm")
    return AXE.read_text(encoding="utf-8")
