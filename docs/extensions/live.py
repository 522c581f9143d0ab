"""The live answer on the landing page, asked while the site is made. Knows the embedded model and its demo pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import vila_lab

QUESTION = (
    "Image 1 is Google, famous for its search engine. Image 2 is Microsoft, famous for its operating system. "
    "Image 3 is Apple, famous for the iPhone and the Mac. Image 4 is"
)
PICTURES = ("g.png", "m.png", "a.png", "n.png")
PAGE = "live.html"


class LiveAnswer(SphinxDirective):
    """The answer as a notebook cell shows it, and beside the pages of the site as a page of its own."""

    def run(self) -> list[nodes.Node]:
        folder = vila_lab.demo_images()
        answer = vila_lab.load().ask([*(folder / name for name in PICTURES), QUESTION])
        answer.heatmap(method="leave_one_out")  # offered beside attention
        answer.to_html(Path(self.env.app.outdir) / PAGE)
        return [nodes.raw("", answer._repr_mimebundle_()["text/html"], format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("live-answer", LiveAnswer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
