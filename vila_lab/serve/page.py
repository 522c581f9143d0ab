"""The page: what a browser loads before anybody has signed in. Knows files by their names, and no model, answer or token."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from fastapi import APIRouter, Response

from ..tiny import demo_images
from ..view.compare import viewer_module
from ..view.html import viewer_style
from .doors import LARGEST
from .failures import Refused

FOLDER = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: run its own modules, ask its own server, show pictures. Nothing that a user or a model wrote can run."""


@dataclass(frozen=True)
class Sheet:
    """A file as it is sent."""

    kind: str
    data: bytes

    @property
    def response(self) -> Response:
        """With the page's policy, instead of the stricter one of everything else."""
        return Response(self.data, media_type=self.kind, headers={"content-security-policy": POLICY})


def paging(model: str, *, classroom: bool) -> APIRouter:
    """The routes of the page and of what it is made of.

    Parameters
    ----------
    model
        Its name, which the page shows.
    classroom
        Whether the page offers to join with a code.
    """
    router = APIRouter(include_in_schema=False)
    sheets = sheets_of(model, classroom=classroom)

    @router.get("/")
    async def index() -> Response:
        """The page."""
        return sheets["index.html"].response

    @router.get("/docs")
    async def docs() -> Response:
        """The routes, to be read by people."""
        return sheets["docs.html"].response

    @router.get("/page/{name:path}")
    async def part(name: str) -> Response:
        """What the page is made of; the names are those of a table, and never a path."""
        if name not in sheets:
            raise Refused(404, "the page has no such part")
        return sheets[name].response

    return router


def sheets_of(model: str, *, classroom: bool) -> dict[str, Sheet]:
    """All that the page is made of, by name, read once.

    >>> sorted({"index.html", "viewer.js", "demo/g.png"} & set(sheets_of("embedded", classroom=False)))
    ['demo/g.png', 'index.html', 'viewer.js']
    """
    found = {path.name: Sheet(KINDS[path.suffix], path.read_bytes()) for path in sorted(FOLDER.iterdir())}
    told = {"MODEL": model, "LARGEST": str(LARGEST), "CLASSROOM": "yes" if classroom else "no"}
    found["index.html"] = Sheet(KINDS[".html"], _filled(found["index.html"].data, told))
    found["viewer.js"] = Sheet(KINDS[".js"], viewer_module().encode())
    found["viewer.css"] = Sheet(KINDS[".css"], viewer_style().encode())
    for path in demo_images().glob("*.png"):
        found[f"demo/{path.name}"] = Sheet(KINDS[".png"], path.read_bytes())
    return found


def _filled(template: bytes, values: dict[str, str]) -> bytes:
    text = template.decode()
    for name, value in values.items():
        text = text.replace(f"{{{{{name}}}}}", escape(value, quote=True))
    return text.encode()
