"""A conversation: every turn sees the ones before, none is computed twice, and it equals one question of the same messages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import vila_lab
from tests.conftest import CHECKPOINTS
from tests.engine.test_reuse import any_lab, same, work  # noqa: F401 - fixtures
from vila_lab.chat import APART, Chat
from vila_lab.engine.cuts import cuts
from vila_lab.engine.reuse import Prefix
from vila_lab.errors import CaptureError, FileError, OptionError, PromptError
from vila_lab.nvila.conversation import TEMPLATES
from vila_lab.session import Session
from vila_lab.stream import Stream


@pytest.fixture
def pictures(demo) -> list[Any]:
    return [demo / name for name in ("g.png", "m.png", "a.png", "n.png")]


def message(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image", "image": c} if hasattr(c, "suffix") else c for c in content]}


def messages(chat: Chat, turns: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What was said in a chat, as a list of messages up to the last question."""
    found = []
    for parts, answer in zip(turns, chat.answers, strict=True):
        found += [message("user", *parts), message("assistant", answer.text)]
    return found[:-1]


# -- one conversation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_chat_is_one_question_of_the_same_messages(lab, pictures, system):
    turns = [
        (pictures[0], pictures[1], "What is in image 1?"),
        ("What is in image 2?",),
        (pictures[2], "What is in image 3?"),
    ]
    chat = lab.chat(system)
    answers = [chat.ask(list(parts)) for parts in turns]
    if system is None:
        assert [answer.text for answer in answers[:2]] == ["Google.", "Microsoft."]
    before = [] if system is None else [message("system", system)]
    for warm in (True, False):
        if not warm:
            lab.forget()
        same(lab.ask([*before, *messages(chat, turns)]), answers[-1])


def test_no_turn_computes_what_one_before_it_did(any_lab, pictures, work):  # noqa: F811
    done = work(any_lab)
    chat = any_lab.chat()
    lengths = []
    for parts in ([*pictures[:2], "What is in image 1?"], ["And image 2?"], ["And both?"]):
        done["rows"].clear()
        answer = chat.ask(parts, max_new_tokens=4)
        lengths.append(answer.token_map.prompt_length)
        before = lengths[-2] if len(lengths) > 1 else 0
        assert sum(done["rows"]) == lengths[-1] - before + len(answer.tokens) - 1
    assert sum(done["tiles"]) == 2
    assert sum(isinstance(kept, Prefix) for kept in any_lab.engine.reuse) == 1  # each turn's stands for those before it


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_random_answers_are_kept_by_their_tokens(golden_session, pictures, name):
    """Words of random models seldom are cut into the tokens that they came from."""
    lab = golden_session(name)
    chat = lab.chat()
    first = chat.ask([*pictures[:2], "Hello"], max_new_tokens=12)
    second = chat.ask("Go on", max_new_tokens=3)
    own = [token.id for token in first.tokens if not token.stop]
    ids = lab.family.prepare(second.record.prompt).inputs["input_ids"][0].tolist()
    length = first.token_map.prompt_length
    assert ids[:length] == lab.family.prepare(first.record.prompt).inputs["input_ids"][0].tolist()
    assert ids[length : length + len(own)] == own
    assert second.token_map.positions("replies").tolist() == list(range(length, length + len(own) + 1))


@pytest.mark.parametrize("mode", ["auto", *TEMPLATES])
def test_the_prompt_of_every_turn_begins_the_next(lab, pictures, mode):
    chat = lab.chat()
    answers = [
        chat.ask(parts, conv_mode=mode, max_new_tokens=4) for parts in ([*pictures[:2], "One?"], ["Two?"], ["3?"])
    ]
    ids = [lab.family.prepare(a.record.prompt, a.replay.options).inputs["input_ids"][0].tolist() for a in answers]
    for answer, mine, following in zip(answers, ids, ids[1:], strict=False):
        own = [token.id for token in answer.tokens if not token.stop]
        assert following[: len(mine) + len(own)] == mine + own
        assert len(mine) in cuts(answers[-1].token_map)


