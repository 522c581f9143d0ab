"""Draws the README's pictures from the embedded model: ``python docs/draw.py``."""

from __future__ import annotations

from pathlib import Path

import vila_lab
from vila_lab.cli import DEMO_MEDIA, DEMO_TEXT
from vila_lab.view import png, view_of


def main() -> None:
    folder = vila_lab.demo_images()
    answer = vila_lab.load().ask(DEMO_TEXT, images=[folder / name for name in DEMO_MEDIA])
    (Path(__file__).parent / "first_look.png").write_bytes(png(view_of(answer)))


if __name__ == "__main__":
    main()
