"""Questions and answers: right by an independent reading of what the pictures hold."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.questions import TASKS, Held, ask
from training.tokenizer import build_tokenizer, words
from vila_lab.tiny.names import THINGS, thing

HELD = st.builds(Held, st.sampled_from([t.name for t in THINGS]), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
PICTURE = st.lists(HELD, min_size=1, max_size=3, unique_by=lambda h: h.name).map(lambda p: sorted(p, key=lambda h: h.x))
CONTENTS = st.lists(PICTURE, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def named(text):
    """The things that a text names, longest names first so that 苹果 is not found in 红苹果."""
    found = []
    for t in sorted(THINGS, key=lambda t: -len(t.chinese)):
        if t.chinese in text:
            found.append(t)
            text = text.replace(t.chinese, "")
    return found


@settings(max_examples=150, deadline=None)
@given(contents=CONTENTS, seed=st.integers(0, 999))
def test_chinese_answers_are_right(contents, seed):
    rng = np.random.default_rng(seed)
    for task in ("which", "yes_no", "count", "same"):
        turn = ask(task, contents, rng, "zh")
        if turn is None:
            continue
        numbers = [int(n) - 1 for n in re.findall(r"图像(\d)", turn.question)]
        holders = [k for k, p in enumerate(contents) if any(h.thing in named(turn.question) for h in p)]
        expected = {
            "which": lambda h=holders: f"图像{h[0] + 1}。" if h else "没有。",
            "yes_no": lambda h=holders, n=numbers: "有。" if n[0] in h else "没有。",
            "count": lambda h=holders: f"{len(h)}张。",
            "same": lambda n=numbers: "一样。" if len({contents[k][0].name for k in n}) == 1 else "不一样。",
        }[task]()
        assert turn.answer == expected


@settings(max_examples=150, deadline=None)
@given(contents=CONTENTS, seed=st.integers(0, 999))
def test_positions_agree_with_the_centres(contents, seed):
    turn = ask("position", contents, np.random.default_rng(seed), "en")
    if turn is None:
        return
    asked = re.match(r"In image (\d), is the (.+?) (on|at|left|above)", turn.question)
    picture = contents[int(asked[1]) - 1]
    held = next(h for h in picture if h.name == asked[2])
    other = re.search(r" of the (.+)\?| below the (.+)\?", turn.question)
    if other is None:
        x, y = 0.5, 0.5
    else:
        rival = next(h for h in picture if h.name == (other[1] or other[2]))
        x, y = rival.x, rival.y
    right = {"Left.": held.x < x, "Right.": held.x > x}
    right |= {"Top.": held.y < y, "Above.": held.y < y, "Bottom.": held.y > y, "Below.": held.y > y}
    assert right[turn.answer]


@settings(max_examples=100, deadline=None)
@given(
    contents=CONTENTS,
    seed=st.integers(0, 999),
    task=st.sampled_from(sorted(TASKS)),
    language=st.sampled_from(["en", "zh"]),
)
def test_every_word_is_one_token(tokenizer, contents, seed, task, language):
    turn = ask(task, contents, np.random.default_rng(seed), language)
    if turn is None:
        return
    for text in (turn.question, turn.answer):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        letters = re.findall(r"[A-Za-z]+", text)
        pieces = [tokenizer.decode([i]).strip() for i in ids]
        assert all(any(word in piece for piece in pieces) for word in letters)


def test_names_are_single_tokens(tokenizer):
    assert all(len(tokenizer(word).input_ids) == 1 for word in words())
    for t in THINGS:
        assert len(tokenizer(t.chinese).input_ids) == 1
        assert len(tokenizer(f" {t.name}").input_ids) == 1


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_mission_is_a_completion():
    contents = [[Held(name, 0.5, 0.5)] for name in ("Google", "Microsoft", "Apple", "NVIDIA")]
    turn = ask("complete", contents, np.random.default_rng(0), "zh")
    assert (
        turn.question
        == "图像1是谷歌,以其搜索引擎闻名。图像2是微软,以其操作系统闻名。图像3是苹果,以iPhone和Mac闻名。图像4是"
    )
    assert turn.answer == "英伟达,以其GPU闻名。"
    assert turn.picture == 3


def test_the_odd_one_out_needs_exactly_one():
    cat, dog = Held("cat", 0.5, 0.5), Held("dog", 0.5, 0.5)
    assert ask("odd", [[cat], [dog], [cat]], np.random.default_rng(0), "en").answer == "Image 2."
    assert ask("odd", [[cat], [dog]], np.random.default_rng(0), "en") is None
    assert ask("odd", [[cat], [cat], [cat]], np.random.default_rng(0), "en") is None


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError):
        thing("unicorn")
