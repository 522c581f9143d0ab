"""Pictures by number and by name, tokens by number and by word, wherever one is asked for; and one sentence for a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from vila_lab import NoEffect, Token
from vila_lab.errors import OptionError
from vila_lab.options import nearest
from vila_lab.pointing import first_token, picture_index, token_numbers, tokens_of_word

TEXTS = (" Micro", "soft", " and", "", "é", " Microsoft", "")
SAID = [Token(text, 7, -0.1, 9, stop=k == 6) for k, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def answer(lab, demo):
    return lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])


# -- one resolver for each -----------------------------------------------------------------------------------------


def test_a_picture_is_a_number_from_0_or_a_name_from_1():
    assert [picture_index(each, 2) for each in (0, np.int64(1), -1, "image_1", "image_2")] == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("picture", "count", "message"),
    [
        (2, 2, "there is no picture 2: the prompt has 2, counted from 0; the last is 1, or 'image_2'"),
        (0, 0, "there is no picture 0: the prompt has none"),
        ("image_3", 2, "there is no image_3: the prompt has 2 pictures, image_1 to image_2"),
        ("image_0", 1, "there is no image_0: the prompt has 1 picture, image_1"),
        ("picture_2", 2, r"'picture_2' names no picture \(did you mean 'image_2'\?\): the prompt has 2 pictures"),
        ("cat.png", 2, "'cat.png' names no picture: the prompt has 2 pictures"),
        (True, 2, "a picture must be a whole number counted from 0, or a name such as 'image_1', not True"),
        (0.0, 2, "not 0.0"),
    ],
)
def test_a_wrong_picture_is_one_sentence(picture, count, message):
    with pytest.raises(OptionError, match=message):
        picture_index(picture, count)


@pytest.mark.parametrize(
    ("token", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (-2, [5]),
        ("Microsoft", [0, 1]),
        ("andé", [2, 3, 4]),  # the empty one holds the first half of the é
        (slice(1, 3), [1, 2]),
        ([2, 0, -7], [0, 2]),
        (np.int32(4), [4]),
    ],
)
def test_tokens_are_numbers_or_the_words_they_spell(token, numbers):
    assert token_numbers(token, SAID)[0] == numbers
    assert first_token(token, SAID) == numbers[0]


def test_a_word_said_twice_is_noted_and_one_not_said_has_no_tokens():
    assert token_numbers("Microsoft", SAID)[1] == "'Microsoft' occurs 2 times in the answer; the first is meant"
    assert tokens_of_word("Apple", SAID) == tokens_of_word(" ", SAID) == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (7, "there is no token 7: this answer has 7, counted from 0"),
        ("microsoft", r"the word 'microsoft' is not in the answer .* \(did you mean 'Microsoft'\?\)"),
        ("Google", "the word 'Google' is not in the answer ' Microsoft andé Microsoft'$"),
        ([], "names no token"),
        (slice(9, 10), "holds no token"),
        (1.5, "token= takes a number, a slice, a list of numbers or a word, not 1.5"),
        (True, "not True"),
    ],
)
def test_a_wrong_token_is_one_sentence(token, message):
    with pytest.raises(OptionError, match=message):
        token_numbers(token, SAID)


# -- everywhere ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["attention", "leave_one_out"])
def test_a_heatmap_of_a_word_in_a_named_picture(method, answer):
    number = answer.rows_of("Microsoft")[0]
    by_number = answer.heatmap(1, number, method)
    assert np.array_equal(answer.heatmap("image_2", "Microsoft", method), by_number)
    assert np.array_equal(answer.heatmap(-1, [number], method), by_number)


def test_a_word_of_an_attribution_is_the_rows_that_spell_it(answer):
    found = answer.attribute("leave_one_out")
    assert np.array_equal(found.heatmap("image_2", "Microsoft"), found.heatmap(1, 0))
    assert np.array_equal(found.heatmap(1, [0, 1]), found.heatmap(1, 0) + found.heatmap(1, 1))
    alone = answer.attribute("leave_one_out", "Microsoft")
    assert np.allclose(alone.heatmap(1, "Microsoft"), alone.heatmap(1))
    with pytest.raises(OptionError, match="the word 'Google' is not in the answer"):
        found.heatmap(1, "Google")
    with pytest.raises(OptionError, match="token 9 was not scored"):
        found.heatmap(1, 9)


@pytest.mark.parametrize("kind", ["heatmap", "layers", "heads", "frames", "logit_lens", "curves", "agreement"])
def test_figures_take_words(kind, answer):
    if kind in ("heatmap", "heads", "logit_lens"):
        drawn = answer.plot(kind, image="image_2", token="Microsoft")
    else:
        drawn = answer.plot(kind, token="Microsoft")
    assert ("picture 2" if kind == "logit_lens" else "'Microsoft'") in drawn.get_title(loc="left")


def test_experiments_take_names_and_words(lab, answer, demo):
    assert np.array_equal(
        answer.attribute("occlusion", image="image_1").values, answer.attribute("occlusion", image=0).values
    )
    by_name, by_number = (answer.vision_attention(image) for image in ("image_2", 1))
    assert np.array_equal(by_name.heatmap, by_number.heatmap)
    assert lab.redirect(answer, image="image_1", heads=None).image == 0
    box = (10, 10, 200, 200)
    cards = [answer.metric_card("attention", "Microsoft", boxes={picture: box}) for picture in ("image_2", 1)]
    assert cards[0].table.equals(cards[1].table)
    other = lab.ask([demo / "g.png", demo / "a.png", "What is in image 2?"])
    scans = [lab.patch_scan(answer, other, token=token, layers=[5], positions="image_2") for token in ("Microsoft", 0)]
    assert scans[0].identical(scans[1])
    assert answer.flow("Microsoft", stride=6).target == answer.evidence("Microsoft").target == "Microsoft"


def test_the_widgets_choices_take_words_and_names(answer):
    widget = answer.explore()
    widget.selected_token = "Microsoft"
    widget.selected_region = ["image_2", 0, 0, 9, 9]
    assert (widget.selected_token, widget.selected_region[0]) == (0, 1)
    with pytest.raises(OptionError, match="the word 'Google' is not in the answer"):
        widget.selected_token = "Google"


# -- edits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda lab, part: lab.knockout(f"{part} -> *"),
        lambda lab, part: lab.knockout(f"image_1 -> {part}"),
        lambda lab, part: lab.steer(part, 2.0),
        lambda lab, part: lab.steer("image_1", 2.0, reader=part),
        lambda lab, part: lab.scale_heads([0], 0.5, rows=part),
        lambda lab, part: lab.ablate_heads([0], rows=part),
        lambda lab, part: lab.on_attention(print, rows=part),
        lambda lab, part: lab.on_attention(print, columns=["image_1", part]),
        lambda lab, part: lab.on_hidden(print, positions=part),
    ],
    ids=["source", "reader", "steered", "steering", "scaled", "ablated", "rows", "columns", "states"],
)
def test_an_edit_of_an_unknown_part_is_refused_when_it_is_made(make, lab):
    with pytest.raises(NoEffect, match=r"unknown group of positions 'picture_2' \(did you mean 'image_2'\?\); known: "):
        make(lab, "picture_2")
    with pytest.raises(NoEffect, match="there is no image_0: names are counted from 1, image_1 is the first"):
        make(lab, "image_0")
    assert lab.edits == ()


def test_a_patch_of_an_unknown_part_is_refused_when_it_is_made(lab, answer):
    with pytest.raises(NoEffect, match=r"'imgae_2' \(did you mean 'image_2'\?\)"):
        lab.patch(answer, ["image_1", "imgae_2"])
    assert lab.edits == ()


def test_what_only_the_question_can_tell_is_refused_there(lab, demo):
    with lab.knockout("image_9 -> *"), pytest.raises(NoEffect, match=r"^there is no image_9: the prompt has 1 picture"):
        lab.ask([demo / "g.png", "What is in image 1?"])


def test_a_forgotten_edit_is_seen(lab, demo):
    words = "knock-out of image_1 -> answer in all layers and heads"
    with lab.knockout("image_1 -> answer"):
        assert repr(lab).endswith(f", edits: {words})")
        edited = lab.ask([demo / "g.png", "What is in image 1?"])
    assert "edits" not in repr(lab)
    assert repr(edited).endswith(f", edits: {words})")
    shown = edited._repr_mimebundle_()
    assert f"Edited while answering: {words}" in shown["text/plain"]
    assert words in shown["text/html"].replace("\\u003e", ">")


# -- names that are near -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.attribute("shaply"), "unknown method 'shaply' (did you mean 'shapley'?)"),
        (lambda a: a.attribute("Leave-One-Out"), "(did you mean 'leave_one_out'?)"),
        (lambda a: a.experiment("evidenc"), "unknown experiment 'evidenc' (did you mean 'evidence'?)"),
        (lambda a: a.experiment("flow", strid=2), "flow has no option 'strid' (did you mean 'stride'?)"),
        (lambda a: a.experiment("attribute", method="shapley", sample=3), "(did you mean 'samples'?)"),
        (lambda a: a.plot("heatmaps"), "unknown kind of figure 'heatmaps' (did you mean 'heatmap'?)"),
    ],
    ids=["method", "letters", "experiment", "option", "method-option", "kind"],
)
def test_the_nearest_name_is_proposed(ask, message, answer):
    with pytest.raises(OptionError) as caught:
        ask(answer)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_mode": "vicuna_v2"}, "(did you mean 'vicuna_v1'?)"),
        ({"tile_all_image": True}, "'tile_all_image' (did you mean 'tile_all_images'?)"),
        ({"max_new_token": 3}, "'max_new_token' (did you mean 'max_new_tokens'?)"),
        ({"temprature": 3}, "'temprature' (did you mean 'temperature'?)"),
    ],
)
def test_the_nearest_option_of_a_question_is_proposed(options, message, lab):
    with pytest.raises(OptionError) as caught:
        lab.ask("What?", **options)
    assert message in str(caught.value)


def test_what_resembles_nothing_proposes_nothing():
    assert nearest("magic", ["attention", "rollout"]) == nearest(None, ["attention"]) == ""


def test_a_word_is_a_text(answer):
    with pytest.raises(OptionError, match="rows_of takes a word of the answer, not 3"):
        answer.rows_of(3)
