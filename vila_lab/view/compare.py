"""Answers side by side: two models, two orders, with and without an edit. Knows views and labels, no model."""

from __future__ import annotations

import base64
import difflib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from PIL import Image

from ..attribution.computed import listed
from ..attribution.registry import MethodName
from ..engine.record import Record
from ..errors import CaptureError, OptionError
from ..options import nearest
from ..picture import digest_of
from ..writing import write_file
from .html import live, overview_picture, plain, static, viewer_source, whole_page
from .levels import peak
from .of_answer import fits, view_of
from .payload import AnswerView, clean, pack, to_json
from .pictures import Twofold, stacked
from .reading import EXTRA_BUDGET

if TYPE_CHECKING:
    from ..attribution import Attribution

HOST = Path(__file__).with_name("compare.js")
Scale: TypeAlias = Literal["own", "shared"]
SCALES: tuple[str, ...] = get_args(Scale)


class Shown(Protocol):
    """An answer in a reader's hand."""

    @property
    def record(self) -> Record: ...
    def attributed(self, attributions: Sequence[str | Attribution] = ()) -> tuple[Attribution, ...]: ...


def compare(
    *answers: Shown,
    attributions: Sequence[MethodName | str | Attribution] = (),
    scale: Scale | str = "own",
    **labelled: Shown,
) -> Comparison:
    """Answers side by side, with one selection for all of them, and what changed in the text marked.

    Parameters
    ----------
    answers
        Two or more answers: of two models, to two orders of the pictures, with and without an edit. They are named by
        what sets them apart.
    attributions
        Methods to show beside what was attributed so far: names in `vila_lab.methods`, computed for every answer, and results of
        `Answer.attribute`, each shown with the answers on whose prompt it was computed.
    scale
        "own": each answer has a colour scale, so that the places of one can be told apart; "shared": one scale for all answers
        and all their tokens, so that the same colour is the same number everywhere.
    labelled
        Answers under a name of yours: ``compare(before=one, after=other)``.

    Returns
    -------
    Comparison
        A notebook shows it; `Comparison.to_html` writes it.

    Raises
    ------
    OptionError
        With fewer than two answers, something that is no answer, or another scale.
    CaptureError
        If an attribution was computed on none of them.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> pictures = [folder / "g.png", folder / "m.png"]
    >>> vila_lab.compare(lab.ask([*pictures, "What is in image 2?"]), lab.ask([*pictures[::-1], "What is in image 2?"]))
    Comparison('order 1, 2': 'Microsoft.', 'order 2, 1': 'Google.')
    """
    return side_by_side([*answers, *labelled.values()], [None] * len(answers) + list(labelled), attributions, scale)


def side_by_side(
    given: Sequence[Shown],
    labels: Sequence[str | None],
    attributions: Sequence[MethodName | str | Attribution] = (),
    scale: str = "own",
) -> Comparison:
    """`compare`, of answers and their names in two lists; None is named by what sets it apart from the others."""
    if scale not in SCALES:
        raise OptionError(f"unknown scale {scale!r}{nearest(scale, SCALES)}; known: {', '.join(SCALES)}")
    for k, one in enumerate(given, start=1):
        if not isinstance(getattr(one, "record", None), Record):
            raise OptionError(f"compare takes answers, but argument {k} of {len(given)} is {type(one).__name__}")
    if len(given) < 2:
        raise OptionError("compare needs at least two answers: compare(answer_a, answer_b)")
    records = [one.record for one in given]
    pictures = _same_pictures([one.images for one in records])
    unnamed = [k for k, label in enumerate(labels) if label is None]
    found = iter(_labels([records[k] for k in unnamed], [pictures[k] for k in unnamed]))
    names = [next(found) if label is None else label for label in labels]

    def made(wanted: Sequence[str | Attribution]) -> Comparison:
        shown = zip(given, _shown(given, wanted), strict=True)
        views = [view_of(one.record, attributions=found) for one, found in shown]
        return Comparison(names, views, pictures, scale=scale, more=made)

    return made(attributions)


def _shown(given: Sequence[Shown], attributions: Sequence[str | Attribution]) -> list[tuple[Attribution, ...]]:
    """What there is to show of every answer; a result belongs to those on whose prompt it was computed."""
    wanted = listed(attributions)
    names = [each for each in wanted if isinstance(each, str)]
    found = [each for each in wanted if not isinstance(each, str)]
    for each in found:
        if not any(fits(one.record, each) for one in given):
            raise CaptureError(
                f"the {each.method} attribution was computed on none of these answers: its prompt is not the same"
            )
    return [one.attributed([*names, *(each for each in found if fits(one.record, each))]) for one in given]


