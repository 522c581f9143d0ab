"""The ``<image>`` markers of a rendered text, one for each block of its pictures. Knows text and spans, no tokens and no pixels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from vila_lab.nvila.prompting import IMAGE_TOKEN

__all__ = ["marker", "moved", "with_markers"]


def marker(blocks: int, *, tiled: bool, mode: str | None) -> str:
    r"""What stands in the text for a picture of so many blocks.

    A cut picture of ``dynamic`` has a newline in the text after each of its tiles; all others have one bare marker a block.

    >>> marker(2, tiled=True, mode="dynamic"), marker(1, tiled=True, mode="dynamic_s2")
    ('<image>\n<image>\n', '<image>')
    """
    return (f"{IMAGE_TOKEN}\n" if tiled and mode == "dynamic" else IMAGE_TOKEN) * blocks


def with_markers(text: str, markers: Sequence[str]) -> str:
    """A text with one ``<image>`` per picture, after each became that picture's marker.

    >>> with_markers("<image>a<image>", [marker(2, tiled=False, mode="resize"), marker(1, tiled=False, mode="resize")])
    '<image><image>a<image>'
    """
    pieces = text.split(IMAGE_TOKEN)
    return "".join(piece + each for piece, each in zip(pieces, [*markers, ""], strict=True))


def moved(spans: Sequence[tuple[int, int]], text: str, markers: Sequence[str]) -> list[tuple[int, int]]:
    """Where spans of the text's characters are in `with_markers`.

    >>> moved([(0, 1), (8, 9)], "a<image>b", ["<image><image>"])
    [(0, 1), (15, 16)]
    """
    ends = list(accumulate(len(piece) + len(IMAGE_TOKEN) for piece in text.split(IMAGE_TOKEN)[:-1]))
    growth = [0, *accumulate(len(each) - len(IMAGE_TOKEN) for each in markers)]

    def there(place: int) -> int:
        return place + growth[bisect_right(ends, place)]

    return [(there(start), there(stop)) for start, stop in spans]
