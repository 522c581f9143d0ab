"""What `help` shows: every public name says what it is, with an example, and options stand in signatures, as where they are used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

import vila_lab
from vila_lab import Answer, Attribution, Chat, Prompt, Session, Text, Token, TokenMap, Video
from vila_lab.attribution.registry import NAMES, find
from vila_lab.errors import OptionError
from vila_lab.experiments import EXPERIMENTS
from vila_lab.families import OPTIONS
from vila_lab.families.options import FamilyOptions
from vila_lab.view.plots import KINDS

CLASSES = (Answer, Attribution, Chat, Prompt, Session, Text, Token, TokenMap, Video)
BUILT_IN = (str, tuple, object, Exception)
SEAM = frozenset(
    f"Session.{name}"
    for name in [
        "adopt",
        "answer_of",
        "begin",
        "inputs",
        "layer_table",
        "options_of",
        "replay",
        "run",
        "run_many",
        "shared",
    ]
)
"""What answers and servers ask of a session; readers have `bind`, `ask` and the tables instead."""


def public() -> Iterator[tuple[str, Any, bool]]:
    """Every public name, what it is, and whether it can be called."""
    for name in vila_lab.__all__:
        thing = getattr(vila_lab, name)
        if name not in ("__version__", "families") and not (inspect.isclass(thing) and issubclass(thing, Exception)):
            yield name, thing, True
    for kind in CLASSES:
        for name, member in inspect.getmembers(kind):
            is_own = not any(name in vars(each) for each in kind.__mro__ if each in BUILT_IN)
            is_data = not callable(member) and not isinstance(member, property) and not hasattr(member, "func")
            if not name.startswith("_") and is_own and not is_data:
                yield f"{kind.__name__}.{name}", member, callable(member)


PUBLIC = {name: (thing, is_called) for name, thing, is_called in public()}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name):
    assert inspect.getdoc(PUBLIC[name][0])


@pytest.mark.parametrize("name", [name for name, (_, is_called) in PUBLIC.items() if is_called and name not in SEAM])
def test_every_public_method_has_an_example(name):
    assert ">>>" in (inspect.getdoc(PUBLIC[name][0]) or "")


# -- one source of truth -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("chat", "asked"), [(Chat.ask, Session.ask), (Chat.stream, Session.stream)], ids=["ask", "stream"]
)
def test_a_chat_is_asked_as_a_session_is(chat, asked):
    def options(function: Any) -> list[str]:
        found = inspect.signature(function).parameters.values()
        return [str(each) for each in found if each.name not in ("self", "n")]

    assert options(chat) == options(asked)


def allowed(kind: Any) -> set[Any]:
    """The values of a Literal, the members of a union."""
    return set[Any]().union(*map(allowed, get_args(kind))) or {kind}


def test_options_of_families_are_those_that_the_families_have():
    there: dict[str, set[Any]] = {}
    for family in set(OPTIONS.values()):
        for name, kind in get_type_hints(family).items():
            there[name] = there.get(name, set()) | allowed(kind)
    assert {name: allowed(kind) for name, kind in get_type_hints(FamilyOptions).items()} == there


@pytest.mark.parametrize("function", [Session.ask, FamilyOptions])
def test_the_options_of_families_are_told_with_their_values_and_their_families(function):
    told = inspect.getdoc(function) or ""
    for name, kind in get_type_hints(FamilyOptions).items():
        _, is_named, behind = told.partition(f"\n{name} : ")
        assert is_named
        head, body = behind.splitlines()[:2]
        assert {word for word in allowed(kind) if isinstance(word, str)} == {*head.split('"')[1::2]}
        owners = {family for family, options in OPTIONS.items() if name in get_type_hints(options)}
        words = {1: "NVILA alone.", len(OPTIONS): "All families;"}.get(len(owners), "All families but NVILA.")
        assert body.strip().startswith(words)


@pytest.mark.parametrize(
    "function", [Session.stream, Session.ask_many, Chat.ask, Chat.stream], ids=lambda each: each.__qualname__
)
def test_whatever_takes_the_options_of_families_names_them(function):
    names = ", ".join(get_type_hints(FamilyOptions))
    assert f"\n{names}\n" in (inspect.getdoc(function) or "")
    assert inspect.signature(function).parameters["options"].annotation == "Unpack[FamilyOptions]"


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