class Comparison:
    """Answers side by side; see `compare`.

    Attributes
    ----------
    labels : tuple of str
        The answers' names.
    views : tuple of AnswerView
        What is drawn of each.
    pictures : tuple of tuple of int
        For each answer's pictures a number, the same for the same pixels.
    notes : tuple of str
        What differs between the questions, and how much of the text.
    scale : str
        "own" or "shared"; see `compare`.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> pictures = [folder / "g.png", folder / "m.png"]
    >>> found = vila_lab.compare(lab.ask([*pictures, "What is in image 1?"]), lab.ask([*pictures[::-1], "What is in image 1?"]))
    >>> found.labels, found.pictures, found.scale
    (('order 1, 2', 'order 2, 1'), ((0, 1), (1, 0)), 'own')
    >>> found.notes[0] in found.plain, list(found.payload)
    (True, ['answers', 'notes'])
    """

    def __init__(
        self,
        labels: Sequence[str],
        views: Sequence[AnswerView],
        pictures: Sequence[Sequence[int]],
        *,
        scale: str = "own",
        more: Callable[[Sequence[str | Attribution]], Comparison] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self._more = more
        self.scale = scale
        top = max((peak(view.total) for view in views), default=0.0)
        self.views = tuple(replace(view, top=top) for view in views) if scale == "shared" else tuple(views)
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

            bundle["image/png"] = base64.b64encode(compact(picture.light)).decode("ascii")
        return bundle

    def to_html(self, path: str | Path, *, attributions: Sequence[MethodName | str | Attribution] = ()) -> Path:
        """Write the comparison as one self-contained page that works offline.

        Parameters
        ----------
        path
        attributions
            More methods to show, as in `compare`.

        Raises
        ------
        OptionError, CaptureError
            As `compare`.
        FileAccessError
            If the place cannot be written.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> lab, picture = vila_lab.load(), vila_lab.demo_images() / "g.png"
        >>> found = vila_lab.compare(lab.ask([picture, "What is this?"]), lab.ask([picture, "What is in image 1?"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found.to_html(f"{folder}/both.html").name
        'both.html'
        """
        if not attributions:
            return write_file(path, self.page_text)
        if (more := self._more) is None:
            raise OptionError(
                "this comparison is of views, which no method can be run on; vila_lab.compare takes answers"
            )
        return write_file(path, lambda: more(attributions).page_text())

    def page_text(self) -> str:
        """What `to_html` writes.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> vila_lab.compare(answer, answer).page_text()[:15]
        '<!doctype html>'
        """
        identity, script = live("mountCompare", to_json(self.payload), HOST.read_text(encoding="utf-8"))
        return whole_page(" / ".join(self.labels), static(identity, self.plain, self._static()), script)

    @property
    def payload(self) -> dict[str, Any]:
        """What the host in a browser draws."""
        answers: list[dict[str, Any]] = []
        rows = zip(self.labels, self.views, self._same, self._changed, self.pictures, strict=True)
        for label, view, same, changed, pictures in rows:
            payload = pack(view, EXTRA_BUDGET // len(self.views)) | {"changed": sorted(changed)}
            answers.append({"label": clean(label), "payload": payload, "same": same, "pictures": list(pictures)})
        if self.scale == "shared":
            _share_scales([one["payload"] for one in answers])
        return {"answers": answers, "notes": [clean(note) for note in self.notes]}

    def _static(self) -> Twofold | None:
        """The answers' pictures one below the other; None without matplotlib."""
        found = [picture for picture in map(overview_picture, self.views) if picture is not None]
        return stacked(found) if found else None


def _share_scales(payloads: Sequence[dict[str, Any]]) -> None:
    """Let the colours of the same reading end at the same number in all answers."""
    alike: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for payload in payloads:
        for reading in (payload, *payload["readings"]):
            alike[tuple(reading[name] for name in ("name", "layer", "heads", "sinks"))].append(reading)
    for readings in alike.values():
        tops = {new: max(each[own] for each in readings) for own, new in (("scale", "top"), ("totalScale", "totalTop"))}
        for reading in readings:
            reading.update(tops)


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
