"""What answers keep stays within a budget, on every device, and comes back exactly as it was."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import vila_lab
from vila_lab.engine.memory import Disk, Pictures
from vila_lab.prompt import Prompt

QUESTION = "What is in image 2?"


@pytest.fixture
def lab():
    """A session without answers of other tests, and with the budget that it had."""
    lab = vila_lab.load()
    gc.collect()
    budget = lab.capture_budget
    yield lab
    lab.capture_budget = budget


@pytest.fixture(scope="module")
def parts():
    demo = vila_lab.demo_images()
    return [demo / "g.png", demo / "m.png", QUESTION]


def in_memory(lab) -> int:
    return lab.memory().tapes + lab.memory().caches


def test_200_kept_answers_stay_within_the_budget(lab, parts):
    one = lab.ask(parts, max_new_tokens=1)
    before = in_memory(lab) - one.device_bytes - one.host_bytes
    lab.capture_budget = before + 10 * (one.device_bytes + one.host_bytes)
    kept = [one]
    for _ in range(199):
        kept.append(lab.ask(parts, max_new_tokens=1))
        assert in_memory(lab) <= 1.1 * lab.capture_budget
    memory = lab.memory()
    assert memory.answers >= 200
    assert memory.disk > 100 * one.host_bytes  # where the others are
    assert len({id(image) for answer in kept for image in answer.images}) == 2  # pictures are kept once


def test_what_was_moved_to_a_file_comes_back_exactly(lab, parts):
    answer = lab.ask(parts, max_new_tokens=3)
    attention, ledger = answer.attention().to_numpy(), answer.ledger()
    lab.capture_budget = 0
    lab.ask(parts, max_new_tokens=1)
    assert answer.device_bytes == answer.host_bytes == 0
    np.testing.assert_array_equal(answer.attention().to_numpy(), attention)
    assert answer.ledger().equals(ledger)
    assert answer.attribute("leave_one_out", token=0).values.any()


def test_looking_at_old_answers_moves_others_away(lab, parts):
    kept = [lab.ask(parts, max_new_tokens=1) for _ in range(4)]
    size = kept[0].host_bytes
    lab.capture_budget = in_memory(lab) - 2 * size - size // 2
    latest = lab.ask(parts, max_new_tokens=1)
    assert kept[0].host_bytes == 0  # least recently looked at
    assert latest.host_bytes > 0
    for answer in kept:
        answer.attention(layer=0)
        assert in_memory(lab) <= lab.capture_budget
        assert answer.host_bytes > 0


def test_an_answer_that_was_moved_away_is_saved_whole(lab, parts, tmp_path):
    answer = lab.ask(parts, max_new_tokens=2)
    whole = answer.attention().to_numpy()
    answer.record.kept.spill(Disk())
    np.testing.assert_array_equal(vila_lab.open(answer.save(tmp_path / "a.vila")).attention().to_numpy(), whole)


def test_files_go_with_their_answers_and_the_folder_with_the_last(lab, parts):
    disk = Disk()
    folder = disk.folder
    answer = lab.ask(parts, max_new_tokens=1)
    answer.record.kept.spill(disk)
    assert disk.nbytes > 0
    answer.release()
    gc.collect()
    assert disk.nbytes == 0
    answer = lab.ask(parts, max_new_tokens=1)
    answer.record.kept.spill(disk)
    del disk
    gc.collect()
    assert answer.attention(layer=0).size
    del answer
    gc.collect()
    assert not folder.exists()


def test_nbytes_counts_the_pictures(lab):
    pictures = [np.full((300, 400, 3), value, np.uint8) for value in (10, 200)]
    answer = lab.ask([*pictures, QUESTION], max_new_tokens=1)
    assert answer.nbytes >= 2 * 300 * 400 * 3
    answer.release()
    assert answer.nbytes == 2 * 300 * 400 * 3


def test_pictures_are_kept_once_by_content(lab):
    def ask() -> vila_lab.Answer:
        return lab.ask(
            [np.full((50, 60, 3), 7, np.uint8), np.full((50, 60, 3), 8, np.uint8), QUESTION], max_new_tokens=1
        )

    before = lab.memory().pictures
    one, other = ask(), ask()
    assert [a is b for a, b in zip(one.images, other.images, strict=True)] == [True, True]
    assert lab.memory().pictures == before + 2 * 50 * 60 * 3
    assert one.replay.prompt.pictures[0].image is one.images[0]


def test_shared_pictures_keep_source_and_notes_of_their_own():
    pictures = Pictures()
    image = Image.new("RGB", (2, 2))
    first = pictures.shared(Prompt.of([image]))
    second = pictures.shared(Prompt.of([np.zeros((2, 2), np.uint8)]))
    assert first.images[0] is second.images[0]
    assert [prompt.pictures[0].source for prompt in (first, second)] == ["PIL image", "array (2, 2)"]


def test_dead_answers_are_forgotten(lab, parts):
    before = lab.memory().answers
    for _ in range(5):
        lab.ask(parts, max_new_tokens=1)
    gc.collect()
    assert lab.memory().answers == before


def test_an_answer_does_not_keep_its_model_alive(parts):
    lab = vila_lab.load(dtype=torch.float64)  # a session of its own: others go on with theirs
    answer = lab.ask(parts, max_new_tokens=1)
    model = weakref.ref(lab.model)
    lab.unload()
    del lab
    gc.collect()
    assert model() is None
    assert answer.ledger().shape[0] == 1


def test_caches_of_experiments_count_and_are_dropped(lab, parts):
    answer = lab.ask(parts, max_new_tokens=1)
    answer.attribute("leave_one_out")
    assert answer.cache_bytes > 0
    lab.capture_budget = 0
    lab.ask(parts, max_new_tokens=1)
    assert answer.cache_bytes == 0


def test_memory_reads_as_one_line(lab):
    told = str(lab.memory())
    assert told.startswith("weights ")
    assert "\n" not in told
