"""An attribution as a cell shows it: pictures under their maps, a bar for each, what the scores are. Knows arrays and labels, no model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .lettering import drawable, lettering, wrapped, write_head
from .levels import peak
from .overlay import cell_colours, dimmed, heatmap_overlay
from .payload import clean, label
from .pictures import encode, shrink
from .style import INK, SOFT_INK, column_look, new_figure
from .style import plain as without_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..attribution import Attribution
    from ..pointing import WhichTokens

SIDE = 160  # pixels of a picture in a cell
BAR = 24  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
AGAINST = "░"  # told from what speaks for the target by more than colour
QUALITY = 80  # of WebP


def mimebundle(found: Attribution) -> dict[str, str]:
    """The cell's display: html without any script or style sheet, which takes on the colours around it, a picture, and the repr."""
    bundle = {"text/html": html(found), "text/plain": repr(found)}
    try:
        from .sheet import compact

        bundle["image/png"] = base64.b64encode(compact(_pixels(figure(found)))).decode("ascii")
    except ImportError:  # the html has numbers and bars without matplotlib too
        pass
    return bundle


def heading(found: Attribution) -> str:
    """What was asked: the method, and of which words."""
    rather = f" rather than {found.contrast!r}" if found.contrast else ""
    return f"{', '.join([found.method, *found.options])} of {found.target!r}{rather}"


def measured(found: Attribution) -> str:
    """What the scores are."""
    return f"{found.unit}, {found.sign}{f', baseline {found.baseline}' if found.baseline else ''}"


def honesty(found: Attribution) -> str:
    """What the scores are, and what they cost."""
    cost = f"{found.cost.forwards} forwards, {found.cost.backwards} backwards"
    return f"{found.method}: {measured(found)}; {cost}."


def words_below(found: Attribution, top: float) -> list[str]:
    """The lines below a figure."""
    note = wrapped(drawable(_sentence(found.note)), 120, most=3) if found.note else []
    return [drawable(f"{honesty(found)} One colour scale, to {top:.3g} per cell."), *note]


def html(found: Attribution) -> str:
    """A table with a row for each picture, and for the prompt where that is scored."""
    scores = found.total()
    barred = _barred(found)
    most = float(np.nanmax(np.abs(scores[barred].to_numpy()), initial=0.0))
    rows = []
    for picture, (name, score) in zip([*_maps(found), ""], scores.items(), strict=False):
        drawn = bar(float(score), most) if name in barred else ""
        cells = [picture, label(str(name)), f"<code>{drawn}</code>", _number(found, score)]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    note = f"<br>{escape(_sentence(found.note))}" if found.note else ""
    return clean(
        f"<div><b>{escape(heading(found))}</b><table><tbody>{''.join(rows)}</tbody></table>"
        f"<small>{escape(honesty(found))}{note}</small></div>"
    )


def bar(score: float, most: float) -> str:
    """A score as a bar of characters, which stays where styles are stripped.

    >>> bar(1.0, 2.0), bar(-0.5, 2.0), bar(0.0, 2.0)
    ('████████████', '░░░░░░', '')
    """
    length = BAR * abs(score) / most if most > 0 and np.isfinite(score) else 0.0
    if score < 0:
        return AGAINST * max(1, round(length))
    whole = int(length)
    return "█" * whole + EIGHTHS[int(8 * (length - whole))].strip()


