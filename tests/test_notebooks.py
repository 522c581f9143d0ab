"""The notebooks are committed with their outputs, small, and readable where notebooks are shown without a kernel.

nbval runs them; but a cell without an execution count runs uncompared, so a notebook saved empty would pass there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LARGEST = 5_000_000  # bytes; code hosts stop rendering not far above


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run: code that is not empty and not marked to be skipped."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and "".join(cell["source"]).strip()
        and "nbval-skip" not in cell["metadata"].get("tags", [])
    ]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    @pytest.fixture
    def notebook(self, path: Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def test_every_cell_was_run(self, notebook: dict[str, Any]) -> None:
        counts = [cell["execution_count"] for cell in code_cells(notebook)]
        assert None not in counts
        assert counts == sorted(set(counts)), "run all cells from the top in a fresh kernel, then save"

    def test_no_cell_failed(self, notebook: dict[str, Any]) -> None:
        outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
        assert [output for output in outputs if output["output_type"] == "error"] == []

    def test_some_output_is_compared(self, notebook: dict[str, Any]) -> None:
        tags = [tag for cell in code_cells(notebook) for tag in cell["metadata"].get("tags", [])]
        assert "nbval-check-output" in tags, "tag a cell that prints numbers with nbval-check-output"

    def test_skipped_cells_are_skipped_everywhere(self, notebook: dict[str, Any]) -> None:
        for cell in notebook["cells"]:
            tags = cell["metadata"].get("tags", [])
            assert ("nbval-skip" in tags) == ("skip-execution" in tags), "nbval and nbconvert read different tags"

    def test_it_holds_no_widget_state(self, notebook: dict[str, Any]) -> None:
        assert "widgets" not in notebook["metadata"], "widget state makes code hosts refuse the whole notebook"

    def test_it_is_small(self, path: Path) -> None:
        assert path.stat().st_size < LARGEST
