"""The live widget of an answer: the viewer, with the reader's choices as traits. Knows the viewer and the answer, no model.

anywidget is imported when a widget is made and not before: everything else works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.record import Record
from ..errors import MissingExtra, OptionError, VilaLabError
from ..pointing import WhichPicture, first_token, picture_index
from .html import viewer_source, viewer_style
from .live import live_payload, live_reading

if TYPE_CHECKING:
    from ..attribution import Attribution
    from ..evidence import MetricCard

WIDGET = Path(__file__).with_name("widget.js")
CHOICES = ("selected_token", "compared_token", "selected_region", "layer", "head")


def explore(
    record: Record,
    *,
    sync: Any = None,
    attributions: Sequence[Attribution] = (),
    cards: Sequence[MetricCard] = (),
    boxes: Mapping[WhichPicture, Any] | None = None,
    verdict: str = "",
    attribute: Callable[[str], Attribution] | None = None,
) -> Any:
    """The answer as a live widget, which computes any layer and head when the reader asks for it.

    Parameters
    ----------
    record
        The answer to explore.
    sync
        Another explorer, or several: a choice in one is made in all of them, as far as it is there.
    attributions, cards, boxes
        More to show: results of `Answer.attribute` and `Answer.metric_card`, and where things are known to be
        (see `vila_lab.view.view_of`).

    Returns
    -------
    anywidget.AnyWidget
        With the traits ``selected_token``, ``compared_token`` (counted from 0, or a word of the answer; None for all together),
        ``selected_region`` ([picture, x0, y0, x1, y1] in pixels of the original, the picture counted from 0 or by name; None for none), ``layer`` and ``head``
        (None for the mean): read them, set them, ``observe`` them, or link them with ``ipywidgets.jslink``.

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
    widget = kind(record, attributions=attributions, cards=cards, boxes=boxes, verdict=verdict)
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

        _esm = viewer_source() + WIDGET.read_text(encoding="utf-8")
        css = traitlets.Unicode(viewer_style()).tag(sync=True)
        payload = traitlets.Dict().tag(sync=True)
        selected_token = TokenChoice(None, allow_none=True).tag(sync=True)
        compared_token = TokenChoice(None, allow_none=True).tag(sync=True)
        selected_region: Any = traitlets.List(allow_none=True).tag(sync=True)
        layer = traitlets.Int(None, allow_none=True).tag(sync=True)
        head = traitlets.Int(None, allow_none=True).tag(sync=True)

        def __init__(self, record: Record, **shown: Any) -> None:
            payload = live_payload(record, **shown)
            self._record = record
            self._counts = {
                "selected_token": len(payload["tokens"]),
                "compared_token": len(payload["tokens"]),
                "layer": payload["live"]["layers"],
                "head": payload["live"]["heads"],
            }
            super().__init__(payload=payload)
            self.on_msg(self.answer_browser)

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
                return len(value) == 5 and value[0] in range(len(self._record.images))
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
            """The browser wants a reading that the payload does not hold."""
            try:
                reading = live_reading(self._record, content["layer"], content["head"], bool(content["sinks"]))
            except VilaLabError as error:  # released, or no such head: said in the widget, not in a log
                self.send({"id": content["id"], "error": str(error)})
                return
            self.send({"id": content["id"], "reading": reading})

    return Explorer
