"""A question that names a picture which was not given gets a note, every time and never falsely."""

from __future__ import annotations

import pytest
from PIL import Image

import vila_lab
from vila_lab.inputs.mentions import pictures_named, written

NAMED = [
    ("What is in image 3?", (3,)),
    ("What is in Image #3?", (3,)),
    ("image3", (3,)),
    ("picture 3", (3,)),
    ("Is photo no. 4 real?", (4,)),
    ("images 1, 2 and 4", (1, 2, 4)),
    ("images 1-4", (1, 4)),
    ("image 1 and image 5", (1, 5)),
    ("图像3里有什么?", (3,)),
    ("图3", (3,)),
    ("图片3和4", (3, 4)),
    ("图像三是什么", (3,)),
    ("第三张图", (3,)),
    ("第3张图片里有什么", (3,)),
    ("第三张是什么?", (3,)),
    ("第十二张图像", (12,)),
    ("照片 3", (3,)),
    ("the third picture", (3,)),
    ("3rd image", (3,)),
    ("the second and third pictures", (2, 3)),
    ("What does the image 3 show", (3,)),
    ("the images 3 and 4", (3, 4)),
    ("in image 3 cats play", (3,)),
    ("Does image three show", (3,)),
    ("image_3", (3,)),
    ("What is in IMAGE 3", (3,)),
    ("图像3", (3,)),
    ("描述图3", (3,)),
    ("比较图1和图4", (1, 4)),
    ("图1到图4", (1, 4)),
    ("请看图5。", (5,)),
    ("圖像3是", (3,)),
    ("What is in image (3)?", (3,)),
    ("picture number 7", (7,)),
    ("the 12th photo", (12,)),
    ("image 0", (0,)),
    ("Picture 3 shows a cat?", (3,)),
    ("picture 3?", (3,)),
    ("image 3.", (3,)),
    ("image 3's", (3,)),
    ("第3个图像", (3,)),
    ("What does the image 3 represents?", (3,)),
    ("Is the image 3 always blue?", (3,)),
    ("In the image 3 this animal sits.", (3,)),
    ("the image 3 clearly shows dogs", (3,)),
    ("the image 3 what animals are there", (3,)),
    ("Describe the image 3 using few words", (3,)),
    ("image-3", (3,)),
    ("What is the third picture in this series?", (3,)),
    (
        "图像1是谷歌,以其搜索引擎闻名。图像2是微软,以其操作系统闻名。图像3是苹果,以iPhone和Mac闻名。图像4是",
        (1, 2, 3, 4),
    ),
]
UNNAMED = [
    "In this picture 3 people stand.",
    "In the image 3 cats play.",
    "In this picture 3 small dogs play.",
    "In the picture 3 red cars are parked.",
    "Picture 3 happy young people in a room.",
    "an image 3 times larger",
    "Picture 10 people in a room.",
    "a 3D image",
    "image 3D",
    "image 4K",
    "image 16:9",
    "img_3.png",
    "image 50%",
    "这张图3个人",
    "图中3只猫",
    "地图3",
    "示意图2",
    "图三维重建",
    "二维码图",
    "a third picture would help",
    "one third of the picture",
    "What are the three pictures?",
    "ImageNet 21",
    "the third cat in the picture",
    "the third picture on the wall",
    "the third picture in the museum",
    "第三张椅子",
    "第三只猫",
    "How many pictures are there?",
    "photo-3.jpg",
    "image 3.5",
    "each image 2 dogs",
    "图像中有3个苹果吗?",
    "几张图?",
    "两张图像一样吗?",
    "这两张图一样吗",
    "image of 3 cats",
    "Is there 1 image or 2?",
    "version 3 image 2x",
    "这张图像有什么?",
    "图像一样吗",
]


@pytest.mark.parametrize(("text", "numbers"), NAMED)
def test_named(text, numbers):
    assert pictures_named([text]) == numbers


@pytest.mark.parametrize("text", UNNAMED)
def test_a_count_or_another_word_names_nothing(text):
    assert pictures_named([text]) == ()


def test_texts_on_both_sides_of_a_picture_are_not_read_as_one():
    assert pictures_named(["What is in image", "3 cats?"]) == ()


@pytest.fixture(scope="module")
def lab():
    return vila_lab.load()


def noted(answer) -> list[str]:
    return [note for note in answer.notes if note.startswith("the question names")]


@pytest.mark.parametrize("question", ["What is in image 3?", "图像3里有什么?", "Describe the third picture."])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_picture_that_is_not_there_is_noted(lab, question, count):
    answer = lab.ask([*[Image.new("RGB", (60, 60), "red")] * count, question], max_new_tokens=1)
    (note,) = noted(answer)
    assert "image 3" in note
    assert {0: "no picture was", 1: "only 1 picture was", 2: "only 2 pictures were"}[count] in note


def test_pictures_that_are_there_are_not_noted(lab):
    pictures = [Image.new("RGB", (60, 60), "red")] * 3
    assert not noted(lab.ask([*pictures, "Compare image 1, 2 and 3."], max_new_tokens=1))
    assert not noted(lab.ask(["Image 1: ", pictures[0], "Image 2: ", pictures[1], "Same?"], max_new_tokens=1))


def test_a_conversation_counts_all_its_pictures(lab):
    chat = lab.chat()
    red = Image.new("RGB", (60, 60), "red")
    assert noted(chat.ask([red, "What is in image 2?"], max_new_tokens=1))
    assert not noted(chat.ask([red, "And in image 2?"], max_new_tokens=1))
    assert noted(chat.ask("And in image 3?", max_new_tokens=1))


def test_more_pictures_than_in_training_are_noted(lab):
    red = Image.new("RGB", (60, 60), "red")
    for count, is_noted in ((6, False), (7, True)):
        notes = lab.ask([*[red] * count, "What is in image 1?"], max_new_tokens=1).notes
        assert any("trained with at most 6" in note for note in notes) == is_noted


@pytest.mark.parametrize(
    ("text", "number", "piece"),
    [
        ("What is in image 3?", 3, "3"),
        ("What is in image 3?", 2, None),
        ("Compare images 1, 2 and 4.", 2, "2"),
        ("What is the third picture?", 3, "third"),
        ("图像十二里有什么?", 12, "十二"),
        ("图像1是谷歌。图像2是", 2, "2"),
        ("In 3 words: what is in image 3?", 3, "image 3"),
        ("Image 1 is a cat. Image 1 is", 1, "Image 1"),
    ],
)
def test_a_number_is_told_as_it_is_written(text, number, piece):
    assert written([text], number) == piece
    assert piece is None or piece in text
