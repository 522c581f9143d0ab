"""Does the answer depend on the order of the pictures? Permute, duplicate, blank, twin. Knows prompts and answers' texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..engine.lab import Lab
from ..engine.request import Request
from ..errors import OptionError
from ..pointing import WhichPicture, picture_index
from ..progress import progress
from ..prompt import Picture, Prompt

if TYPE_CHECKING:
    import pandas as pd

NAMED = re.compile(
    r"\b(?:image|picture|photo)s\s+\d+(?:\s*(?:,|and|or|to|&|-)\s*\d+)*"
    r"|\b(?:image|picture|photo)\s*#?\d+"
    r"|(?:图像|图片|图)\s*\d+(?:\s*[、和与或到]\s*\d+)*",
    re.IGNORECASE,
)
TWIN_BORDER = 0.04  # of each side is cut off to make a picture's twin
ORDERS = 24  # all orders of four pictures
NOTE = (
    "position_bias is the share of other orders in which the answer, renumbered, is another one; ordinal words such as "
    "'the second picture' are not renumbered"
)


@dataclass(frozen=True, eq=False)
class OrderTest:
    """What became of an answer.

    Attributes
    ----------
    answer : str
        To the prompt as given.
    table : DataFrame
        A row per variant: ``kind`` (order, duplicate, blank, twin), ``pictures`` (which stood at each place, counted
        from 1; 0 for a blank), ``question``, ``expected`` (the first answer, renumbered), ``answer``, ``changed``.
    position_bias : float
        Share of the other orders in which the answer changed: 0 for a model that does not mind the order. NaN for
        one picture.
    note : str
        What a reader must know.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> found = lab.order_test([folder / "g.png", folder / "m.png", "What is in image 2?"], max_new_tokens=3)
    >>> found.answer, found.position_bias, found.table.kind.unique().tolist()
    ('Microsoft.', 0.0, ['order', 'duplicate', 'blank', 'twin'])
    """

    answer: str
    table: pd.DataFrame
    position_bias: float
    note: str = NOTE

    def changed(self, kind: str) -> float:
        """Share of the variants of a kind in which the answer changed.

        Raises
        ------
        OptionError
            If there is no variant of that kind.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> found = lab.order_test([folder / "g.png", folder / "m.png", "What is in image 2?"], max_new_tokens=3)
        >>> found.changed("blank")
        0.5
        """
        mine = self.table[self.table.kind == kind]
        if mine.empty:
            raise OptionError(f"there is no variant of kind {kind!r}; there are: {', '.join(self.table.kind.unique())}")
        return float(mine.changed.mean())

    def __repr__(self) -> str:
        shares = ", ".join(f"{kind} {self.changed(kind):.2f}" for kind in self.table.kind.unique())
        return f"OrderTest({self.answer!r}, position_bias={self.position_bias:.2f}, changed: {shares})"

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}{self.table.to_html()}<small>{escape(self.note)}</small></div>"


@dataclass(frozen=True)
class Variant:
    """A prompt to try: what kind of change, which pictures stand at each place, and how numbers in texts change."""

    kind: str
    pictures: tuple[int, ...]
    prompt: Prompt
    numbers: Mapping[int, int]


def order_test(
    lab: Lab,
    asked: Prompt,
    *,
    orders: int = ORDERS,
    twins: Mapping[WhichPicture, Any] | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> OrderTest:
    """Ask the same with the pictures in other orders, one of them twice, blank, or replaced by its twin.

    Parameters
    ----------
    lab
        Who answers.
    asked
        The prompt as given. "image 2", "images 1 and 2", "图像2" in the text follow their picture.
    orders
        Most orders to try beside the given one; all of up to four pictures by default, else drawn.
    twins
        For some pictures (counted from 0, or by name) another that shows the same; by default the picture cut by 4 % on each side.
    max_new_tokens
        Longest answer.
    seed
        Of the drawing of orders.

    Raises
    ------
    OptionError
        If the prompt has no picture, or a twin is given for one that is not there.
    """
    import pandas as pd

    count = len(asked.pictures)
    if not count:
        raise OptionError("the prompt has no picture, so there is no order to test")
    others = {picture_index(picture, count): other for picture, other in (twins or {}).items()}
    first = lab.run(Request(asked, max_new_tokens=max_new_tokens)).text
    if asked.history:
        raise OptionError("an order test asks one question; give its parts alone, not a conversation")
    variants = list(_variants(asked, orders, others, seed))
    rows = []
    with progress(len(variants), "variants") as bar:
        for variant in variants:
            text = lab.run(Request(variant.prompt, max_new_tokens=max_new_tokens)).text
            expected = renumber(first, variant.numbers)
            shown = tuple(picture + 1 for picture in variant.pictures)
            rows.append((variant.kind, shown, variant.prompt.text, expected, text, text != expected))
            bar.update()
    table = pd.DataFrame(rows, columns=["kind", "pictures", "question", "expected", "answer", "changed"])
    others = table[table.kind == "order"]
    return OrderTest(first, table, float(others.changed.mean()) if len(others) else float("nan"))


def renumber(text: str, numbers: Mapping[int, int]) -> str:
    """The text with the numbers of its pictures changed.

    >>> renumber("Is image 1 like image 2? 图像1和2", {1: 2, 2: 1})
    'Is image 2 like image 1? 图像2和1'
    """

    def change(found: re.Match[str]) -> str:
        return re.sub(r"\d+", lambda digits: str(numbers.get(int(digits[0]), digits[0])), found[0])

    return NAMED.sub(change, text)


def rearranged(prompt: Prompt, pictures: Sequence[Picture], numbers: Mapping[int, int]) -> Prompt:
    """The prompt with other pictures at its places, and its texts renumbered; pictures too many follow the last place."""
    left = list(pictures)
    parts: list[str | Picture] = []
    for part in prompt.parts:
        parts.append(renumber(part, numbers) if isinstance(part, str) else left.pop(0))
    last = max(k for k, part in enumerate(parts) if isinstance(part, Picture))
    parts[last + 1 : last + 1] = left
    return Prompt(tuple(parts))


def _variants(prompt: Prompt, orders: int, twins: dict[int, Any], seed: int) -> Iterator[Variant]:
    pictures = prompt.pictures
    count = len(pictures)
    same: dict[int, int] = {}
    for order in _orders(count, orders, seed):
        numbers = {picture + 1: place + 1 for place, picture in enumerate(order)}
        yield Variant("order", order, rearranged(prompt, [pictures[k] for k in order], numbers), numbers)
    usual = tuple(range(count))
    for k, picture in enumerate(pictures):
        yield Variant("duplicate", (*usual, k), rearranged(prompt, [*pictures, picture], same), same)
    for k, picture in enumerate(pictures):
        blank = [*pictures[:k], Picture.of(Image.new("RGB", picture.image.size, "white")), *pictures[k + 1 :]]
        yield Variant("blank", (*usual[:k], -1, *usual[k + 1 :]), rearranged(prompt, blank, same), same)
    for k, picture in enumerate(pictures):
        other = Picture.of(twins[k]) if k in twins else Picture.of(twin(picture.image))
        yield Variant("twin", usual, rearranged(prompt, [*pictures[:k], other, *pictures[k + 1 :]], same), same)


def twin(image: Image.Image) -> Image.Image:
    """The picture cut by 4 % on each side and brought back to its size: other pixels, the same to see."""
    width, height = image.size
    dx, dy = int(width * TWIN_BORDER), int(height * TWIN_BORDER)
    return image.crop((dx, dy, width - dx, height - dy)).resize(image.size, Image.Resampling.BICUBIC)


def _orders(count: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """Orders other than the given one: all if they are few enough, else drawn without repetition."""
    every = islice(permutations(range(count)), 1, most + 2)
    found = list(every)
    if len(found) <= most:
        return found
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < most:
        order = tuple(rng.permutation(count).tolist())
        if order != tuple(range(count)):
            drawn[order] = None
    return list(drawn)
