"""What a sweep shows: tables that are right, a page that works offline, a notebook that runs, two sweeps side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vila_lab
from vila_lab import Session
from vila_lab.errors import OptionError
from vila_lab.sweeps import scores
from vila_lab.sweeps.compacting import compact
from vila_lab.sweeps.opened import Sweep
from vila_lab.sweeps.pages import page, write_report
from vila_lab.sweeps.report import Report

pytest.importorskip("pyarrow")

Questions = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sweep(questions: Questions, lab: Session, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Twelve questions, of which two are said to have another answer, and one has no picture."""
    rows = questions(12)
    rows[1]["answer"] = rows[6]["answer"] = "a cat"
    rows[3]["images"] = ["nowhere.png"]
    return vila_lab.sweep(rows, tmp_path_factory.mktemp("sweep"), lab=lab, methods="ledger,leave_one_out", batch_size=5)


def test_accuracy_counts_what_could_be_judged(sweep: Sweep) -> None:
    tables = Report(sweep).tables
    assert tables["accuracy"].loc["all", ["count", "right"]].tolist() == [11, 9]
    split = tables["accuracy by task"]
    assert split["count"].tolist() == [6, 5]
    assert split["right"].sum() == 9
    assert tables["errors"]["count"].tolist() == [1]
    assert "nowhere.png" in tables["errors"].index[0]


def test_an_interval_holds_the_share_as_often_as_it_says() -> None:
    """Of many draws 95 % have their true share inside; fewer than 92 % would be no interval of 95 %."""
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.93):
        ends = np.array([scores.interval(hits, 60) for hits in rng.binomial(60, share, 4000)])
        assert ((ends[:, 0] <= share) & (share <= ends[:, 1])).mean() > 0.92


def test_the_right_picture_is_named(sweep: Sweep) -> None:
    table = Report(sweep).tables["on the right picture"]
    assert table.loc["leave_one_out", "share"] == 1
    assert table.loc["leave_one_out, wrong answers", "count"] == 2


def test_places_add_up_to_one(sweep: Sweep) -> None:
    table = Report(sweep).tables["which place is named"]
    assert table.groupby(["method", "pictures"])["share"].sum().to_numpy() == pytest.approx(1)
    assert (table["even"] == 0.5).all()


def test_calibration_of_what_is_as_sure_as_it_is_right() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)
    frame = pd.DataFrame({"confidence": sure, "right": pd.Series(rng.random(20_000) < sure, dtype=object)})
    assert scores.calibration(frame).attrs["ece"] < 0.02
    frame["right"] = pd.Series(rng.random(20_000) < 0.5, dtype=object)
    assert scores.calibration(frame).attrs["ece"] == pytest.approx(0.25, abs=0.02)


def test_the_worst_are_wrong_and_sure(sweep: Sweep) -> None:
    report = Report(sweep)
    frame = report.frame.set_index("key").loc[report.worst()]
    assert (frame["right"] == False).all()  # noqa: E712
    assert sorted(frame["id"]) == ["q1", "q6"]


def test_the_worst_are_known_also_where_every_answer_was_judged(
    questions: Questions, lab: Session, tmp_path: Path
) -> None:
    rows = questions(3)
    rows[1]["answer"] = "a cat"
    report = Report(vila_lab.sweep(rows, tmp_path, lab=lab))
    assert report.knows_wrong
    assert report.frame.set_index("key").loc[report.worst(), "id"].tolist() == ["q1"]


@pytest.mark.parametrize("kind", ["accuracy", "calibration", "places"])
def test_every_figure_is_drawn(sweep: Sweep, kind: str) -> None:
    figure: Any = Report(sweep).plot(kind).figure
    figure.canvas.draw()


