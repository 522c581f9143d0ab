"""A server of another family's model: what holds in the kernel holds over the wire."""

from __future__ import annotations

import numpy as np
import pytest

import vila_lab
from tests.families.checkpoints import image, parts, session
from vila_lab.errors import NoEffect, OptionError, PromptError

from .conftest import TOKEN


@pytest.fixture(scope="module", params=["qwen3_vl", "gemma3", "paligemma", "idefics3"])
def both(request, another_server):
    """The session here, and the same over the wire."""
    lab = session(request.param)
    with another_server(lab) as (url, _), vila_lab.connect(url, TOKEN) as there:
        yield lab, there


def test_an_answer_and_what_is_asked_about_it(both):
    lab, there = both
    here, far = (each.ask(parts(2), max_new_tokens=3, generation_config="checkpoint") for each in (lab, there))
    assert here.tokens == far.tokens
    assert here.notes == far.notes
    np.testing.assert_array_equal(here.token_map.block, far.token_map.block)
    assert here.ledger().equals(far.ledger())
    np.testing.assert_array_equal(here.attention().values, far.attention().values)
    for method in ("leave_one_out", "relevancy", "input_x_gradient"):
        np.testing.assert_array_equal(here.attribute(method, token=0).values, far.attribute(method, token=0).values)
    with lab.knockout("image_1 -> answer"), there.knockout("image_1 -> answer"):
        assert lab.ask(parts(2), max_new_tokens=2).tokens == there.ask(parts(2), max_new_tokens=2).tokens


def test_errors_are_the_same(both):
    _, there = both
    with pytest.raises(
        OptionError, match=r"has no option .tile_all_images.; it has conv_mode, generation_config, picture_order"
    ):
        there.ask(parts(1), tile_all_images=True)
    with pytest.raises(PromptError, match="would read as a control token"):
        there.ask([image("c_sq"), f"What is {both[0].tokenizer.eos_token}?"])
    if both[0].family.needs_no_picture:
        with there.knockout("image_2 -> image_1"), pytest.raises(NoEffect, match="stands before"):
            there.ask(parts(2), max_new_tokens=2)
