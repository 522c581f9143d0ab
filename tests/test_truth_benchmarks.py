"""What the benchmarks of truth reckon with: questions whose answer is known, reliability, and what they print. No model is asked."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from benchmarks import attribution, calibration, checkpoints, edits, heads
from benchmarks.truth import given, other_word, unnamed
from vila_lab.evidence.heads import HeadRanking


def test_a_question_that_does_not_name_its_picture_has_one_right_answer():
    found = list(islice(unnamed(0), 8))
    assert [case.sample.picture for case in found] == [0, 1, 2, 3] * 2
    for case in found:
        assert case.finds in case.sample.question
        assert str(case.sample.picture + 1) == case.sample.word
        assert not any(digit in case.sample.question for digit in "1234")
        assert case.answer.rstrip(".。").endswith(case.sample.word)


def test_questions_from_a_file_are_those_of_the_file(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40), "red").save(tmp_path / name)
    line = {
        "images": ["a.png", "b.png"],
        "question": "Where?",
        "picture": "image_2",
        "boxes": [[1, 2, 30, 40]],
        "word": "here",
    }
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(line) + "\n\n" + json.dumps(line | {"answer": "Here."}) + "\n", encoding="utf-8")
    first, second = given(file)
    assert (first.sample.picture, first.sample.boxes, first.answer) == (1, ((1, 2, 30, 40),), "")
    assert second.answer == "Here."
    assert first.parts == [tmp_path / "a.png", tmp_path / "b.png", "Where?"]


@pytest.mark.parametrize(("word", "like"), [("2", "134"), ("cat", None), ("猫", None)])
def test_a_shuffled_word_is_another_one_of_its_kind(word, like):
    rng = np.random.default_rng(0)
    drawn = {other_word(rng, word) for _ in range(60)}
    assert word not in drawn
    assert drawn == set(like) if like else len(drawn) > 10
    assert word.isascii() == all(each.isascii() for each in drawn)


def rows(count: int, *, gap: float) -> list[dict[str, object]]:
    rng = np.random.default_rng(1)
    probable = rng.random(count)
    return [{"probability": p, "right": bool(rng.random() < p - gap)} for p in probable.tolist()]


def test_as_sure_as_right_has_no_error_and_too_sure_has_its_gap():
    calm, sure = (calibration.reliability(rows(4000, gap=gap))["error"] for gap in (0.0, 0.3))
    assert calm[0] < 0.04
    assert sure[1] < 0.26 < sure[2]  # 0.3, but no share is below zero
    assert sum(each["answers"] for each in calibration.reliability(rows(500, gap=0.0))["bins"]) == 500


def test_a_set_of_heads_is_taken_from_the_ranking_by_its_scores():
    ranking = tuple(
        {"layer": layer, "head": head, "score": layer + head / 10} for layer in range(2) for head in range(4)
    )
    found = HeadRanking("causal", "m", "", (), ranking, {}, 8, 0, (2, 4))
    assert heads.set_of(found, 3) == [(1, 3), (1, 2), (0, 3)]


@pytest.mark.parametrize("benchmark", [attribution, calibration, edits, heads], ids=lambda each: each.__name__)
@pytest.mark.parametrize("model", [None, "second"])
def test_what_was_measured_is_printed(benchmark, model):
    results = checkpoints.results_of(benchmark.RESULTS, model)
    if model is not None and benchmark is calibration:
        pytest.skip("of the embedded model alone")
    printed = benchmark.printed(json.loads(results.read_text(encoding="utf-8")))
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) > 3
    assert "nan" not in printed


def test_the_method_to_use_is_the_cheapest_of_the_best():
    def row(share: float, high: float, seconds: float) -> dict[str, list[float]]:
        return {"routing": [share, share - 0.1, high], "seconds": [seconds, 0, 0]}

    methods = {
        "attention, all heads": row(0.4, 0.5, 0.01),
        "attention, controls of routing": row(1.0, 1.0, 0.001),
        "shapley": row(0.97, 0.99, 0.3),
        "leave_one_out": row(0.96, 0.98, 0.1),
        "flat map": row(1.0, 1.0, 0.0),
    }
    assert "use `leave_one_out`" in attribution.advice({"unnamed": {"methods": methods}})
