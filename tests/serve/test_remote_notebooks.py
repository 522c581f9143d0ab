"""The notebooks run unchanged against a server, every number that they assert included, and load no model themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TOKEN

FOLDER = Path(__file__).parents[2] / "notebooks"
NUMBERS = ("01", "02", "03", "04", "05", "06", "07")
AFTER = """
import vila_lab
assert type(lab).__name__ == "RemoteSession", lab
assert not vila_lab.loaded(), "a model was loaded"
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_runs_against_a_server(server, number):
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    source = "\n".join(re.sub(r"(?m)^[%!].*$", "", each) for each in code)
    assert "assert" in source
    environment = {"VILA_LAB_URL": server[0], "VILA_LAB_TOKEN": TOKEN, "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source + AFTER],
        cwd=FOLDER,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
