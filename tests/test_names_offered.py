"""Tab completion offers methods and kinds of figures in a real IPython, and leaves it alone elsewhere."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

import vila_lab
from vila_lab.attribution.registry import MethodName
from vila_lab.names_offered import names_at
from vila_lab.view.plots import KINDS, KindName

IN_IPYTHON = """
import json, sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("import vila_lab; lab = vila_lab.load(); vila_lab.load(); answer = lab.ask('Hello', max_new_tokens=1)")
found = {}
with provisionalcompleter():
    for text in json.loads(sys.argv[1]):
        found[text] = [text[: each.start] + each.text for each in shell.Completer.completions(text, len(text))]
found["matchers"] = len(shell.Completer.custom_matchers)
print(json.dumps(found))
"""


def test_the_names_are_those_there_are():
    assert get_args(KindName) == tuple(KINDS)
    assert get_args(MethodName) == tuple(vila_lab.methods().index)


def test_ipython_completes_kinds_methods_and_options():
    import json

    texts = [
        'answer.plot("',
        "answer.attribute('leave",
        'answer.plot("heatmap", method="sha',
        "answer.attribute('shapley', sam",
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_IPYTHON, json.dumps(texts)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[texts[0]] == [f'answer.plot("{kind}' for kind in sorted(KINDS)]
    assert found[texts[1]] == ["answer.attribute('leave_one_out"]
    assert found[texts[2]] == ['answer.plot("heatmap", method="shapley']
    assert "answer.attribute('shapley', samples=" in found[texts[3]]
    assert found["matchers"] == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('answer.plot(kind="ledg', ["ledger"]),
        ('answer.plot("curves", methods=["roll', ["rollout"]),
        ('answer.heatmap(0, "Google", "shap', ["shapley"]),
        ('answer.heatmap("', []),  # a picture's name
        ('answer.nothing("', []),
        ('print("', []),
        ('other.plot("', []),
        ("answer.plot(", []),
    ],
)
def test_what_is_offered_at_the_cursor(text, names, lab):
    known = {"answer": lab.ask("Hello", max_new_tokens=1), "print": print, "other": object()}
    assert names_at(text, known) == names


def test_nothing_is_imported_for_it():
    code = "import sys, vila_lab; vila_lab.load(); sys.exit('IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