def test_the_map_spans_the_conversation(lab, pictures):
    chat = lab.chat()
    for k in range(3):
        answer = chat.ask([pictures[k], f"What is in image {k + 1}?"])
    tokens = answer.token_map
    assert len(answer.images) == tokens.n_pictures == tokens.n_turns == 3
    turns = [set(tokens.positions(f"turn_{k}").tolist()) for k in (1, 2, 3)]
    for k, turn in enumerate(turns, 1):
        assert set(tokens.positions(f"image_{k}")) <= turn
        assert not turn & set(tokens.positions("template"))
    assert set.union(*turns) == set(range(tokens.prompt_length)) - set(tokens.positions("template").tolist())
    assert not turns[0] & turns[1]
    ledger = answer.ledger()
    assert list(ledger.columns) == ["image_1", "image_2", "image_3", "prompt", "answer", "sink"]
    np.testing.assert_allclose(ledger.sum(axis=1), 1, atol=1e-6)
    assert ledger["image_3"].iloc[0] > ledger["image_1"].iloc[0]
    with pytest.raises(OptionError, match="the conversation has 3 turns"):
        tokens.positions("turn_4")


def test_everything_that_can_be_asked_of_an_answer_can_be_of_a_turn(lab, pictures):
    chat = lab.chat()
    chat.ask([*pictures[:2], "What is in image 1?"])
    answer = chat.ask("What is in image 2?")
    assert answer.attribute("leave_one_out").per_image().to_numpy()[0].argmax() == 1
    assert answer.attribute("shapley", baseline="mean").values.any()
    assert answer.attribute("occlusion", image=1, baseline="mean").values.any()
    assert answer.leakage().sizes["layer"] == 6
    with lab.knockout("turn_1 -> answer"):
        assert chat.fork().ask("What is in image 2?").text != answer.text


def test_a_fork_goes_its_own_way_and_an_undone_turn_was_never_asked(lab, pictures):
    chat = lab.chat()
    first = chat.ask([*pictures[:2], "What is in image 1?"])
    fork = chat.fork()
    one, other = chat.ask("What is in image 2?"), fork.ask("Which picture shows a search engine?")
    assert (len(chat.answers), len(fork.answers)) == (2, 2)
    assert chat.undo() is one
    same(chat.ask("Which picture shows a search engine?"), other)
    assert chat.undo() is not other
    assert chat.undo() is first
    with pytest.raises(OptionError, match="nothing to undo"):
        chat.undo()
    lab.forget()
    same(
        fork.fork().ask("What is in image 2?"),
        chat_of(lab, pictures, "Which picture shows a search engine?").ask("What is in image 2?"),
    )


def chat_of(lab: Session, pictures: list[Any], *more: str) -> Chat:
    chat = lab.chat()
    chat.ask([*pictures[:2], "What is in image 1?"])
    for question in more:
        chat.ask(question)
    return chat


# -- how pictures are read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nvila-lite", "nvila-dynamic_s2"])
def test_a_second_picture_changes_how_the_first_is_read_unless_that_is_kept(golden_session, golden_image, name):
    lab = golden_session(name)
    land, port = golden_image("a_land.png"), golden_image("b_port.png")
    counts = {}
    for tiling in ("reference", "first"):
        chat = lab.chat(tiling=tiling)
        first = chat.ask([land, "Hi?"], max_new_tokens=2)
        second, third = chat.ask([port, "And?"], max_new_tokens=2), chat.ask("More?", max_new_tokens=2)
        told = [note for note in second.notes if "picture 1" in note]
        assert len(told) == (tiling == "reference")
        assert not [note for note in third.notes if "picture 1" in note]
        counts[tiling] = [len(answer.token_map.positions("image_1")) for answer in (first, second, third)]
        assert len(second.token_map.positions("image_2")) < counts[tiling][0]
        second.attribute("leave_one_out", baseline="mean")
        second.attribute("occlusion", image=0, baseline="mean", cells=(2, 2))
    assert counts["first"] == [counts["first"][0]] * 3
    assert counts["reference"][0] > counts["reference"][1]
    with pytest.raises(OptionError, match="choose one of reference, first"):
        lab.chat(tiling="none")


