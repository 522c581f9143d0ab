"""An answer from a file gets a model again, and its question is asked again of the same model or of another."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import vila_lab
from tests.families.checkpoints import session
from vila_lab.errors import CaptureError, OptionError

QUESTION = "What is in image 2?"


@pytest.fixture(scope="module")
def answer(lab, demo):
    return lab.ask([demo / "g.png", demo / "m.png", QUESTION])


@pytest.mark.parametrize("name", ["nvila-lite", "qwen2_vl"])
def test_an_opened_answer_is_bound_and_attributed(name, golden_session, tmp_path, demo):

    lab = golden_session(name) if name.startswith("nvila") else session(name)
    answer = lab.ask([demo / "g.png", demo / "m.png", QUESTION], max_new_tokens=2)
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    with pytest.raises(CaptureError):
        opened.attribute("leave_one_out")
    found = opened.bind(lab).attribute("leave_one_out")
    assert np.allclose(found.values, answer.attribute("leave_one_out").values, atol=1e-5)


@pytest.mark.parametrize("how", [{"stop": ["oft"]}, {"stop": ["M"]}, {"response_format": ["Microsoft, maybe", "none"]}])
def test_an_answer_that_ended_early_or_was_chosen_is_bound(lab, demo, tmp_path, how):
    answer = lab.ask([demo / "g.png", demo / "m.png", QUESTION], **how)
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert np.allclose(opened.bind(lab).ledger(), answer.ledger())


def test_a_chat_with_an_answer_that_ended_early_goes_on(lab, demo, tmp_path):
    chat = lab.chat()
    chat.ask([demo / "g.png", QUESTION], stop=["."])
    opened = vila_lab.open(chat.save(tmp_path / "chat.vila"))
    assert opened.bind(lab).ask(QUESTION, max_new_tokens=1).token_map.n_turns == 2


@pytest.mark.parametrize("given", [None, "embedded", vila_lab])
def test_what_is_no_session_is_not_bound(answer, given):
    with pytest.raises(OptionError, match=r"bind takes a session, such as vila_lab\.load"):
        answer.bind(given)


def test_another_models_answer_is_not_bound(answer, golden_session):
    with pytest.raises(OptionError, match="this answer is of another model: embedded gave it"):
        answer.bind(golden_session("nvila-lite"))


def test_a_question_is_asked_again_as_it_was(lab, demo, tmp_path):
    options = {
        "max_new_tokens": 3,
        "do_sample": True,
        "temperature": 2.0,
        "logprobs": 2,
        "stop": ["zebra"],
        "tile_all_images": True,
    }
    answer = lab.ask([demo / "g.png", demo / "m.png", QUESTION], **options)  # its seed is drawn, and kept
    for given in (answer, vila_lab.open(answer.save(tmp_path / "a.vila"))):
        again = lab.ask_again(given)
        assert again is not given
        assert again.tokens == answer.tokens
        assert (again.notes, again.record.asked) == (answer.notes, answer.record.asked)
        assert again.token_map.same_positions(answer.token_map)


def test_numbers_of_numpy_are_kept_as_numbers(lab, tmp_path):
    answer = lab.ask(
        "Hello", max_new_tokens=np.int64(2), do_sample=np.bool_(True), temperature=np.float32(0.5), logprobs=np.int8(2)
    )
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.record.asked == answer.record.asked
    assert lab.ask_again(opened).tokens == answer.tokens


def test_choices_are_asked_again(lab, demo):
    answer = lab.ask([demo / "g.png", QUESTION], response_format=["Google.", "Apple."])
    assert lab.ask_again(answer).choices == pytest.approx(answer.choices)


def test_a_conversation_is_asked_again_whole(lab, demo):
    chat = lab.chat()
    chat.ask([demo / "g.png", demo / "m.png", "What is in image 1?"])
    last = chat.ask(QUESTION)
    again = lab.ask_again(last)
    assert (again.text, again.token_map.n_turns) == (last.text, 2)


def test_another_family_says_what_it_does_not_have(lab, golden_session, demo):

    asked = lab.ask([demo / "g.png", demo / "m.png", QUESTION], tile_all_images=True, max_new_tokens=2)
    again = session("qwen2_vl").ask_again(asked)
    assert "asked again without tile_all_images=True, which this model's family does not have" in again.notes
    assert len(again.tokens) == 2
    assert not any(note.startswith("asked again") for note in golden_session("nvila-lite").ask_again(asked).notes)


def test_edits_are_not_repeated_and_that_is_said(lab, demo):
    with lab.knockout("image_1 -> answer"):
        edited = lab.ask([demo / "g.png", demo / "m.png", "What is in image 1?"])
    again = lab.ask_again(edited)
    assert again.edits == ()
    assert again.notes[-1].startswith(
        "asked again without what edited the answer before: knock-out of image_1 -> answer"
    )


def test_what_reading_changed_is_still_said(lab, tmp_path):
    picture = Image.new("RGBA", (300, 200), (255, 0, 0, 128))
    answer = lab.ask([picture, "What is in image 1?"], max_new_tokens=1)
    assert "picture 1: transparency dropped" in lab.ask_again(answer).notes
    small = vila_lab.open(answer.save(tmp_path / "a.vila", originals=False))
    again = lab.ask_again(small)
    assert "picture 1: transparency dropped" in again.notes
    missing = [note for note in small.notes if "saved without its original" in note]
    assert set(missing) <= set(again.notes)


def test_what_is_no_answer_is_refused(lab):
    with pytest.raises(OptionError, match=r"ask_again takes an answer, not 'Hello'; lab.ask takes a question"):
        lab.ask_again("Hello")
