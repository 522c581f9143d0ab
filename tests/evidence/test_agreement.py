"""Several kinds of evidence in one table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vila_lab.errors import CaptureError, OptionError
from vila_lab.evidence.agreement import METHODS, disagreements, kendall


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2], [1, 2, 3], 2 / np.sqrt(2 * 3)),
    ],
    ids=["same", "opposite", "one swap", "tie"],
)
def test_kendall_by_hand(a, b, tau):
    assert kendall(a, b) == pytest.approx(tau)
    assert kendall(b, a) == pytest.approx(tau)


@pytest.mark.parametrize(("a", "b"), [([1], [2]), ([1, 1, 1], [1, 2, 3])], ids=["one", "all tied"])
def test_what_ranks_nothing_agrees_with_nothing(a, b):
    assert np.isnan(kendall(a, b))


def table(rows: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=["image_1", "image_2", "image_3"]).T


def test_a_method_that_names_another_picture_is_flagged():
    shares = table({name: [0.1, 0.8, 0.1] for name in METHODS} | {"attention": [0.7, 0.2, 0.1]})
    found = disagreements(shares)
    assert len(found) == 3
    assert "attention puts image_1 first, leave_one_out puts image_2 first" in found
    assert disagreements(table({name: [0.1, 0.8, 0.1] for name in METHODS})) == ()


def test_the_table_holds_what_the_methods_say(answer):
    found = answer.evidence(token=1)
    assert list(found.shares.index) == list(METHODS)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    for name in METHODS:
        expected = answer.attribute(name, 1).shares()
        np.testing.assert_allclose(found.shares.loc[name], expected, atol=1e-6)
    assert "not causal evidence" in repr(found)
    assert "leave_one_out" in found.note
    assert found._repr_html_().startswith("<div>")


def test_the_causal_evidence_names_the_picture_asked_about(microsoft):
    found = microsoft.evidence()
    assert found.shares.loc["leave_one_out"].idxmax() == found.shares.loc["shapley"].idxmax() == "image_2"
    assert found.tau.loc["leave_one_out", "shapley"] == 1


def test_bad_input(answer, tiny, tmp_path):
    import vila_lab

    with pytest.raises(OptionError, match="there is no token 9"):
        answer.evidence(token=9)
    with pytest.raises(OptionError, match="no picture"):
        tiny.ask("Hello", max_new_tokens=1).evidence()
    with pytest.raises(CaptureError, match="ask again"):
        vila_lab.open(answer.save(tmp_path / "a.vila")).evidence()
