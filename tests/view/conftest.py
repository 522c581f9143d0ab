"""Made-up answers to show, of every shape: drawn pictures, peaky maps, ledgers that sum to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vila_lab.view import AnswerView, lettering, page
from vila_lab.view.reading import Reading

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
# Colours that CSS mixes come back as `color(srgb ...)`; a canvas turns any of them into bytes.
CONTRAST = """() => {
  const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const root = document.querySelector('.vila-view').shadowRoot;
  for (const node of root.querySelectorAll('h3, .prompt, .badge, bdi, sup, b, p, button, li, label, .scale div, footer p')) {
    if (!node.textContent.trim() || getComputedStyle(node).visibility === 'hidden') continue;
    const grounds = [];
    for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const ground = over(['white', ...grounds]);
    const ink = over([`rgb(${ground})`, getComputedStyle(node).color]);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), node.className || node.tagName, node.textContent.slice(0, 30)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.fixture
def contrast_in() -> str:
    """A script that finds the contrast of every text in a viewer, lowest first."""
    return CONTRAST


@pytest.fixture
def open_page(browser, tmp_path):
    """Opener of a view or a text as a page from a file; fails the test on any request, console message or error."""
    heard, contexts = [], []

    def opener(content, *, width=1000, scheme="light", wait=".view", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, **options
        )
        contexts.append(context)
        sheet = context.new_page()
        sheet.on(
            "request",
            lambda request: (
                heard.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
            ),
        )
        sheet.on(
            "console", lambda message: heard.append(message.text) if "willReadFrequently" not in message.text else None
        )  # our own reading
        sheet.on("pageerror", lambda error: heard.append(str(error)))
        path = tmp_path / f"page{len(contexts)}.html"
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            page(content, path)
        sheet.goto(path.as_uri())
        sheet.wait_for_selector(wait)
        return sheet

    yield opener
    for context in contexts:
        context.close()
    assert heard == []


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


@pytest.fixture
def with_layers() -> Callable[..., AnswerView]:
    """Adder of a reading per layer, one of a head set, one with sinks and a signed one to a view."""
    return layered


def layered(view: AnswerView, layers: int = 4, *, seed: int = 0) -> AnswerView:
    """The view with readings whose numbers differ; the signed method scored all tokens but the last."""
    rng = np.random.default_rng(seed)

    def reading(**kind) -> Reading:
        ledger = rng.dirichlet(np.full(len(view.columns), 0.6), size=len(view.tokens))
        heats = tuple(heat * rng.lognormal(0, 0.5, heat.shape) for heat in view.heatmaps)
        method = "attention, " + ", ".join(f"{name} {value}" for name, value in kind.items())
        made = {"name": "attention", "method": method, "honesty": HONESTY, "numbers": ledger, "heatmaps": heats}
        made["total"] = tuple(heat.mean(axis=0) for heat in heats)
        made["total_numbers"] = ledger.mean(axis=0)
        return Reading(**(made | kind))

    scores = rng.normal(0, 1, view.ledger.shape)
    scores[:, len(view.images) + 1 :] = np.nan
    scores[-1:] = np.nan
    maps = tuple(heat - heat.mean() for heat in view.heatmaps)
    for heat in maps:
        heat[-1:] = np.nan
    signed = {
        "name": "leave_one_out",
        "method": "leave_one_out, log-probability, signed, baseline remove, 3 forwards, 0 backwards",
        "honesty": "A picture's score is spread evenly over its tokens.",
        "card": "'red': deletion AUC 0.20 (flat map 0.50)",
        "numbers": scores,
        "total_numbers": np.nansum(scores, 0) if len(scores) else np.full(len(view.columns), np.nan),
        "heatmaps": maps,
        "total": tuple(np.nansum(heat, 0) for heat in maps),
        "shares": False,
        "unit": "log-probability",
    }
    others = [reading(layer=k) for k in range(layers)]
    return replace(
        view, readings=(*others, reading(heads="routing heads (1.0)"), reading(sinks=True), reading(**signed))
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


@pytest.fixture
def fonts():
    """The fonts are looked for anew, and afterwards again."""
    found = (
        lettering.font_family,
        lettering.font_files,
        lettering.known_characters,
        lettering.typeface,
        lettering.warn_of_missing_font,
    )
    for one in found:
        one.cache_clear()
    yield
    for one in found:
        one.cache_clear()
