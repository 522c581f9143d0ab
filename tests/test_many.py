"""Many questions side by side: each answer is the one it has alone, a bad one fails alone, and the table tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vila_lab
from tests.conftest import CHECKPOINTS
from tests.engine.test_reuse import any_lab, same  # noqa: F401 - a fixture
from vila_lab.errors import NotANumber, OptionError, OutOfMemory, PictureNotFound

WEIGHTS = 3e-6  # measured over all checkpoints: at most 1.2e-6


@pytest.fixture
def pictures(demo) -> list[Any]:
    return [demo / name for name in ("g.png", "m.png", "a.png", "n.png")]


@pytest.fixture
def prompts(pictures) -> list[Any]:
    """Of different lengths, with no picture to four."""
    words = (
        "What is in image 1?",
        "Which picture shows a search engine, and which of them the oldest company?",
        "图像1是",
    )
    return ["Hello", *([*pictures[:count], text] for count in (1, 4, 2, 3) for text in words)]


@pytest.mark.parametrize("batch_size", [1, 3, 5, "auto"])
def test_each_answer_is_the_one_it_has_alone(any_lab, prompts, batch_size):  # noqa: F811
    alone = [any_lab.ask(prompt, max_new_tokens=6) for prompt in prompts]
    any_lab.forget()
    many = any_lab.ask_many(prompts, batch_size=batch_size, max_new_tokens=6)
    assert len(many) == len(prompts)
    for one, other in zip(alone, many, strict=True):
        assert [token.id for token in other.tokens] == [token.id for token in one.tokens]
        assert [(t.text, t.position, t.stop) for t in other.tokens] == [
            (t.text, t.position, t.stop) for t in one.tokens
        ]
        np.testing.assert_allclose([t.logprob for t in other.tokens], [t.logprob for t in one.tokens], atol=1e-4)
        np.testing.assert_allclose(other.attention().values, one.attention().values, rtol=0, atol=WEIGHTS)
        np.testing.assert_allclose(other.record.norms, one.record.norms, rtol=1e-4)
        np.testing.assert_allclose(other.ledger().values, one.ledger().values, atol=1e-5)
        assert other.notes == one.notes
        assert other.record.tape().length == one.record.tape().length
    any_lab.forget()
    same(any_lab.ask(prompts[-1], max_new_tokens=6), alone[-1])


def test_what_a_batch_leaves_behind_is_what_a_question_alone_would(any_lab, pictures):  # noqa: F811
    parts = [*pictures, "What is in image 2?"]
    any_lab.forget()
    fresh = any_lab.ask(parts, max_new_tokens=3)
    any_lab.forget()
    any_lab.ask_many([[*pictures, f"What is in image {k}?"] for k in (1, 2, 3)], max_new_tokens=3)
    same(any_lab.ask(parts, max_new_tokens=3), fresh)


@pytest.mark.parametrize("name", ["nvila-lite"])
def test_answers_of_a_batch_can_be_explained_saved_and_asked_about(golden_session, prompts, name, tmp_path):
    many = golden_session(name).ask_many(prompts[:4], max_new_tokens=3)
    alone = golden_session(name).ask(prompts[2], max_new_tokens=3)
    np.testing.assert_allclose(
        many[2].attribute("leave_one_out").values, alone.attribute("leave_one_out").values, atol=1e-4
    )
    again = vila_lab.open(many[2].save(tmp_path / "a.vila"))
    np.testing.assert_array_equal(again.attention().values, many[2].attention().values)


def test_a_bad_question_fails_alone(lab, pictures):
    prompts = [[pictures[0], "What is this?"], ["none.png", "x"], " ", [pictures[1], "What is this?"], ["x"] * 9000]
    many = lab.ask_many(prompts, errors="keep", max_new_tokens=4)
    assert [many[0].text, many[3].text] == ["Google.", "Microsoft."]
    for place, error in ((1, PictureNotFound), (2, vila_lab.VilaLabError), (4, vila_lab.VilaLabError)):
        assert isinstance(many[place], error)
        assert str(many[place]).startswith(f"question {place + 1} of 5: ")
    table = many.frame()
    assert list(table["question"])[:1] == ["What is this?"]
    assert table["answer"].isna().tolist() == [False, True, True, False, True]
    assert table["error"].isna().tolist() == [True, False, False, True, False]
    with pytest.raises(PictureNotFound, match="question 2 of 5: picture 1 of 1"):
        lab.ask_many(prompts)
    assert "3 without an answer" in repr(many)


def test_the_table_tells_answers_shares_and_which_picture(lab, pictures):
    many = lab.ask_many(
        [[*pictures[:2], "What is in image 2?"], [pictures[0], "What is this?"], "Hello"], max_new_tokens=4
    )
    for check in (False, True):
        table = many.frame(check=check)
        assert list(table.columns) == ["question", "answer", "confidence", "image_1", "image_2", "verdict", "error"]
        assert list(table["answer"]) == [answer.text for answer in many]
        said = [token.logprob for token in many[0].tokens if not token.stop]
        assert table["confidence"][0] == pytest.approx(np.exp(np.mean(said)))
        np.testing.assert_allclose(table[["image_1", "image_2"]].sum(axis=1), [1, 1, 0])
        assert table["image_2"][0] > table["image_1"][0]
        assert str(table["verdict"][0]).endswith("image_2")
        assert ("leave_one_out" in table["verdict"][0]) == check
    assert "<table" in many._repr_html_()


def test_under_edits_questions_are_answered_one_by_one(lab, pictures):
    prompts = [[*pictures[:2], f"What is in image {k}?"] for k in (1, 2)]
    with lab.knockout("image_1 -> *"):
        many = lab.ask_many(prompts)
        for answer, prompt in zip(many, prompts, strict=True):
            same(answer, lab.ask(prompt))
            assert answer.edits


def test_a_question_whose_logits_are_no_numbers_fails_alone(lab, prompts, monkeypatch):
    run = lab.family.decode_batch

    def broken(*given: Any) -> Any:
        logits, *rest = run(*given)
        logits[1] = torch.nan
        return logits, *rest

    monkeypatch.setattr(lab.family, "decode_batch", broken)
    many = lab.ask_many(prompts[:4], errors="keep", max_new_tokens=4)
    assert isinstance(many[1], NotANumber)
    assert [many[k].text for k in (0, 2, 3)] == [lab.ask(prompts[k], max_new_tokens=4).text for k in (0, 2, 3)]


def test_where_memory_is_short_fewer_stand_side_by_side(lab, prompts, monkeypatch):
    expected = [answer.text for answer in lab.ask_many(prompts, max_new_tokens=3)]
    run, sizes = lab.family.decode_batch, []

    def failing(stretches: Any, *given: Any) -> Any:
        sizes.append(len(stretches))
        if len(stretches) > 3:
            raise torch.OutOfMemoryError("planted")
        return run(stretches, *given)

    monkeypatch.setattr(lab.family, "decode_batch", failing)
    assert [answer.text for answer in lab.ask_many(prompts, max_new_tokens=3)] == expected
    assert sizes[-1] <= 3 < max(sizes)
    with pytest.raises(OutOfMemory):
        lab.ask_many(prompts, batch_size=8, max_new_tokens=3)
    assert not lab.engine.lock.locked()


def test_what_was_answered_before_an_interrupt_is_kept(lab, prompts, monkeypatch):
    run, count = lab.family.decode_batch, [0]

    def interrupting(*given: Any) -> Any:
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return run(*given)

    expected = [answer.text for answer in lab.ask_many(prompts, max_new_tokens=3)]
    monkeypatch.setattr(lab.family, "decode_batch", interrupting)
    many = lab.ask_many(prompts, batch_size=4, max_new_tokens=3, errors="keep")
    done = [answer for answer in many if isinstance(answer, vila_lab.Answer)]
    assert 0 < len(done) < len(many) == len(prompts)
    assert [answer.text for answer in done] == expected[: len(done)]
    assert "interrupted" in str(many[-1])
    count[0] = 0
    with pytest.raises(KeyboardInterrupt):
        lab.ask_many(prompts, batch_size=4, max_new_tokens=3)
    assert not lab.engine.lock.locked()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size"), ({"batch_size": "many"}, '"auto"'), ({"batch_size": 2.5}, "batch_size"),
        ({"errors": "ignore"}, '"raise" or "keep"'), ({"max_new_tokens": 0}, "max_new_tokens"), ({"colour": 1}, "colour"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(lab, options, words):
    with pytest.raises(OptionError, match=words):
        lab.ask_many(["Hello"], **options)


def test_one_text_is_no_list_of_questions(lab):
    with pytest.raises(OptionError, match="one text"):
        lab.ask_many("Hello")
    assert lab.ask_many([]) == []
    assert lab.ask_many([]).frame().empty


# -- several answers to one question ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embedded", *CHECKPOINTS])
def test_n_answers_are_those_of_the_seeds(name, golden_session, pictures):
    lab = vila_lab.load() if name == "embedded" else golden_session(name)
    options: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "top_k": 20, "max_new_tokens": 5}
    state = torch.get_rng_state()
    several = lab.ask([*pictures[:2], "What is in image 2?"], n=4, seed=5, **options)
    assert isinstance(several, list)
    for number, answer in enumerate(several):
        alone = lab.ask([*pictures[:2], "What is in image 2?"], seed=5 + number, **options)
        assert [token.id for token in answer.tokens] == [token.id for token in alone.tokens]
    assert len({answer.text for answer in several}) > 1
    assert len(lab.ask("Hello", n=1)) == 1
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(OptionError, match="do_sample=True"):
        lab.ask("Hello", n=2)
    with pytest.raises(OptionError, match="n "):
        lab.ask("Hello", n=0)
