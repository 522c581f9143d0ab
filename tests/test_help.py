"""What `help` shows: every public name says what it is, with an example, and options stand in signatures, as where they are used."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Generic, get_args, get_type_hints

import pytest

import vila_lab
from vila_lab import Answer, Attribution, Chat, Prompt, Session, Text, Token, TokenMap, Video
from vila_lab.answers import Answers
from vila_lab.attribution.registry import NAMES, find
from vila_lab.attribution.result import Cost
from vila_lab.attribution.vision import VisionAttention
from vila_lab.edits.flow import Flow
from vila_lab.edits.handle import Handle
from vila_lab.edits.looks import AttentionEvent, HiddenEvent
from vila_lab.edits.redirect import Redirection
from vila_lab.engine.memory import Memory
from vila_lab.errors import OptionError
from vila_lab.evidence import Evidence, HeadRanking, MetricCard, OrderTest, Sample
from vila_lab.evidence.effect import Effect
from vila_lab.experiments import EXPERIMENTS
from vila_lab.families import OPTIONS
from vila_lab.families.options import FamilyOptions
from vila_lab.picture import Picture
from vila_lab.remote import RemoteSession
from vila_lab.stream import Stream
from vila_lab.view.compare import Comparison
from vila_lab.view.display import Display
from vila_lab.view.plots import KINDS

HELD = (
    Answer, Answers, Attribution, AttentionEvent, Chat, Comparison, Cost, Display, Effect, Evidence, Flow, Handle, HeadRanking,
    HiddenEvent, Memory, MetricCard, OrderTest, Picture, Prompt, Redirection, RemoteSession, Sample, Session, Stream, Text, Token,
    TokenMap, Video, VisionAttention,
)  # fmt: skip
"""What a reader holds in the hand: the classes of `__all__`, and what their methods give."""

WITHOUT_A_READER = (AttentionEvent, HiddenEvent, RemoteSession)
"""The first two are given to a function, as the examples of `Session.on_attention` and `on_hidden` show; a `RemoteSession` needs a
server, and has the contract of `Session`, whose examples hold for it."""

BUILT_IN = (str, tuple, list, object, Exception, Iterator, Generic)
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


def public() -> dict[str, Any]:
    """Every public name, and what it is."""
    found = {name: getattr(vila_lab, name) for name in vila_lab.__all__ if name not in ("__version__", "families")}
    for kind in HELD:
        own = {name for each in kind.__mro__ if each not in BUILT_IN for name in vars(each)}
        for name, member in inspect.getmembers(kind):
            is_described = callable(member) or isinstance(member, property) or hasattr(member, "func")
            if name in own and not name.startswith("_") and is_described:
                found[f"{kind.__name__}.{name}"] = member
    return found


def examples_of(kind: type) -> str:
    """The code of a class's examples."""
    return "\n".join(re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", kind.__doc__ or "", re.MULTILINE))


PUBLIC = public()
CALLED = [name for name, thing in PUBLIC.items() if callable(thing)]
READ = [name for name in PUBLIC if name not in CALLED]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name):
    assert inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize(
    "name", [each for each in CALLED if each not in SEAM and not each.startswith("RemoteSession.")]
)
def test_every_public_method_has_an_example(name):
    assert ">>>" in (inspect.getdoc(PUBLIC[name]) or "")


@pytest.mark.parametrize("kind", [each for each in HELD if each not in WITHOUT_A_READER])
def test_every_class_shows_itself_and_its_properties(kind):
    shown = examples_of(kind)
    assert shown
    for name in READ:
        owner, _, attribute = name.partition(".")
        if owner == kind.__name__ and ">>>" not in (inspect.getdoc(PUBLIC[name]) or ""):
            assert re.search(rf"\.{attribute}\b", shown), name


@pytest.mark.parametrize("kind", [each for each in HELD if is_dataclass(each)])
def test_every_field_is_described(kind):
    described = (kind.__doc__ or "").partition("Examples\n")[0]
    listed = {
        name for line in re.findall(r"^ {4}([\w, ]+?)(?: : .*)?$", described, re.MULTILINE) for name in line.split(", ")
    }
    assert {each.name for each in fields(kind) if not each.name.startswith("_")} <= listed


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_stand_under_their_head(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert ">>>" not in text.partition("Examples\n--------\n")[0]


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


@pytest.mark.parametrize("name", ["patch_scan", "patch_heads"])
def test_a_scan_is_called_as_it_is(name):
    there = set(EXPERIMENTS[name].parameters) - {"from_record"}
    assert named(getattr(Session, name)) == there | {"answer", "from_answer"}


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