def figure(found: Attribution) -> Figure:
    """The same as a figure."""
    scores, heats = found.total(), _heats(found)
    top = peak(heats) or 1.0
    count = len(heats)
    across = min(max(count, 1), 4)
    lines = -(-count // 4)
    below = words_below(found, top)
    foot = 0.25 + 0.16 * len(below)
    wide, high = max(2.2 * across, 6.8), 2.3 * lines + 0.26 * len(scores) + 0.6 + foot
    drawn = new_figure(wide, high)
    for k, heat in enumerate(heats):
        box = ((k % 4) * 2.2 / wide + 0.02, 1 - (2.3 * (k // 4) + 2.4) / high, 2.0 / wide, 1.9 / high)
        ax = heatmap_overlay(found.images[k], heat, drawn.add_axes(box), vmax=top, signed=found.signed)
        ax.set_title(f"{k + 1}", fontsize=9, color=INK, loc="left")
    bars = without_frame(drawn.add_axes((1.0 / wide, foot / high, 1 - 2.0 / wide, 0.26 * len(scores) / high)))
    columns = [str(name) for name in scores.index]
    for k, score in enumerate(scores):
        bars.barh(-k, score if columns[k] in _barred(found) else 0.0, **column_look(columns, k))
        bars.annotate(
            _number(found, score), (1.01, -k), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK
        )
    bars.set_yticks([-k for k in range(len(scores))], [label(name) for name in columns])
    bars.set_xticks([])
    bars.axvline(0, color=SOFT_INK, linewidth=0.6)
    drawn.text(0.02, 1 - 0.12 / high, drawable(heading(found)), va="top", fontsize=10, color=INK, **lettering())
    for k, line in enumerate(below):
        drawn.text(0.02, (foot - 0.2 - 0.16 * k) / high, line, fontsize=7.5, color=SOFT_INK, **lettering())
    return drawn


def overlays(found: Attribution, pictures: Sequence[int], token: WhichTokens) -> Figure:
    """Some pictures under their maps, all on one scale, four beside each other."""
    heats = [found.heatmap(k, token) for k in pictures]
    top, across, lines = peak(heats), min(len(heats), 4), -(-len(heats) // 4)
    drawn = new_figure(max(2.6 * across, 4.0), 2.8 * lines + 0.5, constrained=True)
    for place, (k, heat) in enumerate(zip(pictures, heats, strict=True), 1):
        ax = drawn.add_subplot(lines, across, place)
        heatmap_overlay(found.images[k], heat, ax, vmax=top, signed=found.signed)
        ax.set_axis_off()
        ax.set_title(f"picture {k + 1}: {_number(found, float(heat.sum()))}", fontsize=9, color=INK)
    write_head(drawn, f"{heading(found)}: {measured(found)}")
    return drawn


def _pixels(drawn: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib annotates it not
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]


def _barred(found: Attribution) -> list[str]:
    """What has a bar: the pictures, beside which the prompt would leave none of them to be seen; without any, the prompt."""
    return [f"image_{k + 1}" for k in range(len(found.images))] or ["prompt"]


def _heats(found: Attribution) -> list[np.ndarray]:
    return [found.heatmap(k) for k in range(len(found.images))]


def _maps(found: Attribution) -> list[str]:
    """The pictures under their maps, on one scale."""
    heats = _heats(found)
    top = peak(heats) or 1.0
    try:
        return [_map(found, k, heat, top) for k, heat in enumerate(heats)]
    except ImportError:  # matplotlib has the colours
        return [""] * len(heats)


def _map(found: Attribution, k: int, heat: np.ndarray, top: float) -> str:
    ground = dimmed(shrink(found.images[k], 2 * SIDE))
    high, wide = ground.shape[:2]
    rows, columns = (
        np.arange(length) * count // length for length, count in zip((high, wide), heat.shape, strict=True)
    )
    cells = cell_colours(heat, top, found.signed)[rows[:, None], columns]
    mixed = cells[..., :3] * cells[..., 3:] + ground * (1 - cells[..., 3:])
    picture = Image.fromarray(np.rint(255 * mixed).astype(np.uint8))
    words = f"picture {k + 1} under its map of {found.method}, {_number(found, float(np.nansum(heat)))} in all"
    size = f'width="{round(wide / 2)}" height="{round(high / 2)}"'
    return f'<img alt="{escape(words, quote=True)}" src="{encode(picture, "WEBP", quality=QUALITY)}" {size}>'


def _number(found: Attribution, score: float) -> str:
    if np.isnan(score):
        return "–"
    return f"{score:+.3g}" if found.signed else f"{score:.3g}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
