"""Whose checkpoint it is, and what its family may be told."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

import vila_lab
from vila_lab.errors import CheckpointError, OptionError
from vila_lab.families import FAMILIES, OPTIONS
from vila_lab.families.loading import family_of
from vila_lab.nvila.folder import MODEL_TYPES


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_checkpoint_finds_its_family(kind):
    assert family_of({"model_type": kind}, "x").__name__ == "NVILAFamily"


@pytest.mark.parametrize("config", [{"model_type": "kosmos-2"}, {"model_type": None}, {}, {"model_type": ["nvila"]}])
def test_a_checkpoint_of_no_known_family_is_refused_by_one_sentence(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"which no family here reads; known families: nvila, .*qwen2_5_vl, .*mistral3\."
    ) as caught:
        vila_lab.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert repr(config.get("model_type")) in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_command_line_lists_the_options_that_the_family_takes(name):
    module, attribute = FAMILIES[name]
    family = getattr(__import__(module, fromlist=[attribute]), attribute)
    assert family.options is OPTIONS[name]
    assert family.options_of({}) == family.options()
    for option in fields(family.options):
        assert getattr(family.options_of({option.name: option.default}), option.name) == option.default


def test_an_option_of_no_family_is_named_with_those_there_are(lab):
    with pytest.raises(OptionError, match=r"there is no option tiles; .* conv_mode, tile_all_images"):
        lab.ask("Hello", tiles=4)


def test_an_option_is_resolved_once_and_goes_with_the_answer(lab, demo):
    answer = lab.ask([demo / "g.png", "What is it?"], max_new_tokens=1, tile_all_images=True)
    assert answer.replay.options.conv_mode == lab.family.processor.conv_mode
    assert answer.replay.options.tile_all_images
    assert answer.replay.prepared.options == answer.replay.options