def test_a_chat_that_began_with_two_pictures_reads_them_as_before(golden_session, golden_image):
    lab = golden_session("nvila-lite")
    chat = lab.chat(tiling="first")
    pictures = [golden_image("a_land.png"), golden_image("b_port.png")]
    first = chat.ask([*pictures, "Hi?"], max_new_tokens=2)
    second = chat.ask([pictures[0], "And?"], max_new_tokens=2)
    assert len(first.token_map.positions("image_1")) == len(second.token_map.positions("image_1"))


def test_an_option_goes_before_what_the_chat_keeps_of_its_first_reading(golden_session, golden_image):
    chat = golden_session("nvila-lite").chat(tiling="first")
    chat.ask([golden_image("a_land.png"), "Hi?"], max_new_tokens=2)
    second = chat.ask([golden_image("b_port.png"), "And?"], max_new_tokens=2, tile_first=False)
    assert "picture 1" in "".join(second.notes)


def test_every_option_reaches_the_question(lab, pictures):
    options: dict[str, Any] = {
        "max_new_tokens": 7, "do_sample": True, "temperature": 0.9, "top_p": 0.8, "top_k": 40, "min_p": 0.01, "seed": 5,
        "stop": ["!"], "logprobs": 3, "response_format": ["Google", "Apple"], "background": "white", "apply_exif": True,
        "conv_mode": "plain", "image_aspect_ratio": "resize",
    }  # fmt: skip
    asked = lab.ask([pictures[0], "What is it?"], **options)
    chat = lab.chat()
    answered = chat.ask([pictures[0], "What is it?"], **options)
    streamed = lab.chat().stream([pictures[0], "What is it?"], **options)
    assert [*streamed] == [*asked.tokens]
    assert answered.tokens == asked.tokens
    assert answered.record.asked == streamed.answer.record.asked == asked.record.asked
    assert answered.record.options == streamed.answer.record.options == asked.record.options


def test_a_chat_has_one_answer_at_a_time(lab, pictures):
    chat = lab.chat()
    for ask in (chat.ask, chat.stream):
        with pytest.raises(OptionError, match=r"has no option 'n'; lab\.ask takes it"):
            ask([pictures[0], "What is it?"], n=2, do_sample=True)
    assert chat.answers == []


# -- streams and threads ---------------------------------------------------------------------------------------------------


def test_a_stream_is_part_of_the_chat_once_it_has_ended(lab, pictures):
    chat = chat_of(lab, pictures)
    stream = chat.stream("What is in image 2?")
    assert isinstance(stream, Stream)
    assert len(chat.answers) == 1
    assert "".join(token.text for token in stream) == "Microsoft."
    assert chat.answers[1] is stream.answer
    same(stream.answer, chat_of(lab, pictures).ask("What is in image 2?"))
    with chat.stream("What is in image 1?") as stream:
        next(stream)
    assert chat.answers[2].text == "Google"
    assert "interrupted" in " ".join(chat.answers[2].notes)
    assert chat.ask("What is in image 2?").token_map.n_turns == 4
    late = chat.stream("What is in image 1?")
    chat.ask("What is in image 1?")
    assert APART in late.answer.notes
    assert len(chat.answers) == 5


