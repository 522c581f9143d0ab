"""Options stand in the signatures of public methods, as where they are used."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vila_lab import Answer, Session
from vila_lab.attribution.registry import NAMES, find
from vila_lab.errors import OptionError
from vila_lab.experiments import EXPERIMENTS
from vila_lab.view.plots import KINDS


def named(function: Any, skipped: int = 1) -> set[str]:
    """Its parameters behind the first."""
    found = list(inspect.signature(function).parameters.values())[skipped:]
    return {each.name for each in found if each.kind is not each.VAR_KEYWORD}


def test_attribute_has_the_options_of_all_methods():
    own = {
        each.name
        for name in NAMES
        for each in inspect.signature(find(name).attribute).parameters.values()
        if each.kind is each.KEYWORD_ONLY
    }
    assert named(Answer.attribute) == {"method", "token", "contrast", "at", "score", *own}
    assert named(Answer.attribute) - {"contrast", "phrases"} == named(Answer.metric_card)


def test_plot_has_the_options_of_all_kinds():
    assert named(Answer.plot) == {"kind", "ax"}.union(*(named(draw, 3) for draw in KINDS.values()))


@pytest.mark.parametrize("name", ["flow", "evidence", "vision_attention"])
def test_an_experiment_is_called_as_it_is(name):
    assert named(getattr(Answer, name)) == set(EXPERIMENTS[name].parameters)


def test_a_scan_is_called_as_it_is():
    there = set(EXPERIMENTS["patch_scan"].parameters) - {"from_record"}
    assert named(Session.patch_scan) == there | {"answer", "from_answer"}


def test_a_misspelt_option_of_any_method_proposes_the_nearest(lab):
    answer = lab.ask("Hello", max_new_tokens=1)
    calls: dict[str, Any] = {
        "'tokn' (did you mean 'token'?)": lambda: answer.heatmap(0, tokn=1),
        "'sample' (did you mean 'samples'?)": lambda: answer.evidence(sample=3),
        "'causl' (did you mean 'causal'?)": lambda: answer.plot("leakage", causl=True),
        "'layer' (did you mean 'layers'?)": lambda: lab.knockout("image_1 -> *", layer=2),
        "'strenght' (did you mean 'strength'?)": lambda: lab.redirect(answer, image=0, strenght=2),
    }
    for message, call in calls.items():
        with pytest.raises(OptionError) as caught:
            call()
        assert message in str(caught.value)
