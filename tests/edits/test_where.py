"""Layers and heads as a user writes them."""

from __future__ import annotations

import numpy as np
import pytest

from vila_lab.edits.where import Shape, in_words, resolve
from vila_lab.errors import NoEffect, OptionError

SHAPE = Shape(3, 4, {"routing": [(1, 3), (1, 0), (2, 1)]})


@pytest.mark.parametrize(
    ("layers", "heads", "expected"),
    [
        (None, None, {0: None, 1: None, 2: None}),
        (1, None, {1: None}),
        (-1, 2, {2: (2,)}),
        ([2, 0, 2], [3, -4, 3], {0: (0, 3), 2: (0, 3)}),
        (None, [(2, -1), (0, 1), (2, 0)], {0: (1,), 2: (0, 3)}),
        (None, "routing", {1: (0, 3), 2: (1,)}),
        (np.int64(1), np.int64(2), {1: (2,)}),
        (np.arange(2), np.array([1, 2]), {0: (1, 2), 1: (1, 2)}),
        (None, np.array([[2, 1], [0, 1]]), {0: (1,), 2: (1,)}),
    ],
)
def test_heads_by_layer(layers, heads, expected):
    assert resolve(SHAPE, layers, heads) == expected


@pytest.mark.parametrize(
    ("layers", "heads", "error", "why"),
    [
        (3, None, NoEffect, "no layer 3: the decoder has 3 layers"),
        (-4, None, NoEffect, "no layer -4"),
        (None, 4, NoEffect, "no head 4: the decoder has 4 heads a layer"),
        (None, [(0, -5)], NoEffect, "no head -5"),
        (None, [(3, 0)], NoEffect, "no layer 3"),
        ([], None, NoEffect, "names no layer"),
        (None, [], NoEffect, "names no head"),
        (0, "routing", OptionError, "not both"),
        (None, "localization", OptionError, "routing"),
        (None, [(0, 1), 2], OptionError, "pairs"),
        (None, 0.5, OptionError, "0.5"),
        (0.5, None, OptionError, "0.5"),
    ],
)
def test_what_is_not_there_is_named(layers, heads, error, why):
    with pytest.raises(error, match=why):
        resolve(SHAPE, layers, heads)


@pytest.mark.parametrize(
    ("layers", "heads", "words"),
    [
        (None, None, "all layers and heads"),
        ([0, 2], None, "all heads of layers 0, 2"),
        (1, [2, 0], "heads 0, 2 of layer 1"),
        (None, "routing", "the routing heads"),
        (None, [(0, 1), (2, 0)], "heads 0.1, 2.0"),
    ],
)
def test_the_heads_in_words(layers, heads, words):
    assert in_words(resolve(SHAPE, layers, heads), SHAPE, heads) == words
