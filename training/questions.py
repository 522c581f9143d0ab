"""Questions about several pictures and their right answers, in English and Chinese. Knows what the pictures hold, never a pixel.

>>> import numpy as np
>>> cat, dog = Held("cat", 0.2, 0.5), Held("dog", 0.7, 0.5)
>>> ask("which", [[cat], [dog]], np.random.default_rng(3), "en")
Turn(question='Which image shows a cat?', answer='Image 1.', task='which', picture=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vila_lab.tiny.names import OBJECTS, Thing, thing

Rng = np.random.Generator


@dataclass(frozen=True)
class Held:
    """A thing in a picture and its centre, as shares of width and height."""

    name: str
    x: float
    y: float

    @property
    def thing(self) -> Thing:
        return thing(self.name)


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and the one picture that the answer is about (None: several or none)."""

    question: str
    answer: str
    task: str
    picture: int | None = None


Contents = Sequence[Sequence[Held]]  # what each picture holds, from left to right
MARGIN = 0.15  # two places are called left and right (or above and below) only if they differ by this share


def _pick(rng: Rng, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _holds(picture: Sequence[Held], name: str) -> bool:
    return any(held.name == name for held in picture)


def _singles(contents: Contents) -> list[int]:
    return [k for k, picture in enumerate(contents) if len(picture) == 1]


def describe(picture: Sequence[Held], language: str) -> str:
    """What a picture holds, from left to right: ``a cat and a dog``, ``猫和狗``."""
    if language == "zh":
        words = [held.thing.chinese for held in picture]
        return words[0] if len(words) == 1 else "、".join(words[:-1]) + "和" + words[-1]
    words = [held.thing.phrase for held in picture]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def famous(company: Thing, language: str) -> str:
    """``Google, known for its search engine`` or ``谷歌,以其搜索引擎闻名``."""
    assert company.fame is not None
    if language == "en":
        return f"{company.name}, known for {company.fame[0]}"
    its = "" if company.name == "Apple" else "其"
    return f"{company.chinese},以{its}{company.fame[1]}闻名"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _some_name(contents: Contents, rng: Rng, near: float) -> str:
    """A name to ask for: with chance ``near`` one that is shown in some picture, else any object."""
    if rng.random() < near:
        shown = [held.name for picture in contents for held in picture]
        return _pick(rng, shown)
    return _pick(rng, [t.name for t in OBJECTS])


def ask_name(contents: Contents, rng: Rng, language: str) -> Turn | None:
    readable = [k for k, picture in enumerate(contents) if _ordered(picture)]
    if not readable:
        return None
    k = readable[int(rng.integers(len(readable)))]
    said = describe(contents[k], language)
    if language == "zh":
        forms = [f"图像{k + 1}里有什么?", f"图像{k + 1}是什么?"] + (["图像里有什么?"] if len(contents) == 1 else [])
        return Turn(_pick(rng, forms), f"{said}。", "name", k)
    forms = [f"What is in image {k + 1}?", f"What does image {k + 1} show?"] + (
        ["What is in the image?"] if len(contents) == 1 else []
    )
    return Turn(_pick(rng, forms), f"{_capital(said)}.", "name", k)


def _ordered(picture: Sequence[Held]) -> bool:
    """Whether the order from left to right is plain to see."""
    return all(b.x - a.x > 0.1 for a, b in pairwise(picture))


def ask_which(contents: Contents, rng: Rng, language: str) -> Turn | None:
    name = _some_name(contents, rng, near=0.93)
    holders = [k for k, picture in enumerate(contents) if _holds(picture, name)]
    if len(contents) == 1 or len(holders) > 1:
        return None
    where = holders[0] if holders else None
    if language == "zh":
        answer = "没有。" if where is None else f"图像{where + 1}。"
        return Turn(
            _pick(rng, [f"哪张图像里有{thing(name).chinese}?", f"哪张图像是{thing(name).chinese}?"]),
            answer,
            "which",
            where,
        )
    answer = "None." if where is None else f"Image {where + 1}."
    return Turn(
        _pick(rng, [f"Which image shows {thing(name).phrase}?", f"Which image contains {thing(name).phrase}?"]),
        answer,
        "which",
        where,
    )


def ask_yes_no(contents: Contents, rng: Rng, language: str) -> Turn | None:
    k = int(rng.integers(len(contents)))
    if rng.random() < 0.5:
        name = contents[k][int(rng.integers(len(contents[k])))].name
    else:
        name = _some_name(contents, rng, near=0.6)
    yes = _holds(contents[k], name)
    if language == "zh":
        return Turn(f"图像{k + 1}里有{thing(name).chinese}吗?", "有。" if yes else "没有。", "yes_no", k)
    forms = [f"Is there {thing(name).phrase} in image {k + 1}?", f"Does image {k + 1} show {thing(name).phrase}?"]
    return Turn(_pick(rng, forms), "Yes." if yes else "No.", "yes_no", k)


def ask_same(contents: Contents, rng: Rng, language: str) -> Turn | None:
    singles = _singles(contents)
    pairs = [(i, j) for i in singles for j in singles if i < j]
    alike = [(i, j) for i, j in pairs if contents[i][0].name == contents[j][0].name]
    unlike = [pair for pair in pairs if pair not in alike]
    want = alike if rng.random() < 0.5 else unlike
    if not want:
        return None
    i, j = want[int(rng.integers(len(want)))]
    same = (i, j) in alike
    if language == "zh":
        return Turn(f"图像{i + 1}和图像{j + 1}一样吗?", "一样。" if same else "不一样。", "same")
    forms = [
        f"Are image {i + 1} and image {j + 1} the same or different?",
        f"Image {i + 1} and image {j + 1}: same or different?",
    ]
    return Turn(_pick(rng, forms), "Same." if same else "Different.", "same")


def ask_count(contents: Contents, rng: Rng, language: str) -> Turn | None:
    shown = sorted({held.name for picture in contents for held in picture})
    by_count: dict[int, list[str]] = {}
    for name in shown:
        by_count.setdefault(sum(_holds(picture, name) for picture in contents), []).append(name)
    by_count[0] = [t.name for t in OBJECTS if t.name not in shown]
    counts = sorted(by_count)
    weights = np.array([0.5 if c == 0 else 1.0 for c in counts])
    count = counts[int(rng.choice(len(counts), p=weights / weights.sum()))]
    name = _pick(rng, by_count[count])
    if language == "zh":
        return Turn(f"有几张图像里有{thing(name).chinese}?", f"{count}张。", "count")
    forms = [f"How many images show {thing(name).phrase}?", f"How many images contain {thing(name).phrase}?"]
    return Turn(_pick(rng, forms), f"{count}.", "count")


def ask_odd(contents: Contents, rng: Rng, language: str) -> Turn | None:
    if len(contents) < 3 or len(_singles(contents)) != len(contents):
        return None
    names = [picture[0].name for picture in contents]
    odd = [k for k, name in enumerate(names) if names.count(name) == 1]
    if len(odd) != 1 or len(set(names)) != 2:
        return None
    if language == "zh":
        return Turn("哪张图像与众不同?", f"图像{odd[0] + 1}。", "odd", odd[0])
    return Turn(
        _pick(rng, ["Which image is the odd one out?", "Which image is different?"]),
        f"Image {odd[0] + 1}.",
        "odd",
        odd[0],
    )


def ask_position(contents: Contents, rng: Rng, language: str) -> Turn | None:
    """Left or right, above or below: of the picture's middle, or of another thing in it."""
    options: list[tuple[int, Held, Held | None, str, bool]] = []
    for k, picture in enumerate(contents):
        for held in picture:
            if sum(other.name == held.name for other in picture) > 1:
                continue
            for axis, place, middle in (("x", held.x, 0.5), ("y", held.y, 0.5)):
                if abs(place - middle) > MARGIN / 2 + 0.03:
                    options.append((k, held, None, axis, place < middle))
            for rival in picture:
                for axis, gap in (("x", rival.x - held.x), ("y", rival.y - held.y)):
                    if abs(gap) > MARGIN:
                        options.append((k, held, rival, axis, gap > 0))
    if not options:
        return None
    k, held, other, axis, first = options[int(rng.integers(len(options)))]
    if language == "zh":
        of = "" if other is None else f"{other.thing.chinese}的"
        low, high = ("左边", "右边") if axis == "x" else ("上面", "下面")
        return Turn(
            f"图像{k + 1}里,{held.thing.chinese}在{of}{low}还是{high}?", f"{low if first else high}。", "position", k
        )
    if other is None:
        low, high, sides = (
            ("Left", "Right", "on the left or on the right")
            if axis == "x"
            else ("Top", "Bottom", "at the top or at the bottom")
        )
    else:
        low, high = ("Left", "Right") if axis == "x" else ("Above", "Below")
        sides = ("left or right of" if axis == "x" else "above or below") + f" the {other.name}"
    return Turn(f"In image {k + 1}, is the {held.name} {sides}?", f"{low if first else high}.", "position", k)


def ask_complete(contents: Contents, rng: Rng, language: str) -> Turn | None:
    """The completion pattern: every picture but the last is named, the model names the last."""
    if len(contents) < 2 or len(_singles(contents)) != len(contents):
        return None
    things = [picture[0].thing for picture in contents]
    if all(t.is_company for t in things):
        said = [famous(t, language) for t in things]
    else:
        said = [describe(picture, language) for picture in contents]
    if language == "zh":
        text = "".join(f"图像{k + 1}是{s}。" for k, s in enumerate(said[:-1])) + f"图像{len(said)}是"
        return Turn(text, f"{said[-1]}。", "complete", len(said) - 1)
    text = "".join(f"Image {k + 1} is {s}. " for k, s in enumerate(said[:-1])) + f"Image {len(said)} is"
    return Turn(text, f"{said[-1]}.", "complete", len(said) - 1)


def ask_company(contents: Contents, rng: Rng, language: str) -> Turn | None:
    places = [k for k in _singles(contents) if contents[k][0].thing.is_company]
    if not places:
        return None
    k = places[int(rng.integers(len(places)))]
    said = famous(contents[k][0].thing, language)
    if language == "zh":
        return Turn(f"图像{k + 1}是哪家公司?", f"{said}。", "company", k)
    return Turn(f"Which company is in image {k + 1}?", f"{said}.", "company", k)


def ask_compare(contents: Contents, rng: Rng, language: str) -> Turn | None:
    singles = _singles(contents)
    if len(singles) < 2:
        return None
    i, j = sorted(int(k) for k in rng.choice(singles, 2, replace=False))
    first, second = describe(contents[i], language), describe(contents[j], language)
    if language == "zh":
        return Turn(f"图像{i + 1}和图像{j + 1}有什么不同?", f"图像{i + 1}是{first},图像{j + 1}是{second}。", "compare")
    question = f"What is the difference between image {i + 1} and image {j + 1}?"
    return Turn(question, f"Image {i + 1} shows {first}, image {j + 1} shows {second}.", "compare")


def ask_list(contents: Contents, rng: Rng, language: str) -> Turn | None:
    if not all(_ordered(picture) for picture in contents) or sum(map(len, contents)) > 8:
        return None
    if language == "zh":
        answer = "".join(f"图像{k + 1}:{describe(picture, language)}。" for k, picture in enumerate(contents))
        return Turn("每张图像里有什么?", answer, "list")
    answer = " ".join(f"Image {k + 1}: {describe(picture, language)}." for k, picture in enumerate(contents))
    return Turn("What is in each image?", answer, "list")


TASKS: dict[str, Callable[[Contents, Rng, str], Turn | None]] = {
    "name": ask_name,
    "which": ask_which,
    "yes_no": ask_yes_no,
    "same": ask_same,
    "count": ask_count,
    "odd": ask_odd,
    "position": ask_position,
    "complete": ask_complete,
    "company": ask_company,
    "compare": ask_compare,
    "list": ask_list,
}


def ask(task: str, contents: Contents, rng: Rng, language: str) -> Turn | None:
    """A question of that task about these pictures, or None if they do not allow one."""
    return TASKS[task](contents, rng, language)
