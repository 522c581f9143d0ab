"""Which pictures a text names: "image 3", "图像3", "the third picture". Knows words, no pictures.

English and Chinese are read, the languages of the family's own examples. What may as well be a count ("this picture 3 people",
"图3个人") or part of another word ("image 3D", "img_3.png", "地图3") names nothing: a note that came falsely would soon be
passed over by its readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

__all__ = ["pictures_named", "written"]

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ORDINALS = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
HAN_DIGITS = "〇一二三四五六七八九"

# ---- English ---------------------------------------------------------------------------------------------------------
NOUN = r"(?:images?|pictures?|photographs?|photos?|pics?|imgs?)"
NUMBER = rf"(?:\d{{1,3}}|{'|'.join(NUMBERS[2:])})"
ORDINAL = rf"(?:{'|'.join(ORDINALS[1:])}|\d{{1,3}}(?:st|nd|rd|th))"
AND = r"\s*(?:,\s*(?:and|or)\b|[,&/\-\u2013]|\b(?:and|or|to|through|vs\.?|versus)\b)\s*"
# 3D, 3.5, 3:4, 50 %, 3.png, 3-year are no numbers of pictures.
WHOLE = r"(?![\w%\u00b0\u00d7]|\s%|[.:]\d|\.(?:png|jpe?g|gif|webp|bmp|tiff?|heic|svg|mp4)\b|-[a-z])"
CARDINAL = re.compile(
    r"(?<![\w/\\.-])(?:(?P<one>an?|one|each|every|any|some|another)\s+|(?P<the>the|this|that|these|those|your|my|our)\s+)?"
    rf"(?P<noun>{NOUN})(?:\s*(?:#|№|no\.|number|\(|\[)\s*|[\s_]*|-)"
    rf"(?P<numbers>{NUMBER}{WHOLE}(?:{AND}(?:{NOUN}\s*)?{NUMBER}{WHOLE})*)(?P<after>(?:\s+[a-z]+){{0,3}})",
    re.IGNORECASE,
)
ORDINALLY = re.compile(
    rf"(?<![\w-])(?P<one>an?\s|another\s)?(?P<numbers>{ORDINAL}(?:{AND}(?:the\s)?{ORDINAL})*)\s{NOUN}\b"
    # The third picture on the wall is not one that was given; the third in the row is.
    r"(?!\s(?:on|inside|within|hanging|in)\s(?!(?:the|this|my|your|our)\s(?:row|list|series|set|sequence|prompt|chat)\b))",
    re.IGNORECASE,
)
COUNTED = re.compile(r"\w+[^s]s|people|men|women|children|feet|mice|fish|sheep|percent|mm|cm|px|or|more", re.IGNORECASE)
# What no counted thing stands behind: "the image 3 clearly shows dogs" names a picture, "the picture 3 small dogs" counts dogs.
BEFORE_NOTHING = re.compile(
    r"is|was|are|does|do|did|has|have|can|could|may|might|must|will|would|should|shows|show|showing|contains|containing"
    r"|depicts|depicting|displays|holds|looks|seems|appears|differs|represents|includes|features|portrays|illustrates|says"
    r"|reads|means|makes|comes|gives|tells|belongs|lies|stands|consists|uses|using|what|which|who|whose|where|when|why|how"
    r"|there|here|this|these|those|that|the|an?|its?|he|she|they|we|you|i|please|and|but|if|as|than|then|because|always"
    r"|perhaps|besides|across|in|on|at|of|to|for|from|by|with|without|about|against|between|like|not",
    re.IGNORECASE,
)

# ---- Chinese ---------------------------------------------------------------------------------------------------------
HAN_NUMBER = rf"(?:\d{{1,3}}|[{HAN_DIGITS}]?十[{HAN_DIGITS}]?|[{HAN_DIGITS}])"
HAN_NOUN = (
    r"(?:(?<![这這那此该該本每张張幅某哪])(?:图像|图片|圖像|圖片|照片|相片)"
    # By itself 图 is a picture, behind most other characters a part of another word (地图, a map).
    r"|(?:(?<![\u4e00-\u9fff])|(?<=[在看和与及从比把将对到请如是述较释跟析于问若而为用给让、]))[图圖])"
)
# Counted things (3只, 3个) and words that begin like a number (三维, 二维码, 一样).
HAN_WHOLE = r"(?!\s*[维維角分种種个個只隻张張条條位名人辆輛块塊件本朵棵杯碗台匹头頭岁歲年月日点點号號楼樓元度倍次米些样樣起定般切者级級等层層\d%A-Za-z]|[.:]\d)"
HAN_AND = r"\s*(?:[,、,~\-\u2013]|和|与|與|及|或|跟|以及|到|至)\s*"
HAN_CARDINAL = re.compile(
    rf"{HAN_NOUN}\s*[#((]?\s*(?P<numbers>{HAN_NUMBER}{HAN_WHOLE}(?:{HAN_AND}(?:{HAN_NOUN}\s*)?{HAN_NUMBER}{HAN_WHOLE})*)"
)
HAN_PICTURE = r"(?:图像|图片|圖像|圖片|照片|相片|图|圖)"
HAN_ORDINAL = re.compile(
    rf"(?<![中里裡])第\s*(?P<numbers>{HAN_NUMBER}(?:{HAN_AND}第?\s*{HAN_NUMBER})*)\s*"
    rf"(?:[张張幅个個]?\s*{HAN_PICTURE}|[张張幅](?=[是里裡中有上内內的和与與显顯,。?!,?!:、\s]|$))"
)
PIECE = re.compile(rf"\d+|[a-z]+|[{HAN_DIGITS}十]+", re.IGNORECASE)


def pictures_named(texts: Iterable[str]) -> tuple[int, ...]:
    """The numbers, counted from 1 as words count, of the pictures that texts name; each once, in order of size.

    Examples
    --------
    >>> pictures_named(["Compare image 3 with the first picture.", "图像5里有什么?"])
    (1, 3, 5)
    >>> pictures_named(["In this picture 3 people look at a 3D image.", "这张图3个人"])
    ()
    """
    return tuple(
        sorted({number for text in texts for found in _named(text) for _, number in _numbers(found["numbers"])})
    )


def written(texts: Iterable[str], number: int) -> str | None:
    """How texts write a picture's number where they name the picture last; None where they do not.

    Where the same number stands in a text more than once, with what stands before it: "image 3" and not "3".

    Examples
    --------
    >>> written(["What is in image 3?"], 3), written(["第三张图是什么?"], 3), written(["Which image shows a cat?"], 1)
    ('3', '三', None)
    >>> written(["In 3 words: what is in image 3?"], 3)
    'image 3'
    """
    last = None
    for text in texts:
        for found in _named(text):
            for piece, named in _numbers(found["numbers"]):
                if named == number:
                    start = found.start("numbers") + found["numbers"].index(piece)
                    alone = len(re.findall(re.escape(piece), text)) == 1
                    last = piece if alone else text[found.start() : start + len(piece)]
    return last


def _named(text: str) -> Iterator[re.Match[str]]:
    """Where pictures are named, with their numbers as the group "numbers"."""
    for found in CARDINAL.finditer(text):
        if not _is_count(found):
            yield found
    for found in ORDINALLY.finditer(text):
        if not found["one"]:  # a third picture is one that might be
            yield found
    for pattern in (HAN_CARDINAL, HAN_ORDINAL):
        yield from pattern.finditer(text)


def _is_count(found: re.Match[str]) -> bool:
    """Whether the number counts what comes after it: "in the picture 3 people", "picture 3 people" (imagine them)."""
    if found["one"]:
        return True
    imagine = found["noun"].lower() == "picture" and not found.string[: found.start()].rstrip(" \"'").strip(".?!\n")
    if not (found["the"] or imagine):
        return False
    counted = takewhile(lambda word: BEFORE_NOTHING.fullmatch(word) is None, found["after"].split())
    return any(COUNTED.fullmatch(word) for word in counted)


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    """The numbers of a list such as "1, 2 and 4", "two", "third", "十二", as they are written; words in between are none."""
    for piece in PIECE.findall(text):
        low = piece.lower()
        if piece.isdecimal():
            yield piece, int(piece)
        elif low in NUMBERS:
            yield piece, NUMBERS.index(low)
        elif low in ORDINALS:
            yield piece, ORDINALS.index(low)
        elif piece[0] in HAN_DIGITS + "十":
            yield piece, _of_han(piece)


def _of_han(text: str) -> int:
    """A number below a hundred in Chinese characters.

    >>> [_of_han(text) for text in ("三", "十", "十二", "二十", "二十五")]
    [3, 10, 12, 20, 25]
    """
    tens, ten, ones = text.rpartition("十")
    if not ten:
        return HAN_DIGITS.index(text[-1])
    return (HAN_DIGITS.index(tens) if tens else 1) * 10 + (HAN_DIGITS.index(ones) if ones else 0)
