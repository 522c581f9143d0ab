"""Tables as benchmarks publish them: columns found by their names, pictures in order, answers normalised. Each is made here, small."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila_lab import Text, demo_images
from vila_lab.errors import FileError, OptionError, SavedFileNotFound
from vila_lab.sweeps.columns import Columns
from vila_lab.sweeps.judging import is_right
from vila_lab.sweeps.row import Row, letter_of, row_of
from vila_lab.sweeps.tables import Table

MARKS = ("g", "m", "a", "n")


def png(mark: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(demo_images() / f"{mark}.png").save(buffer, "PNG")
    return buffer.getvalue()


def stored(mark: str) -> dict[str, Any]:
    """A picture as datasets store it."""
    return {"bytes": png(mark), "path": f"{mark}.png"}


def rows(table: list[dict[str, Any]], folder: Path | None = None) -> list[Row]:
    columns = Columns.found_in(table[0])
    columns.check(table[0])
    return [row_of(cells, number, columns, folder) for number, cells in enumerate(table)]


def kinds(row: Row) -> list[str]:
    return ["text" if isinstance(part, Text) else "picture" for part in row.parts]


def test_blink() -> None:
    """Up to four columns of pictures, None where there are fewer; options as a list; the answer in brackets; a prompt beside the question."""
    (row,) = rows(
        [
            {
                "idx": "val_Counting_1", "sub_task": "Counting", "question": "How many?", "prompt": "How many? (A) 1 (B) 2",
                "choices": ["1", "2"], "answer": "(B)", "image_1": stored("g"), "image_2": stored("m"), "image_3": None, "image_4": None,
            }
        ]
    )  # fmt: skip
    assert kinds(row) == ["picture", "picture", "text"]
    assert row.parts[:2] == (png("g"), png("m"))
    assert row.parts[2] == "How many?\n(A) 1\n(B) 2"
    assert (row.id, row.expected, row.options, row.more["sub_task"]) == ("val_Counting_1", "B", ("1", "2"), "Counting")


def test_muirbench() -> None:
    """Markers in the question and in the options: first those of the question, then those of the options."""
    (row,) = rows(
        [
            {
                "idx": 7, "task": "Matching", "question": "Which is like <image>?", "options": ["<image>", "<image>", "None"],
                "answer": "A", "image_list": [stored("g"), stored("m"), stored("a")], "counterpart_idx": -1,
            }
        ]
    )  # fmt: skip
    assert row.parts == ("Which is like ", png("g"), "?\n(A) ", png("m"), "\n(B) ", png("a"), "\n(C) None")
    assert (row.id, row.expected, row.more["task"]) == (7, "A", "Matching")


def test_mantis_eval() -> None:
    """Options that have their letters already, and a short answer without options."""
    first, second = rows(
        [
            {
                "id": "m1", "question_type": "multi-choice", "question": "<image> or <image>?", "images": [stored("g"), stored("m")],
                "options": ["(A) the first", "(B) the second"], "answer": "B",
            },
            {
                "id": "m2", "question_type": "short-answer", "question": "What are <image><image>?",
                "images": [stored("g"), stored("m")], "options": [], "answer": "marks",
            },
        ]
    )  # fmt: skip
    assert first.options == ("the first", "the second")
    assert first.parts[-1] == "?\n(A) the first\n(B) the second"
    assert kinds(second) == ["text", "picture", "picture", "text"]
    assert second.expected == "marks"


@pytest.mark.parametrize(
    "cells",
    [
        {"sentence": "Both are marks.", "left_image": stored("g"), "right_image": stored("m"), "label": "True"},
        {"question": "Both are marks.", "images": [stored("g"), stored("m")], "options": ["True", "False"], "answer": "True"},
        {"question": "Both are marks.", "left": stored("g"), "right": stored("m"), "answer": True},
    ],
)  # fmt: skip
def test_nlvr2_as_its_loaders_disagree(cells: dict[str, Any]) -> None:
    (row,) = rows([cells])
    assert row.parts[:2] == (png("g"), png("m"))
    assert is_right("True", row.expected, row.options) is True
    assert is_right("False", row.expected, row.options) is False


def test_mmiu(tmp_path: Path) -> None:
    """Options as one text; paths beside the file, relative to it; the letter may be of none of the options."""
    (tmp_path / "deep").mkdir()
    for mark in MARKS[:2]:
        (tmp_path / "deep" / f"{mark}.png").write_bytes(png(mark))
    cells = {
        "task": "t", "question": "Which?", "options": "A: the first\nB: the second", "output": "D", "context": "...",
        "input_image_path": ["./deep/g.png", "./deep/m.png"],
    }  # fmt: skip
    (row,) = rows([cells], tmp_path)
    assert [part.name for part in row.parts[:2]] == ["g.png", "m.png"]
    assert all(part.is_file() for part in row.parts[:2])
    assert row.options == ("the first", "the second")
    assert row.parts[2] == "Which?\nA: the first\nB: the second"
    assert row.expected == "D"
    assert is_right("A", row.expected, row.options) is False


def test_text_is_split_exactly_at_markers() -> None:
    (row,) = rows([{"images": ["a.png", "b.png"], "question": " One:<image>\n two <image>  "}])
    assert [part for part in row.parts if isinstance(part, Text)] == [" One:", "\n two ", "  "]


def test_markers_and_pictures_that_do_not_fit_are_an_error_of_the_row() -> None:
    (row,) = rows([{"images": ["a.png", "b.png"], "question": "One <image>"}])
    assert row.error == "the text marks 1 pictures with <image>, and the row has 2"
    assert row.named == ("a.png", "b.png")


@pytest.mark.parametrize("text", ['["a.png", "b.png"]', "['a.png', 'b.png']"])
def test_a_list_in_a_table_of_text(text: str) -> None:
    (row,) = rows([{"images": text, "question": "?"}])
    assert row.parts[:2] == (Path("a.png"), Path("b.png"))


def test_numbered_columns_stand_in_the_order_of_their_numbers() -> None:
    names = [f"image_{k}" for k in (10, 2, 1)]
    assert Columns.found_in([*names, "question"]).images == ("image_1", "image_2", "image_10")


def test_an_address_is_no_path_and_a_text_no_address() -> None:
    (row,) = rows(
        [
            {
                "images": ["https://example.org/a.png", "data:image/png;base64,AAAA"],
                "question": "https://example.org/a.png",
            }
        ]
    )
    assert kinds(row) == ["picture", "picture", "text"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"question": "q", "imges": "i"}, "did you mean 'images'"),
        ({"question": 3}, "named by a text"),
        ({"question": "nope"}, "there is no column 'nope'"),
        ([], "JSON object or a mapping"),
    ],
)
def test_columns_that_cannot_be_are_refused(given: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        (Columns.of(given) or Columns()).check(["question", "images"])


def test_a_table_without_questions_and_pictures_is_refused() -> None:
    with pytest.raises(OptionError, match="name them"):
        Columns.found_in(["a", "b"]).check(["a", "b"])


QUESTIONS = [{"id": k, "images": ["g.png"], "question": "What is this?", "answer": "Google"} for k in range(3)]


def written(path: Path) -> Path:
    """The same rows in the form of a file's ending."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(QUESTIONS), encoding="utf-8")
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(
            pytest.importorskip("pyarrow").Table.from_pylist(QUESTIONS), path
        )
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(QUESTIONS[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(each | {"images": json.dumps(each["images"])} for each in QUESTIONS)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_form_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "g.png").write_bytes(png("g"))
    table = Table(written(tmp_path / f"questions{suffix}"))
    found = rows(list(map(dict, table)), table.folder)
    assert [str(row.id) for row in found] == ["0", "1", "2"]
    assert {row.parts[0] for row in found} == {tmp_path / "g.png"}
    assert {row.expected for row in found} == {"Google"}


def test_pictures_inside_a_parquet_file_stay_the_files_they_were(tmp_path: Path) -> None:
    """As benchmarks on the hub are stored: a struct of bytes and a path in each cell, None where there is no picture."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = [
        {"idx": 1, "image_1": stored("g"), "image_2": None, "question": "?"},
        {"idx": 2, "image_1": stored("m"), "image_2": stored("a"), "question": "?"},
    ]
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "0000.parquet")
    read = Table(tmp_path / "0000.parquet")
    assert read.count == 2
    assert [row.parts[:-1] for row in rows(list(map(dict, read)))] == [(png("g"),), (png("m"), png("a"))]
    assert len(list(Table(tmp_path))) == 2  # a folder of such files


def test_a_folder_of_pictures_is_grouped_by_a_pattern(tmp_path: Path) -> None:
    for name in ("b_2", "a_10", "a_2", "b_1", "other"):
        (tmp_path / f"{name}.png").write_bytes(png("g"))
    found = list(Table(tmp_path, "{id}_{n}.png", "What differs?"))
    assert found == [
        {"id": "a", "images": ["a_2.png", "a_10.png"], "question": "What differs?"},
        {"id": "b", "images": ["b_1.png", "b_2.png"], "question": "What differs?"},
    ]
    assert len(list(Table(tmp_path, question="What?"))) == 5


def test_a_dataset_on_disk_keeps_its_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(
        {"image_1": [png("g")], "question": ["What?"]},
        features=datasets.Features({"image_1": datasets.Image(), "question": datasets.Value("string")}),
    )
    made.save_to_disk(str(tmp_path / "d"))
    (row,) = rows(list(map(dict, Table(tmp_path / "d"))))
    assert row.parts == (png("g"), "What?")


def test_a_table_of_pandas_is_a_list_of_rows() -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {"id": [1, 2], "image_1": ["a.png", "b.png"], "image_2": ["c.png", None], "question": ["?", "!"]}
    )
    found = rows(list(map(dict, Table(frame))))
    assert [len(row.named) for row in found] == [2, 1]
    assert [row.id for row in found] == [1, 2]


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("nowhere.jsonl", SavedFileNotFound, "nowhere.jsonl"),
        ({"question": "?"}, OptionError, "a list of rows"),
        (["What?"], OptionError, "row 1 is a str"),
        (3, OptionError, "not as int"),
    ],
)
def test_what_is_no_table_is_refused(source: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        list(Table(source))


@pytest.mark.parametrize("text", ['{"a": 1}\n{', "[1]\n"])
def test_a_damaged_line_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(FileError, match=r"line \d of q.jsonl"):
        list(Table(tmp_path / "q.jsonl"))


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("b.", "B"), ("B: a dog", "B"), ("(B) a dog", "B"), ("A dog.", "B"), ("The answer is (B).", "B"),
        ("the answer is B", "B"), ("D", None), ("a bird", None), ("(A) or (B)", None), ("", None), ("A dog and a cat", None),
    ],
)  # fmt: skip
def test_the_letter_that_an_answer_names(said: str, letter: str | None) -> None:
    assert letter_of(said, ["a cat", "a dog"]) == letter


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [("Google.", "google", True), ("No.", "False", True), ("a cat", "a dog", False), (None, "a", None), ("a", None, None), ("3.5", "3.5", True)],
)  # fmt: skip
def test_free_answers_are_judged_by_their_words(answer: str | None, expected: str | None, right: bool | None) -> None:
    assert is_right(answer, expected, []) is right
