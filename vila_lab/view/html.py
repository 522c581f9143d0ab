"""Html of an answer: a notebook cell's fragment, an offline page, a mime bundle. Knows no model and asks no network.

Both carry the same ``viewer.js``, inlined as a module, and a static picture of the same state that stays wherever
scripts are stripped (GitHub, untrusted notebooks). The id is a hash of the payload: the same answer, the same html.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path

from PIL import Image

from ..errors import MissingExtra
from .payload import AnswerView, clean, encode, label, pack, percent, to_json

STATIC_QUALITY = 62  # WebP quality of the static picture; its text is still crisp
VIEWER = Path(__file__).with_name("viewer.js")


def fragment(view: AnswerView) -> str:
    """The answer as the text/html of a notebook cell: one div with its static picture and the script that revives it."""
    return _fragment(view, _picture(view))


def page_text(view: AnswerView) -> str:
    """A whole page that works offline: everything inside, and a policy that forbids every request.

    The policy allows exactly one script, by its hash, so that nothing in the answer could ever run.
    """
    identity, script = _script(
        view, f"{viewer_source()}\ndocument.body.style.margin = '0 auto';document.body.style.maxWidth = '1600px';"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    title = " ".join((view.title or view.text or "An answer").split())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(clean(title))}</title>\n</head>\n<body>\n"
        f'{_div(view, identity, _picture(view))}\n<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def page(view: AnswerView, path: str | Path) -> Path:
    """Write the offline page; returns its path."""
    path = Path(path)
    path.write_text(page_text(view), encoding="utf-8")
    return path


def mimebundle(view: AnswerView) -> dict[str, str]:
    """The cell's display: text/html, image/png (base64) and text/plain, and never a widget.

    A widget would break when the notebook is opened again without its kernel; without matplotlib there is no PNG.
    """
    picture = _picture(view)
    bundle = {"text/html": _fragment(view, picture), "text/plain": plain(view)}
    if picture is not None:
        from .figures import compact

        bundle["image/png"] = base64.b64encode(compact(picture)).decode("ascii")
    return bundle


def plain(view: AnswerView) -> str:
    """The answer in words: question, answer, and the shares of all answer tokens together."""
    question = "".join(f"[{part + 1}] " if isinstance(part, int) else part for part in view.prompt_parts) or view.title
    shares = ", ".join(f"{label(c)} {percent(s)}" for c, s in zip(view.columns, view.total_ledger, strict=True))
    lines = [question, view.text or "(the answer is empty)", f"{view.method}: {shares}" if view.tokens else view.method]
    return clean("\n".join(line for line in lines if line))


def _fragment(view: AnswerView, picture: Image.Image | None) -> str:
    identity, script = _script(view, viewer_source())
    return f'{_div(view, identity, picture)}\n<script type="module">{script}</script>'


def _script(view: AnswerView, viewer: str) -> tuple[str, str]:
    """The id and the module: the viewer, and the call that mounts this payload wherever its div is not yet alive.

    The same answer may stand in a notebook twice, with the same id, and each copy brings its own script.
    """
    payload = to_json(pack(view))
    identity = "vila-" + hashlib.sha256(payload.encode()).hexdigest()[:16]
    call = (
        f"const payload = {payload};\n"
        f"for (const host of document.querySelectorAll('[id=\"{identity}\"]:not([data-alive])')) {{\n"
        "  host.dataset.alive = '';\n  await mount(host, payload);\n}\n"
    )
    return identity, f"\n{viewer}\n{call}"


def _div(view: AnswerView, identity: str, picture: Image.Image | None) -> str:
    words = escape(plain(view), quote=True)
    if picture is None:
        return f'<div id="{identity}" class="vila-view"><pre>{words}</pre></div>'
    source = encode(picture, "WEBP", quality=STATIC_QUALITY, method=4)
    alt = words.replace("\n", "&#10;")
    return f'<div id="{identity}" class="vila-view"><img alt="{alt}" src="{source}" width="{picture.width}"></div>'


def _picture(view: AnswerView) -> Image.Image | None:
    """The overview as pixels; None without matplotlib."""
    from .figures import render

    try:
        return render(view)
    except MissingExtra:
        return None


@cache
def viewer_source() -> str:
    """The viewer's ES module; its ``mount(host, payload)`` serves a widget as well as a page."""
    return VIEWER.read_text(encoding="utf-8")
