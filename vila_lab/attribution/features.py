"""What can be left out of a prompt, read off its TokenMap, and what takes its place. Knows no scores.

Baselines: "remove" takes the visual tokens out of view (an attention mask; nobody's position moves); "mean" paints the
picture in its own mean colour, "grey" in mid-grey, "blur" blurs it beyond recognition; a picture replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..engine.replay import Replay
from ..errors import OptionError
from ..options import check_whole, nearest
from ..prompt import Picture
from ..tokenmap import Kind, TokenMap
from .choices import Baseline, Unit
from .coalitions import Choice, Feature

REMOVE = "remove"
BASELINES: tuple[str, ...] = get_args(Baseline)
UNITS: tuple[str, ...] = get_args(Unit)
GREY = (127, 127, 127)
BLUR_SHARE = 8  # the blur's radius is the longer side divided by this
CLAUSE = re.compile(r"[^,.;:!?，。；：！？、\n]+[,.;:!?，。；：！？、\n]*\s*")
WORD = re.compile(r"\S+\s*")

Box: TypeAlias = "tuple[float, float, float, float]"


def baseline_name(baseline: Any) -> str:
    """A baseline in words.

    Raises
    ------
    OptionError
        If it is neither a known name nor a picture.
    """
    if isinstance(baseline, str) and baseline in BASELINES:
        return baseline
    _given_picture(baseline)
    return "another picture"


def baseline_picture(image: Image.Image, baseline: Any) -> Image.Image:
    """What is shown in a picture's place; it has the picture's size, and so its tokens."""
    name = baseline if isinstance(baseline, str) else ""
    if name == "mean":
        pixels = np.asarray(image, np.float64).reshape(-1, 3)
        return Image.new("RGB", image.size, tuple(int(c) for c in pixels.mean(0).round()))
    if name == "grey":
        return Image.new("RGB", image.size, GREY)
    if name == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / BLUR_SHARE))
    return _given_picture(baseline).resize(image.size)


def _given_picture(baseline: Any) -> Image.Image:
    known = f"known: {', '.join(BASELINES)}, or a picture"
    if isinstance(baseline, str) and baseline.isidentifier():
        raise OptionError(f"unknown baseline {baseline!r}{nearest(baseline, BASELINES)}; {known}")
    try:
        return Picture.of(baseline).image
    except (ValueError, OSError, TypeError) as error:
        raise OptionError(f"the baseline {baseline!r} cannot be used ({error}); {known}") from error


def picture_features(replay: Replay, baseline: Any) -> list[Feature]:
    """The pictures of a prompt, each as asked or as its baseline.

    Raises
    ------
    OptionError
        If there is no picture, or the baseline is unknown.
    """
    count = check_pictures(replay)
    name = baseline_name(baseline)
    groups = [replay.token_map.rows_of(k) for k in range(count)]
    asked = replay.embedded.features
    if name == REMOVE:
        return [Feature(f"image_{k + 1}", mine, (asked[mine], None)) for k, mine in enumerate(groups)]
    pictures = {k: baseline_picture(image, baseline) for k, image in enumerate(replay.prompt.images)}
    other = replay.with_pictures(pictures).features
    return [Feature(f"image_{k + 1}", mine, (asked[mine], other[mine])) for k, mine in enumerate(groups)]


def check_pictures(replay: Replay) -> int:
    """The number of pictures; raises OptionError if there are none."""
    count = len(replay.prompt.pictures)
    if not count:
        raise OptionError("the prompt has no picture, so there is none to attribute to; 'phrases' scores its text")
    return count


def cell_boxes(size: tuple[int, int], cells: tuple[int, int]) -> list[Box]:
    """A picture's size cut into (rows, columns) boxes, row by row.

    >>> cell_boxes((20, 10), (1, 2))
    [(0.0, 0.0, 10.0, 10.0), (10.0, 0.0, 20.0, 10.0)]
    """
    width, height = size
    if not isinstance(cells, Sequence) or len(cells) != 2 or isinstance(cells, str):
        raise OptionError(f"cells={cells!r} must be (rows, columns)")
    rows, columns = cells
    for name, count in (("rows", rows), ("columns", columns)):
        check_whole(f"the number of {name} in cells", count)
    if rows < 1 or columns < 1:
        raise OptionError(f"cells={cells} must be (rows, columns) of at least 1 each")
    across, down = np.linspace(0, width, columns + 1).tolist(), np.linspace(0, height, rows + 1).tolist()
    return [(across[c], down[r], across[c + 1], down[r + 1]) for r in range(rows) for c in range(columns)]


def check_box(box: Sequence[float], picture: int, size: tuple[int, int]) -> Box:
    """A box of original pixels that lies in its picture.

    Raises
    ------
    OptionError
        If it does not.
    """
    width, height = size
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise OptionError(
            f"the box {tuple(box)} is not inside picture {picture + 1}, which is {width} x {height} pixels: give (x0, y0, x1, y1)"
        )
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def tokens_by_cell(token_map: TokenMap, picture: int, boxes: Sequence[Box]) -> list[NDArray[np.int64]]:
    """For each box the picture's visual tokens whose centre lies in it, so that the boxes of a grid share them out."""
    mine = token_map.positions(f"image_{picture + 1}")
    x = (token_map.box[mine, 0] + token_map.box[mine, 2]) / 2
    y = (token_map.box[mine, 1] + token_map.box[mine, 3]) / 2
    return [mine[(x >= b[0]) & (x < b[2]) & (y >= b[1]) & (y < b[3])] for b in boxes]


