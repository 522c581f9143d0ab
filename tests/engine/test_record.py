"""A record is plain data: it goes to another process and back without losing a bit, and finds its model again."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import vila_lab
from tests.conftest import GOLDENS
from vila_lab.engine.record import Record
from vila_lab.errors import CaptureError, FileError, OptionError

ELSEWHERE = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    answer = pickle.load(file)
assert not any(name.startswith("vila_lab.nvila.modeling") for name in sys.modules), "a model's code was loaded"
sys.stdout.buffer.write(pickle.dumps((answer.text, answer.ledger().to_numpy(), answer.heatmap(1, 0), answer.sinks)))
"""


@pytest.fixture(scope="module")
def answer(golden_session, golden_image) -> vila_lab.Answer:
    pictures = [golden_image("a_land.png"), golden_image("c_sq.png")]
    return golden_session("nvila-lite").ask([*pictures, "What are the differences?"], max_new_tokens=4)


def test_another_process_gives_the_same_numbers_to_the_bit(answer, tmp_path):
    (tmp_path / "answer").write_bytes(pickle.dumps(answer))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path / "answer"], capture_output=True, check=True)
    text, ledger, heatmap, sinks = pickle.loads(done.stdout)
    assert text == answer.text
    np.testing.assert_array_equal(ledger, answer.ledger().to_numpy())
    np.testing.assert_array_equal(heatmap, answer.heatmap(1, 0))
    np.testing.assert_array_equal(sinks, answer.sinks)


def test_a_copy_has_every_head_and_no_model(answer):
    again = pickle.loads(pickle.dumps(answer))
    np.testing.assert_array_equal(again.attention(1, 2).values, answer.attention(1, 2).values)
    assert (again.tokens, again.parts, again.notes, again.model) == (
        answer.tokens, answer.parts, answer.notes, answer.model,
    )  # fmt: skip
    assert again.record.options == answer.record.options
    with pytest.raises(CaptureError, match="no model any more"):
        again.attribute("leave_one_out")


def test_an_answer_that_let_go_of_its_keys_keeps_what_was_computed(golden_session, golden_image):
    prompt = [golden_image("a_land.png"), "What?"]
    answer, untold = (golden_session("nvila-resize").ask(prompt, max_new_tokens=2) for _ in range(2))
    ledger = answer.ledger()
    answer.release()
    assert pickle.loads(pickle.dumps(answer)).ledger().equals(ledger)
    untold.release()
    with pytest.raises(CaptureError, match="released"):
        pickle.loads(pickle.dumps(untold)).ledger()


def test_bytes_that_are_no_record_are_refused(answer):
    data = bytearray(answer.record.to_bytes())
    assert Record.from_bytes(bytes(data)).text == answer.text
    data[len(data) // 2] ^= 1
    with pytest.raises(FileError, match="checksum"):
        Record.from_bytes(bytes(data))
    with pytest.raises(FileError, match="not a saved answer"):
        Record.from_bytes(b"something else")


def test_a_saved_file_and_the_bytes_are_one_format(answer, tmp_path):
    """Not the same bytes: safetensors of some versions orders its header as it likes."""
    assert Record.from_bytes(answer.save(tmp_path / "a.vila").read_bytes()).ledger().equals(answer.ledger())
    (tmp_path / "b.vila").write_bytes(answer.record.to_bytes())
    assert vila_lab.open(tmp_path / "b.vila").ledger().equals(answer.ledger())


def test_an_answer_from_a_file_finds_its_model_again(answer, golden_session, tmp_path):
    lab = golden_session("nvila-lite")
    gc.collect()
    before = lab.memory().answers
    bound = vila_lab.open(answer.save(tmp_path / "a.vila")).bind(lab)
    for method in ("leave_one_out", "grad_x_attention"):
        found, expected = (each.attribute(method, 0).values for each in (bound, answer))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert lab.memory().answers == before + 1  # and it counts in its memory
    again = bound.replay.options
    assert again == answer.replay.options


def test_another_models_answer_is_not_adopted(answer, golden_session):
    with pytest.raises(OptionError, match="is of another model"):
        answer.bind(golden_session("nvila-dynamic_s2"))
    said = pickle.loads(pickle.dumps(answer))
    said.record.text = "what another vocabulary would read"
    said.record.tokens = tuple(replace(token, text="what") for token in said.record.tokens)
    with pytest.raises(OptionError, match="is of another model"):
        said.bind(golden_session("nvila-lite"))


def test_a_file_from_before_records_opens_with_the_same_ledger(golden_session):
    """Written by the version before: without options, which are then the family's defaults."""
    expected = json.loads((GOLDENS / "answers" / "format2.json").read_text())
    answer = vila_lab.open(GOLDENS / "answers" / "format2.vila")
    assert answer.text == expected["text"]
    assert list(answer.ledger().columns) == expected["columns"]
    np.testing.assert_array_equal(answer.ledger().to_numpy(), expected["ledger"])
    assert answer.record.options == {}
    assert answer.bind(golden_session("nvila-resize")).attribute("leave_one_out", 0).per_image().shape == (1, 2)
