"""Made-up answers to show, of every shape: drawn pictures, peaky maps, ledgers that sum to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vila_lab.view import AnswerView

SHAPES = {"square": (240, 240), "wide": (480, 160), "tall": (130, 390)}
WORDS = (
    "The",
    " red",
    " circle",
    " is",
    " in",
    " picture",
    " two",
    ",",
    " the",
    " square",
    " in",
    " picture",
    " one",
    ".",
)
TOKENS = {
    "none": (),
    "one": ("Yes",),
    "words": WORDS,
    "many": tuple(WORDS[k % len(WORDS)] for k in range(64)),
    "chinese": ("图", "片", "一", "中", "有", "一只", "猫", "。"),
    "arabic": ("في", " الصورة", " الأولى", " قطة", "."),
    "hostile": (
        "</script>",
        "<img src=x onerror=alert(1)>",
        " $x^2$",
        "\n",
        "",
        "&amp;\u2028",
        "\"'",
        "\ufffd",
        "\udc80",
        "🦖",
        "-->",
    ),
}
HONESTY = (
    "Attention shows where the model read, not why it answered; the causal check is answer.attribute('leave_one_out')."
)


@pytest.fixture
def make_view() -> Callable[..., AnswerView]:
    """Maker of views."""
    return make


def make(
    pictures: int = 2,
    tokens: str | tuple[str, ...] = "words",
    *,
    shape: str | None = None,
    cells: tuple[int, int] = (6, 6),
    title: str = "Which picture shows the red circle, and what is in the other one?",
    seed: int = 0,
) -> AnswerView:
    """A view whose maps have one clear peak each, as attention has, and whose cells sum to the picture's share."""
    rng = np.random.default_rng(seed)
    pieces = TOKENS[tokens] if isinstance(tokens, str) else tokens
    names = list(SHAPES)
    columns = (*(f"image_{k + 1}" for k in range(pictures)), "prompt", "answer", "sink")
    ledger = rng.dirichlet(np.full(len(columns), 0.6), size=len(pieces))
    rows, cols = np.indices(cells)
    heatmaps = []
    for k in range(pictures):
        maps = rng.lognormal(0, 1.0, (len(pieces), *cells))
        for one, (row, col) in zip(maps, rng.uniform(0, 1, (len(pieces), 2)) * cells, strict=True):
            one *= np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (0.12 * cells[0] * cells[1])) + 0.02
        heatmaps.append(ledger[:, k, None, None] * maps / maps.sum(axis=(1, 2), keepdims=True))
    return AnswerView(
        title=title,
        prompt_parts=(*range(pictures), title),
        tokens=pieces,
        images=tuple(drawn(k, SHAPES[shape or names[k % 3]]) for k in range(pictures)),
        heatmaps=tuple(heatmaps),
        total=tuple(heat.mean(axis=0) if pieces else np.zeros(cells) for heat in heatmaps),
        columns=columns,
        ledger=ledger,
        method="attention, mean over 6 layers × 4 heads",
        honesty=HONESTY,
        notes=("picture 2: first frame of 12",) if pictures > 1 else (),
    )


def drawn(number: int, size: tuple[int, int]) -> Image.Image:
    """A picture of two shapes on a soft gradient."""
    rng = np.random.default_rng(number)
    width, height = size
    low, high = rng.integers(90, 250, (2, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    image = Image.fromarray(np.broadcast_to(low + (high - low) * ramp, (height, width, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    side = min(size) // 2
    for shape in (pen.ellipse, pen.rectangle):
        x, y = (int(rng.integers(0, length - side + 1)) for length in size)
        shape((x, y, x + side, y + side), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image
