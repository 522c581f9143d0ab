"""The viewer: bytes of its pages, and milliseconds from a hover to the painted heatmap in chromium.

    python benchmarks/viewer.py [--pictures 8] [--tokens 64] [--layers 28]

Prints a table and writes results/viewer.json beside this file. The maps are made up: peaks over noise, as attention has.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from vila_lab.view import AnswerView, page, page_text
from vila_lab.view.html import viewer_source, viewer_style
from vila_lab.view.reading import Reading

RESULTS = Path(__file__).parent / "results" / "viewer.json"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
HOVERS = 200
# From the pointer's event to the first task behind the next animation frame: by then the frame is drawn.
MEASURE = """async (count) => {
  const root = document.querySelector('.vila-view').shadowRoot;
  const chips = [...root.querySelectorAll('.chip')];
  const frame = () => new Promise(requestAnimationFrame);
  const script = [], paint = [];
  for (let k = 0; k < count; k++) {
    await frame();
    await new Promise((resolve) => setTimeout(resolve, (k * 5) % 16)); // a pointer moves at any time within a frame
    const start = performance.now();
    chips[(k * 7) % chips.length].dispatchEvent(new PointerEvent('pointerover', { bubbles: true, pointerType: 'mouse' }));
    script.push(performance.now() - start);
    await new Promise((resolve) => requestAnimationFrame(() => { const channel = new MessageChannel(); channel.port1.onmessage = resolve; channel.port2.postMessage(0); }));
    paint.push(performance.now() - start);
  }
  return [script, paint];
}"""  # noqa: E501


def made_up(pictures: int, tokens: int, layers: int, cells: int = 24) -> AnswerView:
    rng = np.random.default_rng(0)
    columns = (*(f"image_{k + 1}" for k in range(pictures)), "prompt", "answer", "sink")
    rows, cols = np.indices((cells, cells))

    def reading(**kind: int) -> Reading:
        ledger = rng.dirichlet(np.full(len(columns), 0.6), size=tokens)
        heats = []
        for k in range(pictures):
            maps = rng.lognormal(0, 1.0, (tokens, cells, cells))
            for one, (row, col) in zip(maps, rng.uniform(0, cells, (tokens, 2)), strict=True):
                one *= np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (0.12 * cells**2)) + 0.02
            heats.append(ledger[:, k, None, None] * maps / maps.sum((1, 2), keepdims=True))
        totals = tuple(heat.mean(0) for heat in heats)
        return Reading("attention", "attention", tuple(heats), totals, ledger, ledger.mean(0), layer=kind.get("layer"))

    first = reading()
    view = AnswerView(
        title="Which picture shows it?",
        prompt_parts=(*range(pictures), "Which picture shows it?"),
        tokens=tuple(f" word{k}" for k in range(tokens)),
        images=tuple(Image.fromarray(rng.integers(60, 200, (300, 400, 3), dtype=np.uint8)) for _ in range(pictures)),
        heatmaps=first.heatmaps,
        total=first.total,
        columns=columns,
        ledger=first.numbers,
        method="attention",
        honesty="made up",
    )
    return replace(view, readings=tuple(reading(layer=k) for k in range(layers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=28)
    options = parser.parse_args()
    view = made_up(options.pictures, options.tokens, options.layers)
    start = time.perf_counter()
    text = page_text(view)
    result = vars(options) | {
        "viewer_bytes": len(viewer_source().encode()) + len(viewer_style().encode()),
        "page_bytes": len(text.encode()),
        "page_seconds": round(time.perf_counter() - start, 2),
        "page_bytes_without_layers": len(page_text(replace(view, readings=())).encode()),
    }
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = page(view, Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        sheet = browser.new_page(viewport={"width": 1400, "height": 900})
        sheet.goto(path.as_uri())
        sheet.wait_for_selector(".chip")
        script, paint = sheet.evaluate(MEASURE, HOVERS)
        browser.close()
    for name, times in (("hover_script_ms", script), ("hover_to_paint_ms", paint)):
        result[name] = {"median": round(float(np.median(times)), 1), "p95": round(float(np.quantile(times, 0.95)), 1)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