def test_what_a_report_has_not_is_refused(sweep: Sweep, lab: Session, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'calibration'"):
        Report(sweep).plot("calibratoin")
    with pytest.raises(OptionError, match="there is no run 'x'"):
        Report(sweep, "x")
    with pytest.raises(OptionError, match="nothing was asked"):
        Report(vila_lab.sweep([], tmp_path, lab=lab))


def test_what_stands_in_a_table_can_do_nothing_on_the_page(lab: Session, questions: Questions, tmp_path: Path) -> None:
    rows = questions(2)
    rows[0]["task"], rows[1]["task"] = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"
    rows[1]["answer"] = "</main><script>alert(3)</script>"
    text = page(Report(vila_lab.sweep(rows, tmp_path, lab=lab)))
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_the_notebook_makes_the_same_tables(sweep: Sweep) -> None:
    _, path = write_report(sweep)
    made = json.loads(Path(path).read_text(encoding="utf-8"))
    code = [
        cell["source"].replace('open_sweep(".")', f"open_sweep({sweep.store.place!r})")
        for cell in made["cells"]
        if cell["cell_type"] == "code"
    ]
    names: dict[str, Any] = {}
    for cell in code:
        exec(cell, names)  # as a notebook does
    assert names["report"].tables.keys() == Report(sweep).tables.keys()
    assert names["answer"].text


@pytest.mark.parametrize("width", [375, 1100])
def test_the_page_works_offline_at_every_width(sweep: Sweep, browser: Any, width: int) -> None:
    path, _ = write_report(sweep)
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    shown = context.new_page()
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.goto(Path(path).as_uri())
    for number in range(2):
        shown.locator("[data-alive]").nth(number).wait_for(state="attached")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    context.close()


# ---- compacted -------------------------------------------------------------------------------------------------------


def test_what_was_compacted_says_the_same_and_takes_what_comes_after(
    questions: Questions, lab: Session, tmp_path: Path
) -> None:
    rows = questions(7)
    rows[6]["images"] = [str(tmp_path / "late.png")]
    sweep = vila_lab.sweep(rows[:4] + rows[6:], tmp_path / "out", lab=lab, batch_size=2)
    before = sweep.frame()
    compact(sweep)
    opened = vila_lab.open_sweep(tmp_path / "out")
    pd.testing.assert_frame_equal(opened.frame(), before)
    (tmp_path / "late.png").write_bytes((vila_lab.demo_images() / "g.png").read_bytes())
    vila_lab.sweep(rows, tmp_path / "out", lab=lab, batch_size=2)
    after = opened.frame()
    assert sorted(after["id"]) == [f"q{k}" for k in range(7)]
    assert after["error"].isna().all()
    assert len(opened.tokens()) == (after["pictures"] * after["n_tokens"]).sum()


def test_compacted_maps_are_those_of_the_parts(sweep: Sweep) -> None:
    zarr = pytest.importorskip("zarr")
    compact(sweep)
    root = zarr.open_group(sweep.store.path("maps.zarr"), mode="r")
    maps = sweep.maps()
    group = root["attention"]["6x6"]
    assert root.metadata.zarr_format == 3
    assert group["maps"].shape == (22, 6, 6)
    for k in range(22):
        key, picture = bytes(group["key"][k]).hex(), int(group["picture"][k])
        np.testing.assert_array_equal(group["maps"][k], maps[key][picture - 1].to_numpy())


# ---- side by side ----------------------------------------------------------------------------------------------------


def test_two_sweeps_tell_what_flipped(sweep: Sweep, questions: Questions, lab: Session, tmp_path: Path) -> None:
    rows = questions(12)
    rows[1]["answer"] = rows[6]["answer"] = "a cat"
    rows[0]["question"] = "What is in image 2?"  # its answer is wrong now
    found = sweep.compare(vila_lab.sweep(rows, tmp_path, lab=lab, methods="ledger,leave_one_out"))
    assert found.flips.to_dict() == {"right to wrong": 1, "other answer": 1}  # the other had no answer before
    assert found.accuracy["right"].tolist() == [9, 9]
    same = found.shares.loc["leave_one_out"]
    assert same["same picture"] == pytest.approx(10 / 11)
    assert "questions in common" in repr(found)
    assert "<table" in found._repr_html_()


def test_a_sweep_beside_itself_differs_in_nothing(sweep: Sweep) -> None:
    found = sweep.compare(sweep)
    assert found.flips.empty
    assert (found.shares["mean difference"] == 0).all()


def test_sweeps_without_a_common_question_are_refused(
    sweep: Sweep, questions: Questions, lab: Session, tmp_path: Path
) -> None:
    other = [row | {"id": f"other {row['id']}"} for row in questions(2)]
    with pytest.raises(OptionError, match="no question in common"):
        sweep.compare(vila_lab.sweep(other, tmp_path, lab=lab))
