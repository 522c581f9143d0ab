"""Which tokens a target means, and that a word, its tokens and its contrast are scored as said."""

from __future__ import annotations

import pytest
import torch

from vila_lab.engine.target import SCORES, resolve
from vila_lab.errors import OptionError
from vila_lab.tokens import Token


def tokens(*said: tuple[str, int]) -> tuple[Token, ...]:
    """An answer whose last token ends it."""
    return tuple(Token(text, number, -0.1, 9 + k, stop=k == len(said) - 1) for k, (text, number) in enumerate(said))


SAID = tokens(("A", 1), (" red", 2), (" ci", 3), ("rcle", 4), (" red", 2), ("", 9))
IDS = {" square": [7, 8], "square": [5], " red": [2], "A": [1], " circle": [3, 4], "": []}


def find(token=None, contrast=None, **options):
    return resolve(SAID, lambda text: IDS.get(text, [6]), token, contrast, **options)


@pytest.mark.parametrize(
    ("token", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (0, [0]),
        (-2, [4]),
        (slice(1, 3), [1, 2]),
        ([3, 1], [1, 3]),
        ("circle", [2, 3]),
        ("red", [1]),
        ("A red", [0, 1]),
    ],
    ids=str,
)
def test_the_tokens_that_are_meant(token, numbers):
    target = find(token)
    assert [row.number for row in target.rows] == numbers
    assert target.query_rows() == numbers
    assert target.ids() == [SAID[k].id for k in numbers]
    assert target.passes[0].fed == tuple(said.id for said in SAID[: max(numbers)])


def test_a_word_said_twice_means_the_first_and_says_so():
    assert "2 times" in find("red").note
    assert find("circle").note == ""


def test_parts_of_a_character_belong_to_the_token_that_completes_it():
    said = tokens(("x", 1), ("", 2), ("", 3), ("猫", 4), ("", 9))
    assert [row.number for row in resolve(said, lambda text: [], "猫").rows] == [1, 2, 3]


def test_a_word_that_was_not_said_stands_in_the_answers_place():
    target = find("square", at=2)
    assert target.passes[0].fed == (1, 2, 7)
    assert target.ids() == [7, 8]
    assert target.query_rows() == [2, 3]
    assert "did not choose" in target.note


def test_contrasts_of_one_token_share_one_pass():
    (only,) = find(1, "A").passes
    assert only.fed == (1,)
    assert [(entry.row, entry.weight) for entry in only.entries] == [(1, 1.0), (1, -1.0)]


def test_longer_contrasts_begin_at_the_same_place():
    mine, other = find("circle", "square").passes
    assert mine.fed == (1, 2, 3)
    assert other.fed == (1, 2, 7)
    assert [entry.row for entry in mine.entries] == [entry.row for entry in other.entries] == [2, 3]


@pytest.mark.parametrize("score", SCORES)
def test_the_score_is_the_sum_over_the_words_tokens(score):
    target = find("circle", "square", score=score)
    logits = [torch.randn(2, 10, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1)]
    chances = [table.softmax(-1) for table in logits]
    value = {"logprob": lambda p: p.log(), "logodds": lambda p: (p / (1 - p)).log()}[score]
    expected = sum(value(chances[0][k, i]) for k, i in enumerate((3, 4)))
    expected -= sum(value(chances[1][k, i]) for k, i in enumerate((7, 8)))
    torch.testing.assert_close(target.values(logits), expected[None])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: find(6), "there is no token 6: this answer has 6"),
        (lambda: find(-7), "there is no token -7"),
        (lambda: find("blue"), "'blue' is not in the answer 'A red circle red'"),
        (lambda: find(slice(9, 12)), "holds no token"),
        (lambda: find([]), "names no token"),
        (lambda: find(1.5), r"takes a number, a slice, a list of numbers or a word, not 1\.5"),
        (lambda: find(1, "   "), "the contrast '   ' has no tokens"),
        (lambda: find(1, "red"), "is the target itself"),
        (lambda: find([0, 2], "A"), "needs neighbouring tokens"),
        (lambda: find(1, at=0), "at= says where a given word stands"),
        (lambda: find("square", at=8), "there is no token 8"),
        (lambda: find(1, score="x"), "known: logprob, logodds"),
        (lambda: resolve((), lambda text: [1]), "has no tokens"),
        (lambda: resolve(SAID, lambda text: [], 0, "\u200b"), "has no tokens for this model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_target_gets_one_sentence(ask, message):
    with pytest.raises(OptionError, match=message):
        ask()
