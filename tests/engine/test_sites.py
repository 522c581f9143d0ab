"""Where the decoder's attention is: looked for once, and again where a module was replaced."""

from __future__ import annotations

import copy

import pytest

import vila_lab
from vila_lab import Session
from vila_lab.families import decoder
from vila_lab.hooks.sites import select_sites


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each walk through a model's modules."""
    found: list[str] = []

    def counted(model, towers):
        found.extend(towers)
        return select_sites(model, towers)

    monkeypatch.setattr(decoder, "select_sites", counted)
    return found


def test_the_model_is_not_walked_for_every_question(lab: Session, walks: list[str]) -> None:
    lab.ask("Hello", max_new_tokens=1)
    before = len(walks)
    lab.ask("Hello again", max_new_tokens=1)
    lab.ask_many(["One", "Two"], max_new_tokens=1)
    assert len(walks) == before


@pytest.mark.parametrize("kind", ["another module", "another path"])
def test_a_module_that_was_replaced_is_found(lab: Session, walks: list[str], kind: str) -> None:
    family, question = lab.family, [vila_lab.demo_images() / "g.png", "What is in image 1?"]
    expected = lab.ask(question).ledger()
    layers = lab.model.get_submodule(family.components.layers)
    was = layers[0]
    try:
        if kind == "another module":
            config = was.self_attn.config
            layers[0] = copy.deepcopy(was, {id(config): config})  # by which a decoder's modules are told
        else:
            family.sites[0] = copy.copy(family.sites[0])
            object.__setattr__(family.sites[0], "name", "no.such.path")
        walks.clear()
        found = lab.ask(question)
        assert walks == ["text"]
        assert [site.module for site in family.sites] == [
            site.module for site in select_sites(lab.model, ("text",))["text"]
        ]
        assert found.ledger().equals(expected)
    finally:
        layers[0] = was
