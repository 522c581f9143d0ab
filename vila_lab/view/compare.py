"""Answers side by side: two models, two orders, with and without an edit. Knows views and labels, no model."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from ..engine.record import Record
from ..errors import OptionError
from ..picture import digest_of
from ..writing import write_file
from .html import live, overview_picture, plain, static, viewer_source, whole_page
from .of_answer import view_of
from .payload import AnswerView, clean, pack, to_json
from .pictures import stacked
from .reading import EXTRA_BUDGET

if TYPE_CHECKING:
    from ..attribution import Attribution

HOST = Path(__file__).with_name("compare.js")


class Shown(Protocol):
    """An answer in a reader's hand."""

    @property
    def record(self) -> Record: ...
    @property
    def attributions(self) -> tuple[Attribution, ...]: ...


def compare(*answers: Shown, **labelled: Shown) -> Comparison:
    """Answers side by side, with one selection for all of them, and what changed in the text marked.

    Parameters
    ----------
    answers
        Two or more answers: of two models, to two orders of the pictures, with and without an edit. They are named by
        what sets them apart.
    labelled
        Answers under a name of yours: ``compare(before=one, after=other)``.

    Returns
    -------
    Comparison
        A notebook shows it; `Comparison.to_html` writes it.

    Raises
    ------
    OptionError
        With fewer than two answers, or something that is no answer.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> pictures = [folder / "g.png", folder / "m.png"]
    >>> vila_lab.compare(lab.ask([*pictures, "What is in image 2?"]), lab.ask([*pictures[::-1], "What is in image 2?"]))
    Comparison('order 1, 2': 'Microsoft.', 'order 2, 1': 'Google.')
    """
    given = [*answers, *labelled.values()]
    for k, one in enumerate(given, start=1):
        if not isinstance(getattr(one, "record", None), Record):
            raise OptionError(f"compare takes answers, but argument {k} of {len(given)} is {type(one).__name__}")
    if len(given) < 2:
        raise OptionError("compare needs at least two answers: compare(answer_a, answer_b)")
    records = [one.record for one in given]
    pictures = _same_pictures([one.images for one in records])
    names = [*_labels(records[: len(answers)], pictures[: len(answers)]), *labelled]
    views = [view_of(one.record, attributions=one.attributions) for one in given]
    return Comparison(names, views, pictures)


