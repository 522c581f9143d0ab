"""The live widget of an answer: the viewer, with the reader's choices as traits. Knows the viewer and the answer, no model.

anywidget is imported when a widget is made and not before: everything else works without it.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attribution.registry import NAMES
from ..engine.record import Record
from ..engine.replay import NO_MODEL
from ..errors import CaptureError, MissingExtra, OptionError, VilaLabError
from ..pointing import first_token, picture_index
from .computing import Computing
from .display import Display
from .html import viewer_source, viewer_style
from .live import live_part, live_reading, live_scores, view_at

if TYPE_CHECKING:
    from ..attribution import Attribution

WIDGET, CELLS = (Path(__file__).with_name(name) for name in ("widget.js", "explored.js"))
CHOICES = ("selected_token", "compared_token", "selected_region", "layer", "head")


def explore(
    record: Record,
    display: Display,
    *,
    sync: Any = None,
    attribute: Callable[[str], Attribution] | None = None,
) -> Any:
    """The answer as a live widget, which computes any layer, head and method when the reader asks for it.

    A cell shows it as html with a picture of its present state, never as a widget: that would be an error message in a notebook
    that is opened again, and nothing on a page. While its kernel is there, the html is the widget's view.

    Parameters
    ----------
    record
        The answer to explore.
    display
        What there is to show of it from the start.
    sync
        Another explorer, or several: a choice in one is made in all of them, as far as it is there.
    attribute
        From a method's name to its result, called in a thread of its own; None where there is no model to ask.

    Returns
    -------
    anywidget.AnyWidget
        With the traits ``selected_token``, ``compared_token`` (counted from 0, or a word of the answer; None for all together),
        ``selected_region`` ([picture, x0, y0, x1, y1] in pixels of the original, the picture counted from 0 or by name; None for
        none), ``layer`` and ``head`` (None for the mean): read them, set them, ``observe`` them, or link them with
        ``ipywidgets.jslink``.

    Raises
    ------
    MissingExtra
        Without anywidget.
    OptionError
        If ``sync`` is no explorer; and by the widget, if a trait is set to what is not there.
    """
    others = list(sync) if isinstance(sync, Sequence) else [] if sync is None else [sync]
    kind = widget_class()
    for other in others:
        if not isinstance(other, kind):
            raise OptionError(f"sync must be what explore() returned, or a list of these, not {type(other).__name__}")
    widget = kind(record, display, attribute)
    for other in others:
        link(widget, other)
    return widget


def link(one: Any, other: Any) -> None:
    """Make every choice in one explorer in the other as well; what is not there is no choice (None)."""

    def follow(source: Any, target: Any) -> None:
        def tell(change: Any) -> None:
            name = change["name"]
            target.set_trait(name, change["new"] if target.has(name, change["new"]) else None)

        source.observe(tell, names=list(CHOICES))

    follow(one, other)
    follow(other, one)
    for name in CHOICES:
        value = getattr(other, name)
        one.set_trait(name, value if one.has(name, value) else None)


def is_place(region: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether a region is a box that meets its picture.

    >>> is_place([0, 2, 2, 5, 5], [(10, 10)]), is_place([0, 20, 2, 25, 5], [(10, 10)]), is_place([1, 2, 2, 5, 5], [(10, 10)])
    (True, False, False)
    """
    if len(region) != 5 or not all(isinstance(each, Real) for each in region) or region[0] not in range(len(sizes)):
        return False
    x0, y0, x1, y1 = map(float, region[1:])
    width, height = sizes[int(region[0])]
    return x1 >= 0 and y1 >= 0 and x0 <= min(x1, width) and y0 <= min(y1, height)  # of NaN none is true


