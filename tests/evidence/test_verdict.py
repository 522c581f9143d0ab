"""The verdict in words, from tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vila_lab.evidence.agreement import METHODS
from vila_lab.evidence.verdict import HARDLY, disagreements, verdict

PICTURES = ["image_1", "image_2", "image_3"]


def table(rows: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=PICTURES).T


def losing(*nats: float) -> pd.Series:
    return pd.Series(nats, index=["all", *PICTURES])


def said(effect: pd.Series, shares: list[float], *, weight: float | None = None) -> str:
    return verdict(effect, effect.max() if weight is None else weight, 0.9, table({"shapley": shares}), "shapley")


def test_a_method_that_names_another_picture_is_flagged():
    shares = table({name: [0.1, 0.8, 0.1] for name in METHODS} | {"attention": [0.7, 0.2, 0.1]})
    found = disagreements(shares)
    assert len(found) == 3
    assert "attention puts image_1 first, leave_one_out puts image_2 first" in found
    assert disagreements(table({name: [0.1, 0.8, 0.1] for name in METHODS})) == ()


@pytest.mark.parametrize("other", [[np.nan] * 3, [0.46, 0.45, 0.09]], ids=["says nothing", "a tie"])
def test_what_ranks_nothing_is_no_disagreement(other):
    assert disagreements(table({"shapley": [0.1, 0.8, 0.1], "attention": other})) == ()


def test_one_picture():
    found = said(losing(9.0, 0.1, 8.5, 0.0), [0.02, 0.97, 0.01])
    assert found.startswith("rests on picture 2: ")
    assert "8.5 nats" in found
    assert "9.0" in found


def test_a_share_of_a_picture_that_is_not_missed_beside_the_first_makes_no_second():
    assert said(losing(10.0, 0.0, 8.0, 0.0), [0.23, 0.67, 0.1]).startswith("rests on picture 2: ")
    assert said(losing(10.0, 2.1, 8.0, 0.0), [0.23, 0.67, 0.1]).startswith("rests on several pictures: picture 1 23%")


def test_what_others_stand_in_for_carries_no_answer_alone():
    found = said(losing(5.8, 0.1, 0.2, 0.0), [0.05, 0.9, 0.05])
    assert found.startswith(
        "rests on several pictures: by itself none loses more than 0.2 nats (1.2 times less probable); all"
    )
    assert "nothing; all together" in said(losing(5.8, -0.1, 0.0, 0.0), [0.05, 0.9, 0.05])
    assert ": picture 2 loses most by itself, 2.7 nats" in said(losing(5.8, 0.1, 2.7, 0.0), [0.05, 0.9, 0.05])


def test_several_pictures():
    found = said(losing(9.0, 0.1, 0.2, 0.0), [0.5, 0.45, 0.05])
    assert found.startswith("rests on several pictures: picture 1 50%, picture 2 45%")


@pytest.mark.parametrize(("weight", "hardly"), [(HARDLY - 0.01, True), (HARDLY, False)])
def test_the_weight_decides_whether_it_rests_on_any(weight, hardly):
    found = said(losing(9.0, 0.1, 8.5, 0.0), [0.02, 0.97, 0.01], weight=weight)
    assert found.startswith("hardly rests on any picture") == hardly


FIRST, SECOND, THIRD, NOTHING = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [np.nan] * 3
TIED = [0.5, 0.49, 0.01]


@pytest.mark.parametrize(
    ("attention", "gradients", "left_out", "shapley", "alone"),
    [
        (FIRST, SECOND, SECOND, SECOND, "attention alone puts picture 1 first"),
        (FIRST, NOTHING, SECOND, SECOND, "attention alone puts picture 1 first"),
        (SECOND, THIRD, SECOND, SECOND, "integrated_gradients alone puts picture 3 first"),
        (SECOND, SECOND, SECOND, SECOND, ""),
        (FIRST, NOTHING, NOTHING, SECOND, None),  # one against one
        (FIRST, TIED, TIED, SECOND, None),  # to the others both are alike
        (FIRST, FIRST, SECOND, SECOND, None),
        (FIRST, THIRD, SECOND, SECOND, None),
        (FIRST, FIRST, FIRST, SECOND, None),  # alone, but it is the one that decides
    ],
)
def test_one_method_against_all_others_is_no_disagreement_of_them(attention, gradients, left_out, shapley, alone):
    shares = table(dict(zip(METHODS, (attention, gradients, left_out, shapley), strict=True)))
    found = verdict(losing(9.0, 0.1, 8.5, 0.0), 8.5, 0.9, shares, "shapley")
    if alone is None:
        assert found.startswith("methods disagree: ")
    else:
        assert found.startswith("rests on picture 2: painted over, it loses 8.5 nats")
        assert found.endswith(f"; {alone}" if alone else "all pictures together 9.0")


def test_disagreement_comes_after_resting_on_nothing():
    shares = table({"attention": FIRST, "integrated_gradients": FIRST, "leave_one_out": SECOND, "shapley": SECOND})
    found = verdict(losing(9.0, 0.1, 8.5, 0.0), 8.5, 0.9, shares, "shapley")
    assert found.startswith(
        "methods disagree: leave_one_out and shapley put picture 2 first (painted over, it loses 8.5 nats"
    )
    assert "attention and integrated_gradients put picture 1 first" in found
    found = verdict(losing(0.1, 0.1, 0.2, 0.0), 0.2, 0.9, shares, "shapley")
    assert found.startswith("hardly rests on any picture: at most, with picture 2 painted over, it loses 0.2 nats")


@pytest.mark.parametrize(("painted", "says"), [(8.4, True), (HARDLY, True), (2.0, False), (None, False)])
def test_what_noise_would_do_as_well_is_said(painted, says):
    shares = table({"shapley": [0, 1, 0]})
    found = verdict(losing(9.0, 0.1, 8.5, 0.0), 0.2, 0.98, shares, "shapley", painted_weight=painted)
    assert found.startswith("hardly rests on any picture: at most, with all of them painted over, it loses 9.0 nats")
    assert (", but with noise there hardly anything; weighed" in found) == says
    assert found.endswith("(0.98) that is 0.2, below 3.0")


def test_what_becomes_more_probable_loses_nothing():
    assert "loses nothing" in said(losing(-0.5, 0.0, 0.0, 0.0), [0, 1, 0])


def test_twins_that_only_together_are_missed_are_several():
    nothing = table({"shapley": [np.nan] * 3})
    for alone in (-0.1, 0.0):
        found = verdict(losing(9.0, alone, alone, alone), 9.0, 0.9, nothing, "shapley")
        assert found.startswith("rests on several pictures: none is missed by itself; all together lose 9.0 nats")


@pytest.mark.parametrize("effect", [losing(*[np.nan] * 4), losing(9.0, np.nan, 0.1, 0.2)])
def test_what_is_no_number_gives_no_verdict(effect):
    assert said(effect, [np.nan] * 3, weight=float("nan")).startswith("no verdict: ")
