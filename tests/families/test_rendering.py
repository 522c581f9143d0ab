"""What was typed is found in what a template makes of it, whatever the template does to it."""

from __future__ import annotations

import pytest
from PIL import Image

from vila_lab.errors import PromptError
from vila_lab.families.rendering import render
from vila_lab.prompt import Picture, Prompt, Turn

RED = Picture.of(Image.new("RGB", (4, 4), "red"))
MARKER = "<image>"


def parts_of(message):
    return [part.get("text", MARKER) for part in message["content"]]


def in_order(messages):
    return "".join(f"<{m['role']}>{''.join(parts_of(m))}</{m['role']}>" for m in messages) + "<assistant>"


def trimmed(messages):
    return "".join(f"<{m['role']}> {''.join(part.strip() for part in parts_of(m))} |" for m in messages)


def pictures_first(messages):
    said = []
    for message in messages:
        parts = parts_of(message)
        pictures = "".join(f"{part}\n" for part in parts if part == MARKER)
        said.append(f"{message['role'].upper()}: {pictures}" + "".join(f"{part} " for part in parts if part != MARKER))
    return "".join(said) + "ASSISTANT:"


def strings_only(messages):
    """As Pixtral's: a system prompt is added to a string."""
    return "".join(m["content"] + "\n\n" if m["role"] == "system" else "".join(parts_of(m)) for m in messages)


def without_thoughts(messages):
    return "".join(f"<{m['role']}>{''.join(parts_of(m)).split('</think>')[-1]}" for m in messages) + "<assistant>"


def found(rendered):
    return [rendered.text[a:b] for a, b in rendered.typed], [rendered.text[a:b] for a, b in rendered.replies]


@pytest.mark.parametrize("template", [in_order, trimmed, pictures_first], ids=lambda each: each.__name__)
@pytest.mark.parametrize("words", ["What?", "user", " <user>", "assistant: A", "A A", "\n\n", "|", "x" * 500])
def test_words_are_found_whatever_they_are(template, words):
    rendered = render(Prompt((RED, words, RED, "and", words)), template, MARKER)
    typed, replies = found(rendered)
    given = [each.strip() if template is trimmed else each for each in (words, "and", words)]
    assert typed == [each for each in given if each]
    assert replies == []
    assert rendered.keeps_order
    places = [place for place in range(len(rendered.text)) if rendered.text.startswith(MARKER, place)]
    assert len(places) == 2
    if words.strip():
        assert places[0] < rendered.typed[0][0] < places[1] < rendered.typed[-1][0]


def test_pictures_in_front_stay_as_the_template_writes_them():
    asked = Prompt((RED, RED, "What?"))
    assert render(asked, pictures_first, MARKER).text == "USER: <image>\n<image>\nWhat? ASSISTANT:"
    assert render(asked, pictures_first, MARKER, inlines=False).text == render(asked, pictures_first, MARKER).text


def test_pictures_among_words_are_written_as_the_template_would():
    asked = Prompt(("First:", RED, "second:", RED, "Same?"))
    rendered = render(asked, pictures_first, MARKER)
    assert rendered.text == "USER: First:<image>\nsecond:<image>\nSame? ASSISTANT:"
    assert found(rendered)[0] == ["First:", "second:", "Same?"]
    left = render(asked, pictures_first, MARKER, inlines=False)
    assert not left.keeps_order
    assert left.text == "USER: <image>\n<image>\nFirst: second: Same? ASSISTANT:"


def test_turns_and_a_system_prompt():
    history = (Turn("system", ("Be brief.",)), Turn("user", (RED, "What?")), Turn("assistant", ("A cat.",)))
    rendered = render(Prompt(("Sure?", RED), history), in_order, MARKER)
    assert found(rendered) == (["What?", "Sure?"], ["A cat."])
    plain = render(Prompt((RED, "What?"), history[:1]), strings_only, MARKER)
    assert plain.text == "Be brief.\n\n<image>What?"
    assert found(plain) == (["What?"], [])


@pytest.mark.parametrize("answer", ["", "A cat.", "<think>A dog? No.</think>A cat."])
def test_what_an_earlier_answer_thought_may_be_left_out(answer):
    history = (Turn("user", (RED, "What?")), Turn("assistant", (answer,)))
    rendered = render(Prompt(("Sure?",), history), without_thoughts, MARKER)
    assert found(rendered) == (["What?", "Sure?"], [answer.split("</think>")[-1]])


def refusing(messages):
    if any(message["role"] == "system" for message in messages):
        raise ValueError("System role not supported")
    return in_order(messages)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (refusing, "cannot say this conversation: System role not supported"),
        (lambda messages: in_order(messages[-1:]), "cannot say this conversation: it leaves some of the messages out"),
        (lambda messages: in_order(messages).replace("What", "Wat"), "changes what is typed into it"),
        (lambda messages: in_order(messages).replace(MARKER, "", 1), "writes 0 of the conversation's 1 pictures"),
    ],
    ids=["refuses", "leaves out", "changes", "drops a picture"],
)
def test_a_template_that_cannot_say_it_is_one_sentence(template, words):
    with pytest.raises(PromptError, match=words) as caught:
        render(Prompt((RED, "What?"), (Turn("system", ("Be brief.",)),)), template, MARKER)
    assert "\n" not in str(caught.value)
