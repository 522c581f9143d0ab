"""Html of a conversation: each question as it was put, and the viewer of its answer under it. Knows views, no model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from .html import call, identity_of, overview_picture, plain, static, viewer_source, whole_page
from .payload import AnswerView, clean, pack, to_json
from .pictures import Twofold, stacked
from .reading import EXTRA_BUDGET


def mimebundle(views: Sequence[AnswerView], system: str | None = None) -> dict[str, str]:
    """A cell's display of a conversation: text/html, image/png (base64) and text/plain."""
    words = plain_text(views, system)
    if not views:
        return {"text/html": f"<p><i>{escape(words)}</i></p>", "text/plain": words}
    pictures = [overview_picture(view) for view in views]
    body, script = _parts(views, system, pictures)
    bundle = {"text/html": f'{body}\n<script type="module">{script}</script>', "text/plain": words}
    found = [picture for picture in pictures if picture is not None]
    if found:
        from .sheet import compact

        bundle["image/png"] = base64.b64encode(compact(stacked(found).light)).decode("ascii")
    return bundle


def page_text(views: Sequence[AnswerView], system: str | None = None) -> str:
    """A whole page that works offline."""
    body, script = _parts(views, system, [overview_picture(view) for view in views])
    return whole_page(views[0].title if views else "A conversation", body, script)


def plain_text(views: Sequence[AnswerView], system: str | None = None) -> str:
    """The conversation in words."""
    said = [plain(view) for view in views] or ["(nothing was asked yet)"]
    return clean("\n\n".join([*([f"system: {system}"] if system else []), *said]))


def _parts(views: Sequence[AnswerView], system: str | None, pictures: Sequence[Twofold | None]) -> tuple[str, str]:
    """What stands where scripts are stripped, and the one script that revives all viewers."""
    body = [f"<p><i>{escape(clean(system))}</i></p>"] if system else []
    calls = []
    for number, (view, picture) in enumerate(zip(views, pictures, strict=True), 1):
        payload = to_json(pack(view, EXTRA_BUDGET // len(views)))
        identity = identity_of(payload)
        body += [f"<h4>{number}. {escape(_asked(view))}</h4>", static(identity, plain(view), picture)]
        calls.append(call("mount", identity, payload))
    return "\n".join(body), f"\n{viewer_source()}\n{''.join(calls)}"


def _asked(view: AnswerView) -> str:
    return clean("".join(f"[{part + 1}] " if isinstance(part, int) else part for part in view.prompt_parts))
