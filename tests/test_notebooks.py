"""The notebooks are committed with their outputs, small, and readable where notebooks are shown without a kernel.

nbval runs them; but a cell without an execution count runs uncompared, so a notebook saved empty would pass there.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LARGEST = 1_500_000  # bytes; code hosts load larger ones slowly, and stop rendering them at a few times that
MOST_CODE = 40  # lines that are not empty, in all cells: what needs more belongs in the library


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run: code that is not empty and not marked to be skipped."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and "".join(cell["source"]).strip()
        and "nbval-skip" not in cell["metadata"].get("tags", [])
    ]


def sources(notebook: dict[str, Any], kind: str) -> list[str]:
    """What each cell of a kind says; of code without the lines that only a notebook understands."""
    found = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]
    return [re.sub(r"(?m)^[%!].*$", "", source) for source in found] if kind == "code" else found


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def test_the_first_notebook_prints_no_warning() -> None:
    """Run as a script, where Python shows the reader's own deprecations and everybody's future warnings, as a kernel does."""
    notebook = json.loads((FOLDER / "01_first_look.ipynb").read_text(encoding="utf-8"))
    displays = "\nfor shown in list(globals().values()):\n    getattr(shown, '_repr_mimebundle_', lambda *_: None)()\n"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(sources(notebook, "code")) + displays],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


class TestExercises:
    """What is handed to students shows nothing that only the solutions may show."""

    @staticmethod
    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
        return content

    @staticmethod
    def outputs(notebook: dict[str, Any]) -> list[dict[str, str]]:
        """What every output shows, by its kind, without the pictures in it."""
        found = []
        for output in (each for cell in notebook["cells"] for each in cell.get("outputs", [])):
            data = output.get("data", {"text/plain": output.get("text", "")})
            found.append({kind: re.sub(r"data:image/[^\"')]*", "", "".join(text)) for kind, text in data.items()})
        return found

    @pytest.fixture
    def exercises(self) -> dict[str, Any]:
        return self.read("09_exercises.ipynb")

    @pytest.fixture
    def solutions(self) -> dict[str, Any]:
        return self.read("09_solutions.ipynb")

    @pytest.fixture
    def revealed(self, solutions: dict[str, Any]) -> list[str]:
        shown = [output["text/plain"] for output in self.outputs(solutions)]
        return [text for text in shown if text.startswith("Reveal(")]

    def test_no_answer_is_in_them(self, exercises: dict[str, Any], revealed: list[str]) -> None:
        answers = {ast.literal_eval(re.match(r"Reveal\(('[^']*')", text)[1]) for text in revealed}  # type: ignore[index]
        assert len(answers) == len(revealed) == 5
        texts = sources(exercises, "markdown") + sources(exercises, "code")
        texts += [text for output in self.outputs(exercises) for text in output.values()]
        assert [answer for answer in answers for text in texts if answer in text] == []

    def test_their_outputs_are_questions_and_an_empty_score(self, exercises: dict[str, Any]) -> None:
        shown = [output["text/plain"] for output in self.outputs(exercises)]
        assert {re.match(r"\w+", text)[0] for text in shown} == {"Quiz", "Exercise", "Prediction", "Score"}  # type: ignore[index]
        predicted = {text for text in shown if text.startswith("Prediction")}
        assert predicted == {"Prediction(picture=None, survives=None)"}
        scores = [text for output in self.outputs(exercises) for text in output.values() if "points" in text]
        assert scores
        assert all("0 points of 0 revealed" in text for text in scores)

    def test_the_same_questions_are_in_both(self, exercises: dict[str, Any], solutions: dict[str, Any]) -> None:
        asked = [
            [o for o in self.outputs(n) if o["text/plain"].startswith("Exercise(")] for n in (exercises, solutions)
        ]
        assert asked[0] == asked[1]
        assert len(asked[0]) == 5

    def test_no_hint_is_in_them(self, exercises: dict[str, Any], solutions: dict[str, Any]) -> None:
        """Of what the solutions say about an exercise, no sentence stands in the exercises."""
        cells = [text.partition("\n") for text in sources(solutions, "markdown")]
        explained = " ".join(text for title, _, text in cells if title.startswith("## Exercise"))
        sentences = [each.strip() for each in re.split(r"[.:\n]", explained) if len(each.strip()) > 12]
        text = " ".join(sources(exercises, "markdown"))
        assert len(sentences) >= 10
        assert [sentence for sentence in sentences if sentence in text] == []


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

    def test_pictures_and_pages_are_not_compared(self, notebook: dict[str, Any]) -> None:
        tagged = [c for c in code_cells(notebook) if "nbval-check-output" in c["metadata"].get("tags", [])]
        kinds = {kind for cell in tagged for output in cell["outputs"] for kind in output.get("data", {})}
        assert kinds <= {"text/plain"}, "print what is compared in a cell of its own"

    def test_skipped_cells_are_skipped_everywhere(self, notebook: dict[str, Any]) -> None:
        for cell in notebook["cells"]:
            tags = cell["metadata"].get("tags", [])
            assert ("nbval-skip" in tags) == ("skip-execution" in tags), "nbval and nbconvert read different tags"
            assert "nbval-skip" not in tags or cell["outputs"] == [], "what is not run shows nothing"

    def test_it_holds_no_widget_state(self, notebook: dict[str, Any]) -> None:
        assert "widgets" not in notebook["metadata"], "widget state makes code hosts refuse the whole notebook"

    def test_its_code_is_short(self, notebook: dict[str, Any]) -> None:
        lines = [line for cell in code_cells(notebook) for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= MOST_CODE

    def test_it_defines_no_helpers(self, notebook: dict[str, Any]) -> None:
        nodes = [node for source in sources(notebook, "code") for node in ast.walk(ast.parse(source))]
        defined = [
            node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        assert defined == [], "a helper belongs in the library, where it is tested"

    def test_it_asserts_something(self, notebook: dict[str, Any]) -> None:
        nodes = [node for source in sources(notebook, "code") for node in ast.walk(ast.parse(source))]
        assert any(isinstance(node, ast.Assert) for node in nodes)

    def test_it_says_first_what_is_learned(self, notebook: dict[str, Any]) -> None:
        first = sources(notebook, "markdown")[0]
        assert first.startswith("# ")
        assert len(re.findall(r"(?m)^- ", first)) >= 3

    def test_its_links_to_notebooks_lead_somewhere(self, notebook: dict[str, Any]) -> None:
        links = [link for text in sources(notebook, "markdown") for link in re.findall(r"\]\(([^):]+\.ipynb)\)", text)]
        assert [link for link in links if not (FOLDER / link).is_file()] == []

    def test_it_is_small(self, path: Path) -> None:
        assert path.stat().st_size < LARGEST
