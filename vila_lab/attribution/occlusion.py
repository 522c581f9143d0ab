"""Cover one place of a picture after the other and see how much less likely the answer becomes. Knows no attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import OptionError
from ..options import nearest
from ..pointing import WhichPicture, picture_index
from ..tokenmap import TokenMap
from .choices import Cover
from .coalitions import Feature, evaluate
from .features import (
    REMOVE,
    Box,
    baseline_name,
    baseline_picture,
    cell_boxes,
    check_box,
    check_pictures,
    removable,
    spread,
    tokens_by_cell,
)
from .method import Method, Outcome

NOTE = (
    "a cell's score is spread evenly over its tokens; cells interact, so they need not add up to their picture's score"
)
FINEST = 6  # cells along one side, unless asked for more

METHOD = Method(
    name="occlusion",
    sentence="How much less likely the words become when a cell or a tile of a picture is covered.",
    unit="log-probability",
    signed=True,
    cost="1 forward per cell (shared prefixes), and its picture embedded again unless removed",
    source="Zeiler & Fergus 2014, 'Visualizing and Understanding Convolutional Networks'",
    covers_prompt=False,
)

COVERS: tuple[str, ...] = get_args(Cover)


def attribute(
    replay: Replay,
    target: Target,
    *,
    image: WhichPicture | None = None,
    by: str = "cells",
    cells: tuple[int, int] | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    baseline: Any = "remove",
) -> Outcome:
    """Score of a cell: v(all) - v(cell covered), spread evenly over the cell's tokens.

    Parameters
    ----------
    image
        Which picture, counted from 0, or by name: "image_1"; None for each in turn.
    by
        "cells" (an even grid over the original picture) or "tiles" (what the model cuts it into).
    cells
        (rows, columns) of the grid; by default the picture's tokens, at most 6 x 6.
    boxes
        Boxes of original pixels to cover one by one instead, (x0, y0, x1, y1) each; they need `image`.
    baseline
        "remove" takes the tokens whose centre lies in the cell out of view; "mean", "grey", "blur" or a picture paint
        the cell and embed the picture again.

    Raises
    ------
    OptionError
        If a picture, a box or an option is unknown.
    """
    count = check_pictures(replay)
    if by not in COVERS:
        raise OptionError(f"unknown by={by!r}{nearest(by, COVERS)}; known: {', '.join(COVERS)}")
    pictures = range(count) if image is None else [picture_index(image, count)]
    if boxes is not None and len(pictures) != 1:
        raise OptionError("boxes= are places of one picture; say which with image=")
    name = baseline_name(baseline)
    groups: dict[str, NDArray[np.int64]] = {}
    painted: list[Feature] = []
    options: list[tuple[int, int]] = []  # for each group the painted feature and its option
    for picture in pictures:
        if by == "tiles":
            found = tile_groups(replay.token_map, picture)
        else:
            found = _cells(replay, picture, cells, boxes)
        if name != REMOVE:
            new = (
                _tiles(replay, picture, found, baseline)
                if by == "tiles"
                else _painted(replay, picture, found, baseline)
            )
            options += [(len(painted) + k, each) for k, f in enumerate(new) for each in range(1, len(f.options))]
            painted += new
        groups |= {place.name: place.tokens for place in found}
    if name == REMOVE:
        features, choices = removable(replay, list(groups.values()))
    else:
        features = painted
        choices = [tuple(option if k == place else 0 for k in range(len(painted))) for place, option in options]
    scores = evaluate(replay, features, [(0,) * len(features), *choices], target)
    values = (scores[0] - scores[1:]).T  # (rows, groups)
    return Outcome(
        values=spread(values, list(groups.values()), replay.prompt_length),
        baseline=name,
        note=NOTE,
        features=tuple(groups),
        feature_values=values,
        checks={"all": float(scores[0].sum())},
    )


@dataclass(frozen=True, eq=False)
class Place:
    """A part of a picture: what it is called, its box in original pixels, its visual tokens."""

    name: str
    box: Box
    tokens: NDArray[np.int64]


def tile_groups(token_map: TokenMap, picture: int) -> list[Place]:
    """What the model cut a picture into, each with the box of all its tokens."""
    mine = token_map.positions(f"image_{picture + 1}")
    tiles = token_map.tile[mine]
    found = []
    for tile in np.unique(tiles).tolist():
        tokens = mine[tiles == tile]
        boxes = token_map.box[tokens]
        box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
        found.append(Place(f"image_{picture + 1} tile {tile}", box, tokens))
    return found


def _cells(
    replay: Replay, picture: int, cells: tuple[int, int] | None, boxes: Sequence[Sequence[float]] | None
) -> list[Place]:
    """The cells that hold the centre of a token; a given box that holds none takes all tokens that it meets."""
    token_map = replay.token_map
    chosen = _boxes(replay, picture, cells, boxes)
    found = []
    for box, mine in zip(chosen, tokens_by_cell(token_map, picture, chosen), strict=True):
        tokens = token_map.tokens_in(picture, box) if boxes is not None and not mine.size else mine
        if tokens.size:
            found.append(Place(f"image_{picture + 1} ({', '.join(f'{edge:g}' for edge in box)})", box, tokens))
    return found


def _boxes(
    replay: Replay, picture: int, cells: tuple[int, int] | None, boxes: Sequence[Sequence[float]] | None
) -> list[Box]:
    size = replay.token_map.sizes[picture]
    if boxes is not None:
        return [check_box(box, picture, size) for box in boxes]
    corners = replay.token_map.box[replay.token_map.positions(f"image_{picture + 1}"), :2]
    columns, rows = (min(len(np.unique(edges.round(6))), FINEST) for edges in corners.T)
    return cell_boxes(size, cells or (rows, columns))


def _painted(replay: Replay, picture: int, places: Sequence[Place], baseline: Any) -> list[Feature]:
    """The picture as one feature with an option for every painted place."""
    asked = replay.prompt.images[picture]
    cover = baseline_picture(asked, baseline)
    variants = replay.variants(picture, [_paint(asked, cover, place.box) for place in places])
    mine = replay.token_map.rows_of(picture)
    return [Feature(f"image_{picture + 1}", mine, (replay.embedded.features[mine], *variants))]


def _paint(image: Image.Image, cover: Image.Image, box: Box) -> Image.Image:
    edges = round(box[0]), round(box[1]), max(round(box[2]), round(box[0]) + 1), max(round(box[3]), round(box[1]) + 1)
    painted = image.copy()
    painted.paste(cover.crop(edges), edges[:2])
    return painted


def _tiles(replay: Replay, picture: int, places: Sequence[Place], baseline: Any) -> list[Feature]:
    """Each tile as a feature; a tile is embedded by itself, so its baseline is the same tile of the covered picture."""
    whole = replay.variants(picture, [baseline_picture(replay.prompt.images[picture], baseline)])[0]
    mine = replay.token_map.rows_of(picture)
    asked = replay.embedded.features
    return [
        Feature(place.name, place.tokens, (asked[place.tokens], whole[np.searchsorted(mine, place.tokens)]))
        for place in places
    ]
