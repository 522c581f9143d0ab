"""A quiz shows no answer before it is revealed, and gives points for what is causal."""

from __future__ import annotations

import numpy as np
import pytest

import vila_lab
from vila_lab.errors import OptionError
from vila_lab.teaching import Exercise, Quiz


@pytest.fixture
def prompt(demo):
    return [demo / "g.png", demo / "m.png", demo / "n.png", "What is in image 2?"]


@pytest.fixture
def demo():
    return vila_lab.demo_images()


def test_an_exercise_shows_pictures_and_question_but_no_answer(lab, prompt):
    exercise = Exercise(lab, prompt)
    shown = exercise._repr_mimebundle_()
    answer = exercise.answer.text.rstrip(".")
    assert shown["text/html"].count("<img") == 3
    assert "What is in image 2?" in shown["text/html"]
    assert all(answer not in text for text in shown.values())


@pytest.mark.parametrize(
    ("picture", "survives", "points"),
    [
        ("image_2", False, 2),
        (1, False, 2),
        (-3, False, 1),
        ("image_3", True, 0),
        (None, False, 1),
        ("image_2", None, 1),
    ],
)
def test_points_are_for_the_causal_picture_and_for_survival(lab, prompt, picture, survives, points):
    exercise = Exercise(lab, prompt)
    exercise.predict(picture, survives)
    found = exercise.reveal()
    assert (found.picture, found.survives, found.points) == ("image_2", False, points)
    assert f"{points} of 2 points" in found._repr_html_()


def test_the_table_is_what_the_session_says(lab, prompt):
    exercise = Exercise(lab, prompt)
    exercise.predict(picture="image_1")
    table = exercise.reveal().table
    with lab.knockout("image_2 -> *"):
        assert table.loc["image_2", "without it"] == lab.ask(prompt, max_new_tokens=48).text
    assert table.loc["image_1", "without it"] == exercise.answer.text
    assert table["needed"].idxmax() == "image_2"
    assert 0 < table["read"].sum() < 1
    assert lab.edits == ()


def test_a_prediction_after_the_fact_does_not_count(lab, prompt):
    exercise = Exercise(lab, prompt)
    exercise.predict("image_1", True)
    exercise.reveal()
    with pytest.raises(OptionError, match="revealed already"):
        exercise.predict("image_2", False)
    assert exercise.reveal().points == 0


def test_nothing_is_revealed_before_a_prediction(lab, prompt):
    exercise = Exercise(lab, prompt)
    exercise.predict(None, None)
    with pytest.raises(OptionError, match="exercise 1: predict before you look") as refused:
        exercise.reveal()
    assert exercise.answer.text.rstrip(".") not in str(refused.value)
    assert exercise.revealed is None


def test_the_next_student_starts_anew_and_nothing_is_computed_again(lab):
    quiz = Quiz.drawn(lab, 2, seed=3)
    quiz.solutions()
    quiz[0].predict("image_1", True)
    quiz[0].reveal()
    other = quiz.anew()
    assert [each.result.tries for each in other] == [0, 0]
    assert other.score.revealed == 0
    assert other[0].answer is quiz[0].answer
    other[0].predict("image_2", True)
    assert quiz.score.revealed == 2  # the first one's stays


def test_the_course_is_a_quiz_of_its_own(lab):
    course = Quiz.course(lab)
    assert len(course) == 5
    assert course.fingerprint == Quiz.course(lab).fingerprint
    others = [Quiz.drawn(lab, 5, seed) for seed in range(6)]
    assert len({course.fingerprint, *(each.fingerprint for each in others)}) == 7


@pytest.mark.parametrize(("options", "message"), [
    ({"picture": 3}, "no picture 3: .* the last is 2, or 'image_3'"), ({"picture": "image_4"}, "no image_4: .* image_1 to image_3"),
    ({"picture": True}, "whole number"), ({"picture": "picture 2"}, "did you mean 'image_2'"), ({"picture": 1.0}, "a name such as"),
    ({"survives": "no"}, "True or False"), ({"survives": 1}, "True or False"),
])  # fmt: skip
def test_a_wrong_prediction_is_said(lab, prompt, options, message):
    with pytest.raises(OptionError, match=message):
        Exercise(lab, prompt).predict(**options)


def test_a_prediction_says_which_picture_was_understood_as_everywhere(lab, prompt):
    exercise = Exercise(lab, prompt)
    for said in ("image_2", 1, -2):
        assert repr(exercise.predict(said, True)) == "Prediction(picture='image_2', survives=True)"
    assert repr(exercise.predict()) == "Prediction(picture=None, survives=None)"
    captions = [f"<figcaption>image_{k}</figcaption>" for k in (1, 2, 3)]
    assert all(caption in exercise._repr_mimebundle_()["text/html"] for caption in captions)


def test_numbers_out_of_a_table_are_numbers(lab, prompt):
    exercise = Exercise(lab, prompt)
    exercise.predict(np.int64(1), np.bool_(False))
    assert exercise.reveal().predicted == ("image_2", False)
    assert exercise.reveal().points == 2


def test_one_picture_is_no_exercise(lab, demo):
    with pytest.raises(OptionError, match="exercise 1"):
        Exercise(lab, [demo / "g.png", "What is it?"])


def test_hostile_text_stays_text(lab, demo):
    html = Exercise(lab, [demo / "g.png", demo / "m.png", "<img onerror=x>?"])._repr_mimebundle_()["text/html"]
    assert "<img onerror" not in html


def test_solutions_give_full_points_and_reveal_nothing(lab):
    quiz = Quiz.drawn(lab, 2, seed=3)
    solutions = quiz.solutions()
    assert quiz.score.revealed == 0
    for exercise, (_, row) in zip(quiz, solutions.iterrows(), strict=True):
        exercise.predict(row.picture, bool(row.survives))
        exercise.reveal()
    assert (quiz.score.points, quiz.score.possible) == (4, 4)


def test_the_same_seed_draws_the_same_quiz(lab):
    one, other = Quiz.drawn(lab, 2, seed=1), Quiz.drawn(lab, 2, seed=1)
    assert [each.question for each in one] == [each.question for each in other]
    assert [[image.tobytes() for image in each.prompt.images] for each in one] == [
        [image.tobytes() for image in each.prompt.images] for each in other
    ]


@pytest.mark.parametrize(
    "make", [lambda lab: Quiz(lab, []), lambda lab: Quiz.drawn(lab, 0)], ids=["no prompts", "none drawn"]
)
def test_an_empty_quiz_is_refused(lab, make):
    with pytest.raises(OptionError, match="at least one"):
        make(lab)