@cache
def widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtra("explore() needs anywidget: pip install 'anywidget>=0.9.13' 'ipywidgets>=8.1'") from error

    class TokenChoice(traitlets.Int[Any, Any]):
        """A token by its number, or by a word of the answer: then the word's first."""

        def validate(self, obj: Any, value: Any) -> Any:
            return super().validate(obj, obj.token_of(value) if isinstance(value, str) else value)

    class Explorer(anywidget.AnyWidget):
        """An answer in the viewer; see `explore`."""

        _esm = "\n".join([viewer_source(), CELLS.read_text(encoding="utf-8"), WIDGET.read_text(encoding="utf-8")])
        key = traitlets.Unicode().tag(sync=True)
        css = traitlets.Unicode(viewer_style()).tag(sync=True)
        payload = traitlets.Dict().tag(sync=True)
        selected_token = TokenChoice(None, allow_none=True).tag(sync=True)
        compared_token = TokenChoice(None, allow_none=True).tag(sync=True)
        selected_region: Any = traitlets.List(allow_none=True).tag(sync=True)
        layer = traitlets.Int(None, allow_none=True).tag(sync=True)
        head = traitlets.Int(None, allow_none=True).tag(sync=True)

        def __init__(self, record: Record, display: Display, attribute: Callable[[str], Attribution] | None) -> None:
            self._record, self._display, self._attribute = record, display, attribute
            self._computing: dict[str, Computing] = {}
            live = live_part(record)
            self._counts = {
                "selected_token": len(display.payload["tokens"]),
                "compared_token": len(display.payload["tokens"]),
                "layer": live["layers"],
                "head": live["heads"],
            }
            live["methods"] = [] if attribute is None else [name for name in NAMES if name != display.payload["name"]]
            super().__init__(payload=display.payload | {"live": live}, key=secrets.token_hex(8))
            self.on_msg(self.answer_browser)

        def __repr__(self) -> str:
            return f"Explorer({self._display.payload['title']!r})"

        def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            view = super()._repr_mimebundle_(**options) if shows_views_alone() else None
            return self._present() | (view[0] if view else {}), {}

        def _present(self) -> dict[str, str]:
            """The state as html and a picture, which stay when the kernel is gone."""
            shown, payload = self._display, {name: part for name, part in self.payload.items() if name != "live"}
            if (self.layer, self.head) != (None, None):
                shown = Display.of(view_at(self._record, self.layer, self.head))
                reading = live_reading(self._record, self.layer, self.head, False)
                payload["readings"] = [*payload["readings"], reading]
            tokens = [each for each in (self.compared_token, self.selected_token) if each is not None]
            region = self.selected_region and {"picture": self.selected_region[0], "box": self.selected_region[1:]}
            chosen = {"tokens": tokens, "region": region, "layer": self.layer, "head": self.head}
            payload["explorer"] = {"key": self.key, **chosen}
            html = shown.fragment_of(payload, "mountExplored", CELLS.read_text(encoding="utf-8"))
            return shown.mimebundle() | {"text/html": html}

        @traitlets.default("selected_region")
        def _no_region(self) -> None:
            return None

        def token_of(self, word: str) -> int:
            """The first token of a word, as the view counts them: without the one that ended the answer."""
            return first_token(word, [self._record.tokens[number] for number in self._record.said()])

        def has(self, name: str, value: Any) -> bool:
            """Whether a trait can take a value: whether there is such a token, layer, head or place."""
            if value is None:
                return True
            if name == "selected_region":
                return is_place(value, [image.size for image in self._record.images])
            return value in range(self._counts[name])

        @traitlets.validate(*CHOICES)
        def _check(self, proposal: Any) -> Any:
            name, value = proposal["trait"].name, proposal["value"]
            if name == "selected_region" and value and isinstance(value[0], str):
                value = [picture_index(value[0], len(self._record.images)), *value[1:]]
            if self.has(name, value):
                return value
            if name == "selected_region":
                raise OptionError(
                    f"selected_region {value} names no place: give [picture, x0, y0, x1, y1], pictures counted from 0 or by name"
                )
            raise OptionError(f"there is no {name} {value}: this answer has {self._counts[name]}, counted from 0")

        def answer_browser(self, _: Any, content: dict[str, Any], __: Any) -> None:
            """The browser wants a reading that the payload does not hold, or does not want one any more."""
            if "cancel" in content:
                self._give_up(content["cancel"])
            elif "method" in content:
                self._compute(content["id"], content["method"])
            else:
                self._read(content)

        def close(self) -> None:
            for name in list(self._computing):
                self._give_up(name)
            super().close()

        def _read(self, content: dict[str, Any]) -> None:
            try:
                reading = live_reading(self._record, content["layer"], content["head"], bool(content["sinks"]))
            except VilaLabError as error:  # released, or no such head: said in the widget, not in a log
                self.send({"id": content["id"], "error": str(error)})
                return
            self.send({"id": content["id"], "reading": reading})

        def _compute(self, name: str, method: str) -> None:
            """In a thread, for a kernel that computes hears nothing else: neither that it shall stop."""

            def work() -> dict[str, Any]:
                if self._attribute is None:
                    raise CaptureError(NO_MODEL)
                return live_scores(self._record, self._attribute(method))

            def ended(reading: Any, error: str) -> None:
                self._computing.pop(name, None)
                if reading is not None:
                    self.payload = {**self.payload, "readings": [*self.payload["readings"], reading]}
                self.send({"id": name, "error": error} if reading is None else {"id": name, "reading": reading})

            def told(*progress: Any) -> None:
                self.send({"id": name, "progress": progress})

            self._computing[name] = Computing(work, told, ended)

        def _give_up(self, name: str) -> None:
            computing = self._computing.pop(name, None)
            if computing is not None:
                computing.give_up()

    return Explorer


def shows_views_alone() -> bool:
    """Whether this is Colab or VS Code, where a widget is there only once a view of it is displayed; in JupyterLab and Notebook it is
    there at once."""
    return "google.colab" in sys.modules or "VSCODE_PID" in os.environ
