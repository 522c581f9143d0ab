"""Tab completion offers methods and kinds of figures in a real IPython, and leaves it alone elsewhere."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

import vila_lab
from vila_lab.attribution.choices import Score
from vila_lab.attribution.registry import MethodName
from vila_lab.engine.target import SCORES
from vila_lab.experiments import EXPERIMENTS, ExperimentName
from vila_lab.names_offered import names_at, options_at
from vila_lab.nvila.prompt_options import ConversationMode
from vila_lab.view.plots import KINDS, KindName

IN_IPYTHON = """
import json, sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("import vila_lab; lab = vila_lab.load(); vila_lab.load(); answer = lab.ask('Hello', max_new_tokens=1); chat = lab.chat()")
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
    assert get_args(ExperimentName) == tuple(EXPERIMENTS)
    assert get_args(Score) == tuple(SCORES)


def test_ipython_completes_kinds_methods_and_options():
    import json

    texts = [
        'answer.plot("',
        "answer.attribute('leave",
        'answer.plot("heatmap", method="sha',
        "answer.attribute('shapley', sam",
        'lab.ask(q, conv_mode="',
        "lab.ask(q)\nchat.stream(q,\n    tile",
        "lab.ask_many([q], conv_mode='hermes-",
        "lab.ask([load(1), 'Is it (really) one?'], pict",
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_IPYTHON, json.dumps(texts)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[texts[0]] == [f'answer.plot("{kind}' for kind in sorted(KINDS)]
    assert found[texts[1]] == ["answer.attribute('leave_one_out"]
    assert found[texts[2]] == ['answer.plot("heatmap", method="shapley']
    assert "answer.attribute('shapley', samples=" in found[texts[3]]
    modes = sorted(name for name in get_args(ConversationMode))
    assert found[texts[4]] == [f'lab.ask(q, conv_mode="{mode}' for mode in modes]
    above = texts[5].removesuffix("tile")
    assert found[texts[5]] == [f"{above}tile_all_images=", f"{above}tile_first="]
    assert found[texts[6]] == ["lab.ask_many([q], conv_mode='hermes-2"]
    assert found[texts[7]] == [f"{texts[7]}ure_order="]
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
        ('lab.ask("Hello", image_aspect_ratio="p', ["pad"]),
        ('lab.stream("Hello", generation_config="', ["greedy", "checkpoint"]),
        ('lab.ask_many(["Hello"], errors="', ["raise", "keep"]),
        ('lab.chat(tiling="', ["reference", "first"]),
        ('answer.plot("curves", methods=["rollout", "shap', ["shapley"]),
        ('print(len("a, b"), answer.plot("led', ["ledger"]),
        ('answer.plot("heatmap"', []),  # behind a string
        ('answer.plot(named["', []),  # a key
        ('answer.metric_card("attention", ["a, b", (1, 2)], 3, "', []),  # no such argument
        ('lab.ask([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, "', []),  # a picture or a text
        ('lab.ask("Is it, or not?", None, "', []),  # options have no places
        ('answer.to_html("page.html", attributions=["leave', ["leave_one_out"]),
        ('vila_lab.compare(answer, answer, attributions=["shap', ["shapley"]),
        ('answer.experiment("causal', ["causal_leakage"]),
        ('answer.attribute("occlusion", by="', ["cells", "tiles", "clause", "word"]),
        ('answer.attribute("shapley", baseline="', ["remove", "mean", "grey", "blur"]),
        ('answer.attribute("relevancy", score="logo', ["logodds"]),
        ('answer.metric_card("grad_x_attention", readers="', ["all", "answer"]),
        ('answer.metric_card("integrated_gradients", on="', ["embeddings", "pixels"]),
        ('answer.plot("heatmap", baseline="b', ["blur"]),
        ('lab.patch(answer, state="', ["residual", "attention", "mlp"]),
        ('lab.ablate_heads([(0, 1)], mode="', ["zero", "mean"]),
        ('lab.rank_heads(samples, "', ["routing", "localization", "causal"]),
        ('vila_lab.load(attn_implementation="e', ["eager"]),
        ('vila_lab.load("model", quantization="', ["4bit", "8bit", "int8"]),
        ('vila_lab.compare(answer, answer, scale="', ["own", "shared"]),
        ('lab.ask("Hello", tile_first="', []),
        ('lab.ask("Hello", nothing="', []),
    ],
)
def test_what_is_offered_at_the_cursor(text, names, lab):
    known = {
        "answer": lab.ask("Hello", max_new_tokens=1),
        "lab": lab,
        "vila_lab": vila_lab,
        "print": print,
        "other": object(),
    }
    assert names_at(text, known) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lab.ask(q, ti", ["tile_all_images", "tile_first"]),
        ("lab.ask(q, tile_first=True, ti", ["tile_all_images"]),
        ("lab.chat().ask(q, ti", []),  # nothing is computed for it
        ("lab.ask(ti", ["tile_all_images", "tile_first"]),
        ("lab.ask(q, conv_mode=ti", []),  # a value
        ("lab.ask([q, ti", []),  # a part of the question
        ("lab.ask('Is it, ti", []),  # its text
        ("lab.ask([a, ('b', c)], seed=3, ti", ["tile_all_images", "tile_first"]),
        ("lab.ask(q) + ti", []),
        ("lab.knockout(ti", []),
        ("print(ti", []),
        ("ti", []),
    ],
)
def test_options_behind_the_stars_are_offered(text, names, lab):
    assert options_at(text, {"lab": lab, "print": print}) == names


def test_nothing_is_imported_for_it():
    code = "import sys, vila_lab; vila_lab.load(); sys.exit('IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
