"""The course is handed out whole, and nobody's work is lost."""

from __future__ import annotations

import pytest

from vila_lab.cli import main
from vila_lab.course import hand_out, notebooks
from vila_lab.tiny import demo_images


def test_every_notebook_and_picture_is_handed_out(tmp_path, capsys):
    folder = tmp_path / "new" / "course"
    assert main(["notebooks", str(folder)]) == 0
    wanted = {path.name: path.read_bytes() for path in notebooks().glob("*.ipynb")}
    assert {path.name: path.read_bytes() for path in folder.glob("*.ipynb")} == wanted
    pictures = {path.name: path.read_bytes() for path in demo_images().glob("*.png")}
    assert {path.name: path.read_bytes() for path in (folder / "demo_images").glob("*.png")} == pictures
    assert wanted
    assert pictures
    assert str(folder) in capsys.readouterr().err


def test_it_is_handed_out_a_second_time_without_writing_anything(tmp_path):
    first = hand_out(tmp_path)
    again = hand_out(tmp_path)
    assert again.unchanged == first.written
    assert again.written == again.kept == ()


def test_what_was_changed_is_kept_and_named(tmp_path, capsys):
    hand_out(tmp_path)
    mine, gone = tmp_path / "01_first_look.ipynb", tmp_path / "02_attribution.ipynb"
    mine.write_text("mine")
    gone.unlink()
    assert main(["notebooks", str(tmp_path)]) == 0
    assert mine.read_text() == "mine"
    assert gone.is_file()
    assert "01_first_look.ipynb; --force replaces" in capsys.readouterr().err


def test_force_replaces_what_was_changed(tmp_path):
    (tmp_path / "01_first_look.ipynb").write_text("mine")
    assert hand_out(tmp_path, force=True).kept == ()
    assert (tmp_path / "01_first_look.ipynb").read_bytes() == (notebooks() / "01_first_look.ipynb").read_bytes()


@pytest.mark.parametrize("place", ["file", "file/below", "01_first_look.ipynb"])
def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path, capsys, place):
    (tmp_path / "file").write_text("x")
    folder = tmp_path / place
    if place.endswith("ipynb"):  # a folder is where a notebook should go
        folder, _ = tmp_path, folder.mkdir()
    assert main(["notebooks", str(folder), "--force"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cannot be written" in lines[0] or "is a directory" in lines[0]


def test_caches_of_editors_are_not_part_of_the_course(tmp_path, monkeypatch):
    source = tmp_path / "source"
    (source / ".ipynb_checkpoints").mkdir(parents=True)
    (source / ".ipynb_checkpoints" / "a-checkpoint.ipynb").write_text("{}")
    (source / "a.ipynb").write_text("{}")
    monkeypatch.setattr("vila_lab.course.notebooks", lambda: source)
    hand_out(tmp_path / "course")
    assert [path.name for path in (tmp_path / "course").rglob("*.ipynb")] == ["a.ipynb"]
