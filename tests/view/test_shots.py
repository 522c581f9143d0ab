"""Pictures of the viewer for a person to look at, in tests/view/screenshots: three widths, light and dark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHOTS = Path(__file__).parent / "screenshots"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000, 1900])
def test_screenshots_fit_and_are_left_to_look_at(make_view, with_layers, open_page, width, scheme):
    SHOTS.mkdir(exist_ok=True)
    view = make_view(3, "words")
    words = tuple(word + " " for word in view.title.split())
    shares = np.random.default_rng(0).dirichlet(np.full(len(words), 0.5), size=len(view.tokens)) * view.ledger[:, 3:4]
    tiles = ((), ((0, 0, 160, 160), (160, 0, 320, 160), (320, 0, 480, 160)), ())
    full = replace(
        with_layers(view), words=(0, 1, 2, *words), word_shares=shares, tiles=tiles, boxes=(((40, 40, 160, 150),), (), ()),
        edits=("picture 2 → answer cut in layers 2 to 4",),
    )  # fmt: skip
    for name, shown, clicks in (
        ("one", full, (1,)), ("two", full, (1, 4)), ("many", with_layers(make_view(8, "many")), ()), ("arabic", make_view(2, "arabic"), (1,)),
    ):  # fmt: skip
        sheet = open_page(shown, width=width, scheme=scheme)
        for token in clicks:
            sheet.locator(".chip").nth(token).click()
        if name == "two":
            sheet.get_by_label("Two tokens").select_option("difference" if scheme == "dark" else "side")
        if name == "one":
            sheet.locator(".stack").first.focus()
            sheet.keyboard.press("Enter")
        sheet.mouse.move(2, 2)
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
        sheet.screenshot(path=SHOTS / f"{name}_{width}_{scheme}.png", full_page=True)
