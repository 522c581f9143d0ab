"""Orders, duplicates, blanks and twins, and the numbers that follow their pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vila_lab.errors import OptionError
from vila_lab.evidence.order import order_test, renumber, twin
from vila_lab.prompt import Prompt

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
WORDS = {colour: word for word, colour in COLOURS.items()} | {(255, 255, 255): "white"}


def pictures(*names: str) -> list[Image.Image]:
    return [Image.new("RGB", (20, 10), COLOURS[name]) for name in names]


class Oracle:
    """Stands in for a session: sees colours, and answers by a rule."""

    def __init__(self, rule) -> None:
        self.rule = rule
        self.asked: list[Prompt] = []

    def run(self, request):
        self.asked.append(request.prompt)
        seen = [WORDS[image.getpixel((0, 0))] for image in request.prompt.images]
        return SimpleNamespace(text=self.rule(request.prompt.text, seen))


def second(text: str, seen: list[str]) -> str:
    """Reads the question's number."""
    number = int("".join(c for c in text if c.isdigit())[0])
    return f"Image {number} is {seen[number - 1]}."


@pytest.mark.parametrize(
    ("text", "numbers", "expected"),
    [
        ("image 1 or Image 2?", {1: 2, 2: 1}, "image 2 or Image 1?"),
        ("图像1是猫。图像 2是", {1: 2, 2: 1}, "图像2是猫。图像 1是"),
        ("images 1, 2 and 3", {1: 3, 3: 1}, "images 3, 2 and 1"),
        ("图片1和2", {1: 2, 2: 1}, "图片2和1"),
        ("image 1, 2 cats", {1: 3, 2: 1}, "image 3, 2 cats"),
        ("2 images of 10 things", {2: 1, 1: 2}, "2 images of 10 things"),
        ("image 12", {1: 2, 2: 1}, "image 12"),
    ],
)
def test_numbers_follow_their_pictures(text, numbers, expected):
    assert renumber(text, numbers) == expected


def test_who_reads_the_number_has_no_bias():
    oracle = Oracle(second)
    found = order_test(oracle, Prompt.of([*pictures("red", "green", "blue"), "What is in image 2?"]))
    assert found.answer == "Image 2 is green."
    assert found.position_bias == 0
    assert found.changed("order") == found.changed("duplicate") == 0
    assert found.changed("blank") == pytest.approx(1 / 3)
    assert found.table.kind.value_counts().to_dict() == {"order": 5, "duplicate": 3, "blank": 3, "twin": 3}


def test_who_always_reads_the_first_is_biased():
    found = order_test(
        Oracle(lambda text, seen: seen[0]), Prompt.of([*pictures("red", "green", "blue"), "What is in image 2?"])
    )
    assert found.position_bias == pytest.approx(4 / 5)  # the first stays first in one other order of five


def test_texts_between_pictures_keep_their_places():
    red, green = pictures("red", "green")
    oracle = Oracle(second)
    order_test(oracle, Prompt.of(["a", red, "b", green, "What is in image 1?"]))
    swapped = oracle.asked[1]
    kinds = [part if isinstance(part, str) else WORDS[part.image.getpixel((0, 0))] for part in swapped.parts]
    assert kinds == ["a", "green", "b", "red", "What is in image 2?"]
    twice = next(p for p in oracle.asked if len(p.pictures) == 3)
    assert [isinstance(part, str) for part in twice.parts] == [True, False, True, False, False, True]


def test_orders_are_drawn_where_there_are_too_many():
    oracle = Oracle(lambda text, seen: "x")
    found = order_test(oracle, Prompt.of([*pictures("red", "green", "blue"), "?"]), orders=3)
    orders = found.table[found.table.kind == "order"].pictures
    assert len(set(orders)) == len(orders) == 3
    assert (1, 2, 3) not in set(orders)


def test_one_picture_has_no_order():
    found = order_test(Oracle(lambda text, seen: seen[0]), Prompt.of([*pictures("red"), "?"]))
    assert np.isnan(found.position_bias)
    assert found.changed("blank") == 1
    assert "position_bias=nan" in repr(found)


def test_a_twin_is_other_pixels_of_the_same_size():
    image = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    other = twin(image)
    assert other.size == image.size
    assert other.tobytes() != image.tobytes()


def test_a_given_twin_is_used():
    red, green, blue = pictures("red", "green", "blue")
    found = order_test(Oracle(second), Prompt.of([red, green, "What is in image 2?"]), twins={1: blue})
    twins = found.table[found.table.kind == "twin"]
    assert twins.changed.tolist() == [False, True]


def test_bad_input(lab):
    with pytest.raises(OptionError, match="has no picture"):
        lab.order_test("Hello")
    with pytest.raises(OptionError, match="there is no picture 3: the prompt has 1"):
        lab.order_test("?", images=pictures("red"), twins={3: pictures("blue")[0]})
    found = order_test(Oracle(second), Prompt.of([*pictures("red", "green"), "What is in image 1?"]))
    with pytest.raises(OptionError, match="no variant of kind 'mirror'"):
        found.changed("mirror")


def test_the_embedded_model_in_both_orders(lab, demo):
    found = lab.order_test("What is in image 2?", images=[demo / "g.png", demo / "m.png"])
    assert found.answer == "Microsoft."
    assert found.position_bias == 0
    assert found._repr_html_().startswith("<div>")
