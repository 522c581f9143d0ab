"""Where a prompt is cut while it is read, so that what was read before can stand for it. Knows token maps, no model.

The rows of a matrix product depend on how many rows it has, by some 5e-6 of a logit. A run that goes on behind stored keys is
therefore the same to the bit as one from nothing only if both read the prompt in the same stretches. So every run is cut
where a later one may go on, and where that is depends on the prompt alone.
"""

from __future__ import annotations

import numpy as np

from ..tokenmap import TokenMap

WORTH_A_CUT = 128
"""Rows that gather before the end of a picture is a cut, the last picture's excepted: each cut is one more pass."""

WORTH_A_CUT_ON_A_DEVICE = 1024
"""The same where a pass costs the time of a thousand rows: on an H200 each took 30 ms more, whatever it had to read."""


def cuts(token_map: TokenMap, worth: int = WORTH_A_CUT) -> tuple[int, ...]:
    """Positions before which a prompt is cut.

    These are the end of its last picture, and of others once enough rows have gathered; in a conversation those of every
    turn's prompt, and its end.

    Examples
    --------
    >>> import vila_lab
    >>> token_map = vila_lab.load().ask([vila_lab.demo_images() / name for name in ("g.png", "m.png")] + ["Same?"]).token_map
    >>> ends = [int(token_map.positions(f"image_{k}")[-1]) for k in (1, 2)]
    >>> [end - cut for cut in cuts(token_map) for end in ends[-1:]]
    [-2]
    """
    length = token_map.prompt_length
    ends = [_end_of_picture(token_map, k) for k in range(token_map.n_pictures)]
    found = [0]
    for stop in (*token_map.replies[:, 0].tolist(), length):
        mine = [end for end in ends if found[-1] < end < stop]  # a row is left to choose the first token
        for end in mine:
            if end - found[-1] >= worth or end == mine[-1]:
                found.append(end)
        found.append(stop)
    return tuple(found[1:-1])


def _end_of_picture(token_map: TokenMap, picture: int) -> int:
    """The position behind a picture's last row, its separators included."""
    mine = np.flatnonzero(token_map.picture[: token_map.prompt_length] == picture)
    return int(mine[-1]) + 1 if mine.size else 0