def phrase_groups(
    token_map: TokenMap, by: str = "clause", phrases: Sequence[str] | None = None
) -> dict[str, NDArray[np.int64]]:
    """The positions of each phrase of the user's text.

    Parameters
    ----------
    by
        "clause" (cut behind punctuation; a single clause is cut into words) or "word".
    phrases
        Phrases to take instead; each must stand in the text.
    """
    text_positions = token_map.positions("text")
    if not text_positions.size:
        raise OptionError("the prompt has no text of the user's, so it has no phrases")
    if by not in UNITS:
        raise OptionError(f"unknown by={by!r}{nearest(by, UNITS)}; known: {', '.join(UNITS)}")
    if phrases is not None:
        spans = [_span_of(phrase, token_map, text_positions) for phrase in phrases]
    else:
        stretches = _stretches(token_map, text_positions)
        spans = _cut(token_map.text, stretches, CLAUSE if by == "clause" else WORD)
        if by == "clause" and len(spans) == 1:
            spans = _cut(token_map.text, stretches, WORD)
    middles = token_map.span[text_positions].mean(1)
    groups: dict[str, NDArray[np.int64]] = {}
    for start, stop in spans:
        mine = text_positions[(middles >= start) & (middles < stop)]
        name = token_map.text[start:stop].strip()
        while name in groups:
            name += " "  # the same words again
        if mine.size:
            groups[name] = mine
    return groups


def _stretches(token_map: TokenMap, positions: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Characters of the user's text, cut where a picture stands between."""
    found: list[tuple[int, int]] = []
    for start, stop in token_map.span[positions].tolist():
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


def _cut(text: str, stretches: Sequence[tuple[int, int]], pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    return [
        (start + match.start(), start + match.end())
        for start, stop in stretches
        for match in pattern.finditer(text[start:stop])
    ]


def _span_of(phrase: str, token_map: TokenMap, positions: NDArray[np.int64]) -> tuple[int, int]:
    for start, stop in _stretches(token_map, positions):
        place = token_map.text.find(phrase, start, stop)
        if phrase.strip() and place >= 0:
            return place, place + len(phrase)
    said = "".join(token_map.text[a:b] for a, b in _stretches(token_map, positions))
    raise OptionError(f"the phrase {phrase!r} does not stand in the prompt's text {said!r}")


def removable(replay: Replay, groups: Sequence[NDArray[np.int64]]) -> tuple[list[Feature], list[Choice]]:
    """Features to take out of view, and for each group the choice that does so. Groups may overlap.

    Groups are cut into the parts that they share, since every position belongs to one feature.
    """
    member = np.zeros((replay.prompt_length, len(groups)), bool)
    for column, group in enumerate(groups):
        member[group, column] = True
    kinds, kind_of = np.unique(member, axis=0, return_inverse=True)  # a row per distinct membership
    used = [k for k in range(len(kinds)) if kinds[k].any()]
    parts = [np.flatnonzero(kind_of.ravel() == k) for k in used]
    asked = replay.embedded.features
    features = [Feature("", part, (asked[part], None)) for part in parts]
    return features, [tuple(int(kinds[k, column]) for k in used) for column in range(len(groups))]


def spread(values: NDArray[np.float64], groups: Sequence[NDArray[np.int64]], length: int) -> NDArray[np.float64]:
    """Scores of groups of positions, shared out evenly among each group's.  # (rows, groups) -> (rows, length)"""
    table = np.zeros((len(values), length))
    for column, group in enumerate(groups):
        table[:, group] += values[:, column : column + 1] / max(len(group), 1)
    return table


def is_visual(token_map: TokenMap) -> NDArray[np.int64]:
    """Positions of all pictures' visual tokens."""
    return np.flatnonzero(token_map.kind == Kind.IMAGE)
