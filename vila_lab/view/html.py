"""Html around a viewer: its script, a whole page, and what stands where scripts are stripped. Knows no model and asks no network.

A cell and a page carry the same ``viewer.js``, inlined as a module, and a static picture of the same state that stays wherever
scripts are stripped (GitHub, untrusted notebooks). The id is a hash of the payload: the same answer, the same html.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from pathlib import Path

from ..errors import MissingExtra
from .payload import AnswerView, clean, encode, label, percent, to_json
from .pictures import WEBP_METHOD, Twofold

LIGHT_QUALITY, DARK_QUALITY = 45, 25  # WebP quality of the static pictures; their text is still crisp
HERE = Path(__file__).parent
SOURCES = ("viewer.js", "readings.js", "bars.js", "drawing.js", "saving.js")  # of one module
PAGE_STYLE = (
    "body { margin: 0 auto; max-width: 1600px; font: 14px/1.5 system-ui, sans-serif; } "
    "img { max-width: 100%; height: auto; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }"
)


def whole_page(title: str, body: str, script: str, style: str = "") -> str:
    """A page around what is shown without scripts, and the script.

    Its policy allows exactly one script and one style sheet, by their hashes, so that nothing in the answer could ever run.
    """
    style = PAGE_STYLE + style
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(clean(' '.join(title.split())))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'{body}\n<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def _hash(text: str) -> str:
    """As a page's policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def plain(view: AnswerView) -> str:
    """The answer in words: question, answer, how sure the model was, the edits it was given under, and the shares of all answer tokens together."""
    question = "".join(f"[{part + 1}] " if isinstance(part, int) else part for part in view.prompt_parts) or view.title
    shares = ", ".join(f"{label(c)} {percent(s)}" for c, s in zip(view.columns, view.total_ledger, strict=True))
    drawn = f"{view.method}: {shares}" if view.tokens else view.method
    lines = [question, view.text or "(the answer is empty)", view.verdict, view.sureness, *view.edit_notes, drawn]
    return clean("\n".join(line for line in lines if line))


def live(function: str, payload: str, more: str = "") -> tuple[str, str]:
    """The id and the module: the viewer, and the call that mounts this payload wherever its div is not yet alive.

    ``more`` is source of a host that needs more than the viewer. The same answer may stand in a notebook twice, with
    the same id, and each copy brings its own script.
    """
    identity = identity_of(payload)
    return identity, f"\n{viewer_source()}\n{more}{call(function, identity, payload)}"


def identity_of(payload: str) -> str:
    """The id of the div of a payload."""
    return "vila-" + hashlib.sha256(payload.encode()).hexdigest()[:16]


def call(function: str, identity: str, payload: str) -> str:
    """The lines that mount a payload; several may stand in one script."""
    return (
        f"{{\nconst payload = {payload};\nconst css = {to_json(viewer_style())};\n"
        f"for (const host of document.querySelectorAll('[id=\"{identity}\"]:not([data-alive])')) {{\n"
        f"  host.dataset.alive = '';\n  await {function}(host, payload, {{ css }});\n}}\n}}\n"
    )


def static(identity: str, words: str, picture: Twofold | None) -> str:
    """What stands where scripts are stripped: a div with the picture of the same state, or the words alone."""
    words = escape(words, quote=True)
    if picture is None:
        return f'<div id="{identity}" class="vila-view"><pre>{words}</pre></div>'
    light = encode(picture.light, "WEBP", quality=LIGHT_QUALITY, method=WEBP_METHOD)
    dark = encode(picture.dark, "WEBP", quality=DARK_QUALITY, method=WEBP_METHOD)
    alt = words.replace("\n", "&#10;")
    return (
        f'<div id="{identity}" class="vila-view"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{alt}" src="{light}" width="{picture.light.width}"></picture></div>'
    )


def overview_picture(view: AnswerView) -> Twofold | None:
    """The overview as pixels; None without matplotlib."""
    from .sheet import render

    try:
        return render(view)
    except MissingExtra:
        return None


@cache
def viewer_source() -> str:
    """The viewer's ES module; its ``mount(host, payload)`` serves a widget as well as a page."""
    return "".join(map(_inlined, SOURCES))


@cache
def viewer_style() -> str:
    """The viewer's style sheet, which its script puts into a shadow root: no style element stands in the html."""
    return (HERE / "viewer.css").read_text(encoding="utf-8")


def _inlined(name: str) -> str:
    """A script without its lines of comments and its indentation, which would stand in every cell."""
    source = (HERE / name).read_text(encoding="utf-8")
    return re.sub(r"^\s*(//.*|/\*\*.*|\*( .*|/))?\n|^ +", "", source, flags=re.MULTILINE)
