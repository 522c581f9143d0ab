"""Earlier answers in a prompt: their own tokens in their place, and the prompt of each turn the beginning of the next."""

from __future__ import annotations

import re

import pytest

from tests.conftest import CHECKPOINTS
from vila_lab.nvila.replies import Reply, tokenised
from vila_lab.prompt import Prompt, Turn

REPLIES = [
    "Google.",
    "",
    "\n\nTwo lines\n",
    " leading",
    "图像1是谷歌。",
    "👍🏽",
    "a <|im_end|> and </s> typed",
    "123 456",
]


def words(text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """A tokenizer whose tokens are words with the blanks before them, and runs of line ends; 0 stands before a text."""
    spans = [found.span() for found in re.finditer(r"\n+|[^\S\n]*\S+|[^\S\n]+", text)]
    ids = [sum(map(ord, text[a:b])) for a, b in spans]
    return ([0, *ids], [(0, 0), *spans]) if special else (ids, spans)


@pytest.mark.parametrize("own", [(), (7, 8, 9)])
def test_a_reply_has_its_own_tokens_or_those_of_the_text(own):
    text = "user: one\nmodel: two three\nuser: four\nmodel:"
    start = text.index(" two")
    ids, offsets = tokenised(words, text, [Reply(start, start + len(" two three"), own)])
    whole, spans = words(text, True)
    place = spans.index((start, start + 4))
    assert ids == ([*whole[:place], *own, *whole[place + 2 :]] if own else whole)
    assert len(ids) == len(offsets)
    assert ids[: len(words(text[:start], True)[0])] == words(text[:start], True)[0]


def test_a_token_across_a_bound_is_two():
    """The line end of the template and those of the reply are one token of the text as a whole."""
    text = "model:\n\n\ntwo\nuser:"
    ids, _ = tokenised(words, text, [Reply(7, 12)])
    assert ids == [*words("model:\n", True)[0], *words("\n\ntwo", False)[0], *words("\nuser:", False)[0]]
    assert ids != words(text, True)[0]


@pytest.mark.parametrize("mode", ["auto", "vicuna_v1", "llama_3", "hermes-2", "plain"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_whatever_was_said_the_first_prompt_begins_the_second(golden_session, golden_image, name, mode):
    family = golden_session(name).family
    options = family.options_of({"conv_mode": mode})
    picture = Prompt.of([golden_image("a_land.png"), "Hi?"])
    first = family.prepare(picture, options).inputs["input_ids"][0].tolist()
    control = set(family.tokenizer.added_tokens_decoder)
    for said in REPLIES:
        for own in ((), (5, 6, 7)):
            turns = (Turn("user", picture.parts), Turn("assistant", (said,), own))
            prepared = family.prepare(Prompt(("And?",), turns), options)
            ids, tokens = prepared.inputs["input_ids"][0].tolist(), prepared.token_map
            assert ids[: len(first)] == first
            assert tokens.replies[:, 0].tolist() == [len(first)]
            reply = [ids[p] for p in tokens.positions("replies")]
            assert not set(reply[:-1]) & control or own
            if own:
                assert reply[:-1] == list(own)
            else:
                said_again = family.tokenizer.decode(reply[:-1])
                assert said_again.strip() == said.strip()
            assert tokens.n_turns == 2
