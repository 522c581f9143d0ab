"""The benchmark of growth: exponents by hand, and one small round of everything it measures."""

from __future__ import annotations

import pytest

from benchmarks import growth


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_a_power_is_found_and_told_from_its_work(power):
    sizes = (1, 2, 4, 8)
    rounds = [[{"it": (wobble * size**power, 10 * size)} for size in sizes] for wobble in (0.9, 1.0, 1.2)]
    (row,) = growth.exponents(sizes, rounds, "more")
    assert float(row["exponent"].split()[0]) == pytest.approx(power, abs=1e-3)
    assert (row["last"], row["of its work"]) == pytest.approx((power, 1))
    assert row["faster than its work"] == ("yes" if power > 1 else "no")


def test_everything_is_measured_once():
    with growth.one_thread():
        report = growth.measure(1, pictures=(1, 2), answers=(2, 4))
    named = [row["with 1 to 2 pictures"] for row in report["by pictures"]]
    assert named == ["plain generate", "ask", "display", "page", "plain forward", *growth.METHODS, "evidence"]
    longer = [row["with 2 to 4 tokens"] for row in report["by answer"]]
    assert longer == [*named, "display of twelve layers", "page of twelve layers"]
    assert all(row["ms at the first"] > 0 for row in report["by pictures"] + report["by answer"])
    shown = [
        row["of its work"] for row in report["by answer"] if row["with 2 to 4 tokens"].startswith(("display", "page"))
    ]
    assert len(shown) == 4
    assert all(1 <= power < 1.1 for power in shown)  # twice as many tokens, and hardly more positions
    assert "| plain generate |" in growth.printed(report)
