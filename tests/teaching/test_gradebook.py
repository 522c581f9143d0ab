"""A student's score leaves as one line without an answer in it; a teacher reads a class, and is told of every file that is not read."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image

import vila_lab
from vila_lab.errors import FileAccessError, FileError, OptionError
from vila_lab.teaching import Gradebook, Quiz, Result, Scorecard


def another(exercise, name):
    """A picture of it that is not this one."""
    return next(each for each in exercise.solution[0].index if each != name)


def taken(quiz, *, picture_right, survival_right, revealed=None):
    """What a student did who is right about these."""
    mine, solutions = quiz.anew(), quiz.solutions()
    for exercise, row in list(zip(mine, solutions.itertuples(), strict=True))[:revealed]:
        exercise.predict(
            row.picture if picture_right else another(exercise, row.picture), row.survives == survival_right
        )
        exercise.reveal()
    return mine


@pytest.fixture
def handed_in(solved, tmp_path):
    """A folder with the scores of three students."""
    taken(solved, picture_right=True, survival_right=True).export(tmp_path / "ana.json", "Ana")
    taken(solved, picture_right=False, survival_right=True).export(tmp_path / "ben.json", "Ben")
    taken(solved, picture_right=True, survival_right=False, revealed=1).export(tmp_path / "cleo.json", "Cleo")
    return tmp_path


class TestExport:
    def test_one_line_says_who_when_how_often_and_what_was_right(self, solved, tmp_path):
        mine = solved.anew()
        mine[0].predict("image_1", True)
        mine[0].predict(solved.solutions().picture[1], not solved.solutions().survives[1])
        mine[0].reveal()
        path = mine.export(tmp_path / "me.json", "  Ana\nLu ")
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") == 1
        assert text.endswith("\n")
        said = json.loads(text)
        assert (said["student"], said["version"]) == ("Ana Lu", vila_lab.__version__)
        assert abs(datetime.now(UTC) - datetime.fromisoformat(said["when"])) < timedelta(minutes=1)
        assert said["exercises"] == [
            {"number": 1, "tries": 2, "picture_right": True, "survival_right": False},
            {"number": 2, "tries": 0, "picture_right": None, "survival_right": None},
        ]

    def test_no_answer_leaks(self, solved, tmp_path):
        """Two who are right about exercises with other answers have the same results; a guess that was not revealed tells nothing."""
        path = taken(solved, picture_right=True, survival_right=True).export(tmp_path / "a.json", "Ana")
        first, second = (
            set(each.items()) - {("number", k)} for k, each in enumerate(json.loads(path.read_text())["exercises"], 1)
        )
        assert solved.solutions().picture.nunique() == 2
        assert first == second
        text = path.read_text()
        assert all(answer.rstrip(".") not in text for answer in solved.solutions().answer)
        right, wrong = solved.anew(), solved.anew()
        for exercise, row in zip(right, solved.solutions().itertuples(), strict=True):
            exercise.predict(row.picture, row.survives)
        for exercise, row in zip(wrong, solved.solutions().itertuples(), strict=True):
            exercise.predict(another(exercise, row.picture), not row.survives)
        assert [each.result for each in right] == [each.result for each in wrong]

    @pytest.mark.parametrize("name", ["", " \n", "x" * 41])
    def test_a_name_is_needed(self, solved, tmp_path, name):
        with pytest.raises(OptionError, match="1 to 40 characters"):
            solved.export(tmp_path / "me.json", name)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there_is_said(self, solved, tmp_path):
        with pytest.raises(FileAccessError, match="cannot be written"):
            solved.export(tmp_path / "no" / "me.json", "Ana")

    def test_a_line_reads_back(self, solved, tmp_path):
        path = taken(solved, picture_right=True, survival_right=False).export(tmp_path / "me.json", "安娜")
        card = Scorecard.of_line(path.read_bytes(), "me.json")
        assert (card.student, card.points, card.quiz) == ("安娜", 2, solved.fingerprint)
        assert card.to_line() == path.read_text(encoding="utf-8")


class TestReading:
    def test_the_table_has_everybodys_points(self, handed_in, solved):
        book = Gradebook.read(handed_in, solved)
        assert book.refused == ()
        table = book.table.astype(object).where(book.table.notna(), None)
        assert table.loc["Ana"].tolist() == [2, 2, 4]
        assert table.loc["Ben"].tolist() == [1, 1, 2]
        assert table.loc["Cleo"].tolist() == [1, None, 1]

    def test_it_tells_which_exercise_was_hard(self, handed_in, solved):
        found = Gradebook.read(handed_in, solved).by_exercise
        assert found.revealed.tolist() == [3, 2]
        assert found["picture right"].tolist() == pytest.approx([2 / 3, 1 / 2])
        assert found["survival right"].tolist() == pytest.approx([2 / 3, 1])
        assert found.question.tolist() == [each.question for each in solved]

    def test_the_figure_has_a_bar_for_each_number(self, handed_in, solved):
        book = Gradebook.read(handed_in, solved)
        widths = [bar.get_width() for bar in book.plot().patches]
        assert widths == pytest.approx([*book.by_exercise["picture right"], *book.by_exercise["survival right"]])

    def test_an_exercise_that_nobody_did_has_no_share(self, solved, tmp_path):
        solved.anew().export(tmp_path / "a.json", "Ana")
        found = Gradebook.read(tmp_path, solved)
        assert math.isnan(found.by_exercise["picture right"][1])
        assert found.plot().patches[0].get_width() == 0
        assert found.table["points"].tolist() == [0]

    def test_files_may_be_named_one_by_one(self, handed_in, solved):
        book = Gradebook.read([handed_in / "ben.json", str(handed_in / "ana.json")], solved)
        assert sorted(book.table.index) == ["Ana", "Ben"]

    def test_hostile_names_stay_text(self, solved, tmp_path):
        solved.anew().export(tmp_path / "x.json", "<script>alert(1)</script>")
        (tmp_path / "<img src=x>.json").write_text("{")
        html = Gradebook.read(tmp_path, solved)._repr_html_()
        assert "<script" not in html
        assert "<img" not in html

    def test_nothing_to_read_is_said(self, solved, tmp_path):
        with pytest.raises(OptionError, match=r"no \*\.json file"):
            Gradebook.read(tmp_path, solved)
        with pytest.raises(FileAccessError, match="is no folder"):
            Gradebook.read(tmp_path / "no", solved)


class TestRefused:
    def test_each_bad_file_gets_one_sentence_and_the_rest_is_read(self, handed_in, solved, lab):
        line = (handed_in / "ana.json").read_text()
        (handed_in / "cut.json").write_text(line[:60])
        Quiz.drawn(lab, 2, seed=4).export(handed_in / "foreign.json", "Dan")
        shutil.copy(handed_in / "ben.json", handed_in / "zz copy.json")
        Image.new("RGB", (8, 8)).save(handed_in / "photo.json", "PNG")
        (handed_in / "folder.json").mkdir()
        book = Gradebook.read(handed_in, solved)
        assert sorted(book.table.index) == ["Ana", "Ben", "Cleo"]
        assert len(book.refused) == 5
        said = {re.match("'(.*?)'", why)[1]: why for why in book.refused}
        assert said.keys() == {"cut.json", "foreign.json", "zz copy.json", "photo.json", "folder.json"}
        assert "another quiz" in said["foreign.json"]
        assert "first one is 'ben.json'" in said["zz copy.json"]
        assert all("damaged" in said[f"{name}.json"] for name in ("cut", "photo", "folder"))
        assert not any("\n" in why for why in book.refused)

    def test_of_two_scores_of_one_student_the_earlier_counts(self, solved, tmp_path):
        for name, hour, right in (("a.json", 12, True), ("b.json", 11, False)):
            results = (Result(1, 1, right, right), Result(2, 0))
            card = Scorecard("Ana", datetime(2026, 1, 1, hour, tzinfo=UTC), solved.fingerprint, results, "0.1.0")
            (tmp_path / name).write_text(card.to_line())
        book = Gradebook.read(tmp_path, solved)
        assert book.table.points.tolist() == [0]
        assert ["'a.json'" in why for why in book.refused] == [True]

    def test_a_pipe_is_not_waited_for(self, handed_in, solved):
        os.mkfifo(handed_in / "pipe.json")
        assert len(Gradebook.read(handed_in, solved).refused) == 1

    def test_a_file_that_is_not_there_is_said(self, handed_in, solved):
        book = Gradebook.read([handed_in / "ana.json", handed_in / "no.json"], solved)
        assert (len(book.cards), "No such file" in book.refused[0]) == (1, True)

    @pytest.mark.parametrize(("change", "why"), [
        ({"vila_lab_score": 2}, "format 2"), ({"student": 7}, "another type|no text"), ({"student": ""}, "1 to 40"),
        ({"when": "yesterday"}, "yesterday"), ({"when": "2026-01-01T00:00:00"}, "time zone"), ({"exercises": 3}, "another type"),
        ({"exercises": [[]]}, "another type"), ({"version": None}, "no text"),
        ({"exercises": [{"number": 2, "tries": 1}]}, "exercise 1"),
        ({"exercises": [{"number": 1, "tries": 1, "picture_right": True}]}, "exercise 1"),
        ({"exercises": [{"number": 1, "tries": 1, "picture_right": 9, "survival_right": 9}]}, "exercise 1"),
        ({"exercises": [{"number": 1, "tries": 0, "picture_right": True, "survival_right": True}]}, "tried 0 times"),
        ({"exercises": [{"number": 1, "tries": True}]}, "tried True times"),
        ({"exercises": [{"number": 1, "tries": 1, "answer": "Microsoft."}]}, "another type"),
    ])  # fmt: skip
    def test_a_changed_line_is_damaged(self, change, why):
        card = Scorecard("Ana", datetime(2026, 1, 1, tzinfo=UTC), "5f2b", (Result(1, 1, True, False),), "0.1.0")
        line = json.dumps(json.loads(card.to_line()) | change)
        with pytest.raises(FileError, match=why) as refused:
            Scorecard.of_line(line.encode(), "x.json")
        assert str(refused.value).startswith("x.json ")

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 200_000, b"NaN", b'{"vila_lab_score": 1}'])
    def test_what_is_no_score_is_refused(self, data):
        with pytest.raises(FileError, match="damaged"):
            Scorecard.of_line(data, "x.json")
