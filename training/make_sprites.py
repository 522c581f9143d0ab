"""Draws the sprite sheet once, from the emoji font and the company marks. Only this script needs a font; nothing imports it.

Needs Debian's ``fonts-noto-color-emoji``, the npm package ``simple-icons@12.4.0`` unpacked, and ``cairosvg``::

    python -m training.make_sprites --font NotoColorEmoji.ttf --icons simple-icons/icons
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vila_lab.tiny.names import THINGS, Thing
from vila_lab.tiny.world import SPRITES

CELL = 96
COLUMNS = 11
NOTO_SIZE = 109  # the only size that the bitmap font holds

# Brand colours as simple-icons lists them.
MARK_COLOURS = {
    "google": "#4285F4",
    "microsoft": "#5E5E5E",
    "apple": "#000000",
    "nvidia": "#76B900",
    "amazon": "#FF9900",
    "tesla": "#CC0000",
    "netflix": "#E50914",
    "spotify": "#1DB954",
    "meta": "#0467DF",
    "mcdonalds": "#FBC817",
    "nike": "#111111",
    "adobe": "#FF0000",
    "starbucks": "#006241",
    "playstation": "#003791",
}


def draw_emoji(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (2 * NOTO_SIZE, 2 * NOTO_SIZE))
    ImageDraw.Draw(canvas).text((20, 20), glyph, font=font, embedded_color=True)
    return canvas


def draw_mark(slug: str, icons: Path) -> Image.Image:
    import cairosvg

    svg = (icons / f"{slug}.svg").read_text(encoding="utf-8").replace("<path ", f'<path fill="{MARK_COLOURS[slug]}" ')
    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=384, output_height=384)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def fit(sprite: Image.Image) -> Image.Image:
    """Crop to what is drawn and scale the longer side to the cell."""
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    scale = CELL / max(sprite.size)
    width, height = (max(1, round(side * scale)) for side in sprite.size)
    return sprite.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, required=True)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SPRITES)
    options = parser.parse_args()
    font = ImageFont.truetype(str(options.font), NOTO_SIZE)

    def draw(thing: Thing) -> Image.Image:
        return fit(draw_mark(thing.glyph, options.icons) if thing.is_company else draw_emoji(thing.glyph, font))

    rows = -(-len(THINGS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    boxes = {}
    for index, thing in enumerate(THINGS):
        sprite = draw(thing)
        left, top = (index % COLUMNS) * CELL, (index // COLUMNS) * CELL
        sheet.paste(sprite, (left, top))
        boxes[thing.name] = (left, top, left + sprite.width, top + sprite.height)
    options.out.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out / "sheet.png", optimize=True)
    (options.out / "boxes.json").write_text(json.dumps(boxes, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
