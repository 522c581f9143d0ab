"""Every experiment by its name gives what the answer's own method gives; options are checked; what is no experiment is told."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import vila_lab
from vila_lab.engine.request import Request
from vila_lab.errors import CaptureError, OptionError
from vila_lab.evidence import random_weights_map
from vila_lab.experiments import EXPERIMENTS, experiment
from vila_lab.prompt import Prompt

BY_THE_ANSWER = {
    "attribute": ({"method": "leave_one_out"}, lambda lab, one, other: one.attribute("leave_one_out")),
    "evidence": ({}, lambda lab, one, other: one.evidence()),
    "metric_card": ({"method": "attention"}, lambda lab, one, other: one.metric_card("attention")),
    "random_weights_map": ({"method": "attention"}, lambda lab, one, other: random_weights_map(one.replay, "attention")),
    "flow": ({"token": 0}, lambda lab, one, other: one.flow(0)),
    "leakage": ({}, lambda lab, one, other: one.leakage()),
    "causal_leakage": ({}, lambda lab, one, other: one.leakage(causal=True)),
    "patch_scan": ({"layers": 2}, lambda lab, one, other: lab.patch_scan(one, other, layers=2)),
    "patch_heads": ({}, lambda lab, one, other: lab.patch_heads(one, other)),
    "redirect": ({"image": 0, "heads": None}, lambda lab, one, other: lab.redirect(one, image=0, heads=None)),
    "vision_attention": ({"at": (9, 9)}, lambda lab, one, other: one.vision_attention(at=(9, 9))),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


@pytest.fixture(scope="module")
def answers(lab) -> tuple[vila_lab.Answer, vila_lab.Answer]:
    folder = vila_lab.demo_images()
    asked = [[folder / "g.png", folder / f"{name}.png", "What is in image 2?"] for name in ("m", "a")]
    return lab.ask(asked[0]), lab.ask(asked[1])


def numbers(found: Any) -> Any:
    """What a result says."""
    for name in ("values", "scores", "table", "heatmap"):
        if hasattr(found, name) and not callable(getattr(found, name)):
            return np.asarray(getattr(found, name), np.float64)
    return found.after.tokens


def test_every_experiment_is_compared_here():
    assert set(BY_THE_ANSWER) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_by_name_it_is_what_the_answer_gives(name, lab, answers):
    options, direct = BY_THE_ANSWER[name]
    more = {"from_record": answers[1].record} if name in ("patch_scan", "patch_heads") else {}
    found, expected = lab.experiment(answers[0].record, name, **options, **more), direct(lab, *answers)
    assert type(found) is type(expected)
    if name == "redirect":
        assert numbers(found) == numbers(expected)
    else:
        np.testing.assert_array_equal(numbers(found), numbers(expected))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_table_says_what_each_takes_gives_and_tells(name):
    each = EXPERIMENTS[name]
    assert each.sentence.endswith((".", "?"))
    assert each.result not in ("Any", "None", "")
    assert not {"replay", "answer", "session", "lab"} & set(each.parameters)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flows", {}, r"unknown experiment 'flows' \(did you mean 'flow'\?\); known: attribute, evidence"),
        ("leakage", {"layers": 2}, "leakage has no option 'layers'; it has none"),
        (
            "redirect",
            {"to_image": 2},
            r"redirect has no option 'to_image' \(did you mean 'image'\?\); it has image, strength, heads, layers",
        ),
        (
            "redirect",
            {"image": 1.5},
            "a picture must be a whole number counted from 0, or a name such as 'image_1', not 1.5",
        ),
        ("attribute", {"method": "leave_one_out", "contrast": 3}, "contrast must be a text or None, not 3"),
        ("attribute", {"method": "leave_one_out", "colour": 3}, "colour"),
    ],
)
def test_a_wrong_name_or_option_is_one_sentence(name, options, message, lab, answers):
    with pytest.raises(OptionError, match=message):
        lab.experiment(answers[0].record, name, **options)


def test_a_request_is_answered_under_what_acts_here_and_its_own_edits(lab):
    folder = vila_lab.demo_images()
    request = Request(Prompt.of([folder / "g.png", folder / "m.png", "What is in image 2?"]))
    with lab.knockout("image_1 -> *", layers=0) as edit:
        record = lab.run(request)
        assert record.edits == (edit.label,)
    assert lab.run(request).edits == ()
    assert lab.run(Request(request.prompt, edits=(edit.spec,))).edits == (edit.label,)


def test_an_edited_answer_is_no_ground_for_an_experiment(lab):
    folder = vila_lab.demo_images()
    with lab.knockout("image_1 -> *"):
        answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
    with pytest.raises(OptionError, match="given under edits"):
        lab.experiment(answer.record, "flow")


def test_a_record_from_elsewhere_is_explained_by_its_own_model_and_no_other(lab, answers, golden_session):
    record = pickle.loads(pickle.dumps(answers[0].record))
    np.testing.assert_array_equal(
        lab.experiment(record, "leakage").values, lab.experiment(answers[0].record, "leakage").values
    )
    with pytest.raises(OptionError, match="of another model"):
        golden_session("nvila-lite").experiment(record, "leakage")
    with pytest.raises(CaptureError, match="no model any more"):
        pickle.loads(pickle.dumps(answers[0])).flow()


def test_what_is_embedded_for_one_experiment_serves_the_next(lab, answers, monkeypatch):
    """And is let go of with the answer's memory."""
    answer = answers[0]
    answer.release()
    counted = []
    embed = lab.family.embed
    monkeypatch.setattr(lab.family, "embed", lambda *given: counted.append(1) or embed(*given))
    answer.flow(0)
    first = len(counted)
    assert first >= 1
    assert answer.cache_bytes > 0
    answer.flow(0)
    experiment(answer.replay, "flow", token=0)
    assert len(counted) == first
    answer.release()
    assert answer.cache_bytes == 0
    answer.flow(0)
    assert len(counted) == 2 * first