class Comparison:
    """Answers side by side; see `compare`.

    Attributes
    ----------
    labels : tuple of str
    views : tuple of AnswerView
    notes : tuple of str
        What differs between the questions, and how much of the text.
    """

    def __init__(self, labels: Sequence[str], views: Sequence[AnswerView], pictures: Sequence[Sequence[int]]) -> None:
        self.labels = tuple(labels)
        self.views = tuple(views)
        self.pictures = tuple(tuple(ones) for ones in pictures)
        self._same, self._changed = _aligned([view.tokens for view in views])
        self.notes = tuple(_notes(self.views, self.pictures, self._changed))

    def __repr__(self) -> str:
        pairs = (f"{label!r}: {view.text!r}" for label, view in zip(self.labels, self.views, strict=True))
        return f"Comparison({', '.join(pairs)})"

    @property
    def plain(self) -> str:
        """Everything in words."""
        ones = [f"{label}\n{plain(view)}" for label, view in zip(self.labels, self.views, strict=True)]
        return clean("\n\n".join(["\n".join(self.notes), *ones]))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        picture = self._static()
        identity, script = live("mountCompare", to_json(self.payload), HOST.read_text(encoding="utf-8"))
        html = f'{static(identity, self.plain, picture)}\n<script type="module">{script}</script>'
        bundle = {"text/html": html, "text/plain": self.plain}
        if picture is not None:
            from .sheet import compact

            bundle["image/png"] = base64.b64encode(compact(picture)).decode("ascii")
        return bundle

    def to_html(self, path: str | Path) -> Path:
        """Write the comparison as one self-contained page that works offline."""
        return write_file(path, self._page)

    def _page(self) -> str:
        identity, script = live("mountCompare", to_json(self.payload), HOST.read_text(encoding="utf-8"))
        return whole_page(" / ".join(self.labels), static(identity, self.plain, self._static()), script)

    @property
    def payload(self) -> dict[str, Any]:
        """What the host in a browser draws."""
        answers = []
        rows = zip(self.labels, self.views, self._same, self._changed, self.pictures, strict=True)
        for label, view, same, changed, pictures in rows:
            payload = pack(view, EXTRA_BUDGET // len(self.views)) | {"changed": sorted(changed)}
            answers.append({"label": clean(label), "payload": payload, "same": same, "pictures": list(pictures)})
        return {"answers": answers, "notes": [clean(note) for note in self.notes]}

    def _static(self) -> Image.Image | None:
        """The answers' pictures one below the other; None without matplotlib."""
        found = [picture for picture in map(overview_picture, self.views) if picture is not None]
        return stacked(found) if found else None


@cache
def viewer_module() -> str:
    """One ES module of ``mount``, for an answer, and ``mountCompare``, for a comparison's payload."""
    return f"{viewer_source()}\n{HOST.read_text(encoding='utf-8')}\nexport {{ mountCompare }};\n"


def _labels(answers: Sequence[Record], pictures: Sequence[Sequence[int]]) -> list[str]:
    """Names by what sets the answers apart: their models, their edits, the order of their pictures, or letters."""
    orders = [f"order {', '.join(str(k + 1) for k in ones)}" for ones in pictures]
    edits = ["; ".join(one.edits) or "without an edit" for one in answers]
    for names in ([str(one.model) for one in answers], edits, orders):
        if len(set(names)) == len(answers):
            return names
    return [f"answer {chr(ord('A') + k % 26)}{k // 26 or ''}" for k in range(len(answers))]


def _same_pictures(images: Sequence[Sequence[Image.Image]]) -> list[list[int]]:
    """A number for every picture, the same for the same pixels; one picture twice in an answer counts in order."""
    numbers: dict[tuple[str, int], int] = {}
    found = []
    for ones in images:
        seen: dict[str, int] = {}
        row = []
        for image in ones:
            pixels = digest_of(image)
            seen[pixels] = seen.get(pixels, -1) + 1
            row.append(numbers.setdefault((pixels, seen[pixels]), len(numbers)))
        found.append(row)
    return found


def _aligned(tokens: Sequence[Sequence[str]]) -> tuple[list[list[int]], list[set[int]]]:
    """For every answer's tokens the number of the first answer's token in its place (-1: none), and those that changed.

    >>> _aligned([["a", " red", " cat"], ["a", " blue", " cat", "."]])
    ([[0, 1, 2], [0, 1, 2, -1]], [{1}, {1, 3}])
    """
    first = list(tokens[0])
    places, changed = [list(range(len(first)))], [set[int]()]
    for other in tokens[1:]:
        row, differs = [-1] * len(other), set(range(len(other)))
        kept: set[int] = set()
        matcher = difflib.SequenceMatcher(None, first, list(other), autojunk=False)
        for kind, start, stop, mine, end in matcher.get_opcodes():
            both = min(stop - start, end - mine)
            row[mine : mine + both] = range(start, start + both)
            if kind == "equal":
                differs -= set(range(mine, end))
                kept |= set(range(start, stop))
        changed[0] |= set(range(len(first))) - kept
        places.append(row)
        changed.append(differs)
    return places, changed


def _notes(views: Sequence[AnswerView], pictures: Sequence[Sequence[int]], changed: Sequence[set[int]]) -> list[str]:
    notes = []
    if len({view.title for view in views}) > 1:
        notes.append("The questions differ, so a difference between the answers may come from them.")
    if len({frozenset(ones) for ones in pictures}) > 1:
        notes.append("The pictures differ, so a difference between the answers may come from them.")
    elif len({tuple(ones) for ones in pictures}) > 1:
        notes.append(
            "The same pictures in another order; a region selected in one answer is selected in the same picture of the others."
        )
    if len({view.text for view in views}) == 1:
        notes.append("The answers are word for word the same.")
    else:
        counts = " / ".join(f"{len(ones)} of {len(view.tokens)}" for ones, view in zip(changed, views, strict=True))
        notes.append(f"Tokens that differ are underlined: {counts}.")
    return notes