def test_threads_take_turns_in_one_chat_and_do_not_mind_another(lab, pictures):
    expected = chat_of(lab, pictures, "What is in image 2?", "What is in image 2?").answers
    chat, others = chat_of(lab, pictures), [chat_of(lab, pictures) for _ in range(2)]
    threads = [threading.Thread(target=one.ask, args=("What is in image 2?",)) for one in (chat, chat, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, answer in zip(chat.answers, expected, strict=True):
        same(got, answer)
    for other in others:
        same(other.answers[1], expected[1])
    assert not lab.engine.lock.locked()


def test_what_fails_leaves_the_chat_as_it_was(lab, pictures, monkeypatch):
    chat = chat_of(lab, pictures)
    for wrong, error in ((" ", PromptError), ([pictures[0].with_name("none.png")], FileNotFoundError)):
        with pytest.raises(error):
            chat.ask(wrong)
    with pytest.raises(PromptError, match="its own history"):
        chat.ask(messages(chat_of(lab, pictures, "More?"), [(*pictures[:2], "x"), ("More?",)]))
    with monkeypatch.context() as patch:
        patch.setattr(lab.family, "decode_copies", interrupting(lab.family.decode_copies))
        with pytest.raises(KeyboardInterrupt):
            chat.ask("What is in image 2?")
    assert len(chat.answers) == 1
    assert chat.ask("What is in image 2?").text == "Microsoft."
    with pytest.raises(OptionError, match="system is a text"):
        lab.chat(3)


def interrupting(function: Any) -> Any:
    count = [0]

    def call(*given: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return function(*given)

    return call


# -- files and display -----------------------------------------------------------------------------------------------------


def test_a_saved_chat_comes_back_whole_and_goes_on(lab, pictures, tmp_path):
    chat = chat_of(lab, pictures, "What is in image 2?")
    path = chat.save(tmp_path / "a.vila")
    again = vila_lab.open(path)
    assert isinstance(again, Chat)
    for got, answer in zip(again.answers, chat.answers, strict=True):
        same(got, answer)
        assert [image.tobytes() for image in got.images] == [image.tobytes() for image in answer.images]
    with pytest.raises(CaptureError, match=r"chat.bind\(lab\)"):
        again.ask("More?")
    same(again.bind(lab).ask("What is in image 1?"), chat.ask("What is in image 1?"))
    assert isinstance(vila_lab.open(chat.answers[0].save(tmp_path / "b.vila")), vila_lab.Answer)
    empty = vila_lab.open(lab.chat("Be brief.").save(tmp_path / "c.vila"))
    assert (empty.answers, empty.system) == ([], "Be brief.")


def test_a_picture_is_written_once(lab, pictures, tmp_path):
    chat = chat_of(lab, pictures)
    once = chat.save(tmp_path / "a.vila").stat().st_size
    chat.ask("What is in image 2?")
    answer = chat.answers[1].save(tmp_path / "b.vila").stat().st_size
    pixels = sum(picture.stat().st_size for picture in pictures[:2])
    assert chat.save(tmp_path / "c.vila").stat().st_size < once + answer - pixels / 2


def test_a_saved_chat_that_was_cut_or_changed_is_refused(lab, pictures, tmp_path):
    path = chat_of(lab, pictures, "What is in image 2?").save(tmp_path / "a.vila")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        place = int(rng.integers(len(data)))
        changed = bytes([*data[:place], data[place] ^ (1 << int(rng.integers(8))), *data[place + 1 :]])
        for damaged in (data[:place], changed):
            path.write_bytes(damaged)
            with pytest.raises(FileError):
                vila_lab.open(path)


def test_a_chat_shows_every_answer_under_its_question(lab, pictures, tmp_path):
    chat = chat_of(lab, pictures, "What is in <image 2>?")
    bundle = chat._repr_mimebundle_()
    assert bundle["text/html"].count('class="vila-view"') == 2
    assert bundle["text/html"].count("<script") == 1
    assert "What is in &lt;image 2&gt;?" in bundle["text/html"]
    assert bundle["text/plain"].index("Google.") < bundle["text/plain"].index("<image 2>")
    assert chat.to_html(tmp_path / "a.html").read_text().count("http") <= 2
    assert "nothing was asked yet" in lab.chat()._repr_mimebundle_()["text/plain"]
    assert repr(chat) == "Chat(2 turns, 2 pictures)"
