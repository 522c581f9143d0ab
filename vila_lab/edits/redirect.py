"""Redirection: ask again with the answer sent to another picture, controls beside it: does it follow? Knows no statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from PIL import Image

from ..attribution.registry import attribute
from ..engine.band import Band
from ..engine.record import Record
from ..engine.replay import Replay
from ..errors import OptionError
from ..pointing import WhichPicture, picture_index
from ..prompt import Picture
from .edges import EdgeEdit
from .steering import STRENGTH, Case, ask_again, cases_of, edits_to, exchanged, find_band, other_band, random_heads
from .where import Heads, Layers, Shape, in_words, resolve

if TYPE_CHECKING:
    import pandas as pd

BAND = "band"
BY_HAND = 8.0  # in nats, where heads are given: an edge's weight grows by a factor of up to 3,000
GREY = (127, 127, 127)


class Told(Protocol):
    """An answer, as a record or in a reader's hand."""

    @property
    def text(self) -> str: ...
    @property
    def edits(self) -> tuple[str, ...]: ...
    def ledger(self) -> pd.DataFrame: ...
    def rows_of(self, word: str | None = None) -> list[int]: ...


A = TypeVar("A", bound=Told)


@dataclass(frozen=True, eq=False)
class Redirection(Generic[A]):
    """An answer, and the same question's answer under steering.

    Attributes
    ----------
    before, after
        Records; answers where a session gives them.
    image : int
        The picture steered to, counted from 0.
    share_before, share_after : float
        Its share of the answer's attention, from the ledger.
    from_image : int or None
        The picture that the answer missed most when it was left out; None where heads were given, and nobody asked.
    wanted : str or None
        What is answered, without edits, when these two pictures are exchanged: what the steered answer should be.
    band : Band or None
        The layers and the strength, and on how many questions they were chosen; None where heads were given.
    controls : dict of str
        What is answered under the same edits elsewhere: in another band, in as many random heads of other layers, with a grey picture in
        place of the one steered to.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> found = lab.redirect(lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"]), image="image_1")
    >>> found.image, found.from_image, found.before.text, found.after.text, found.followed
    (0, 1, 'Microsoft.', 'Google.', True)
    >>> list(found.controls), found.changed, len(found.edits), found.share_after > found.share_before
    (['another band', 'random heads', 'a blank'], True, 3, True)
    """

    before: A
    after: A
    image: int
    share_before: float
    share_after: float
    from_image: int | None = None
    wanted: str | None = None
    band: Band | None = None
    controls: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the answer's words changed."""
        return self.before.text != self.after.text

    @property
    def followed(self) -> bool:
        """Whether the steered answer is, word for word, the one with the two pictures exchanged."""
        return self.wanted is not None and self.after.text == self.wanted

    @property
    def edits(self) -> tuple[str, ...]:
        """The edits that were made, in words."""
        return self.after.edits

    def __repr__(self) -> str:
        return (
            f"Redirection({self.before.text!r} -> {self.after.text!r}, attention on image_{self.image + 1} "
            f"{self.share_before:.0%} -> {self.share_after:.0%})"
        )

    def _repr_html_(self) -> str:
        told = [("before", self.before.text), (f"steered to image {self.image + 1}", self.after.text)]
        told += [] if self.wanted is None else [("wanted: pictures exchanged, no edits", self.wanted)]
        told += [(f"control: {name}", said) for name, said in self.controls.items()]
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(said)}</td></tr>" for name, said in told)
        edits = "".join(f"<li>{escape(label)}</li>" for label in self.edits)
        band = "" if self.band is None else f"<small>{escape(repr(self.band))}</small>"
        return f"<div><b>{escape(repr(self))}</b><table>{rows}</table><ul>{edits}</ul>{band}</div>"


def redirect(
    replay: Replay,
    image: WhichPicture,
    *,
    strength: float | None = None,
    heads: Heads = BAND,
    layers: Layers = None,
    controls: bool = True,
    seed: int = 0,
) -> Redirection[Record]:
    """Ask an answer's question again while it is sent to another picture, and controls beside it.

    Parameters
    ----------
    image
        The picture, counted from 0, or by name: "image_1".
    strength
        In nats; by default the band's (`Session.find_band`), or 8 where heads are given.
    heads
        "band", or by hand: a set's name, (layer, head) pairs, or None for all. By hand nothing is closed, and only the rows that choose
        the answer are steered.
    layers
        The band's layers, given instead of found.
    controls
        Whether the same is tried in another band, in as many random heads of other layers, and with a grey picture in this one's place.
    seed
        Of the random heads.

    Returns
    -------
    Redirection

    Notes
    -----
    In the band's layers every row behind a picture loses the other pictures and looks at this one more by the strength; where the
    question names the picture that it is about by a number, no later row reads that number (`vila_lab.edits.steering` says why). It
    takes leave-one-out and five answers, two without controls.

    A session without a band looks for one on the question itself, with other pictures exchanged than these two, where it has three or
    more. ``benchmarks/edits.py`` measures how often answers follow, beside controls and beside steering by hand, which is often too
    late: the words of the question have read the old picture by then.

    Raises
    ------
    OptionError
        If there is no such picture, layer or head set, no second picture, or no case from which a band could be found.
    NoEffect
        If an edit changes no logit.
    """
    number = picture_index(image, replay.token_map.n_pictures)
    if not isinstance(heads, str) or heads != BAND:
        return _by_hand(replay, number, BY_HAND if strength is None else float(strength), heads, layers)
    if replay.token_map.n_pictures < 2:
        raise OptionError("a redirection goes from one picture to another, and the prompt has only this one")
    shape = Shape.of(replay.family, replay.head_sets)
    source = missed_most(replay)
    band = _band(replay, number, source, strength, layers, shape)
    wanted = replay.record if source == number else exchanged(replay, number, source)
    longest = 2 * len(wanted.tokens) + 8
    after = ask_again(replay, replay.prompt, edits_to(replay, number, source, band), longest)
    shares = _share(replay.record, number), _share(after, number)
    tried = _controls(replay, number, source, band, longest, seed) if controls else {}
    return Redirection(replay.record, after, number, *shares, source, wanted.text, band, tried)


def missed_most(replay: Replay) -> int:
    """The picture without which the answer is least likely."""
    shares = attribute(replay, "leave_one_out").total()
    return picture_index(str(shares.idxmax()), replay.token_map.n_pictures)


def case_of(replay: Replay, number: int) -> list[Case]:
    """One redirection of a question to calibrate on, to each of its other pictures in turn as `number` grows; none where there is none."""
    pictures, source = replay.token_map.n_pictures, missed_most(replay)
    if pictures < 2:
        return []
    image = (source + 1 + number % (pictures - 1)) % pictures
    return [Case(replay, image, source, exchanged(replay, image, source))]


def _band(replay: Replay, image: int, from_image: int, strength: float | None, layers: Layers, shape: Shape) -> Band:
    """As given, the session's, or found on this question and never on what is asked of it."""
    known = replay.engine.band
    if layers is not None:
        chosen = tuple(resolve(shape, layers))
        default = STRENGTH if known is None else known.strength
        return Band(chosen, default if strength is None else float(strength))
    if known is None:
        known = find_band(list(cases_of(replay, from_image, without=image)), shape.layers)
    return known if strength is None else Band(known.layers, float(strength))


def _by_hand(replay: Replay, image: int, strength: float, heads: Heads, layers: Layers) -> Redirection[Record]:
    shape = Shape.of(replay.family, replay.head_sets)
    where = resolve(shape, layers, heads)
    edit = EdgeEdit(f"image_{image + 1} -> answer", where, strength, in_words(where, shape, heads))
    after = ask_again(replay, replay.prompt, [edit])
    return Redirection(replay.record, after, image, _share(replay.record, image), _share(after, image))


def _controls(replay: Replay, image: int, from_image: int, band: Band, longest: int, seed: int) -> dict[str, str]:
    """What is answered under the same edits where they should not work; what cannot be tried here is not in it."""
    shape = Shape.of(replay.family, replay.head_sets)
    other = other_band(band, shape.layers)
    drawn = random_heads(band, shape.layers, shape.heads, seed)
    picture = Picture.of(Image.new("RGB", replay.prompt.images[image].size, GREY))
    blank = replay.prompt.with_pictures(lambda k, given: picture if k == image else given)
    tried = {
        "another band": None if other is None else (replay.prompt, edits_to(replay, image, from_image, other)),
        "random heads": (replay.prompt, edits_to(replay, image, from_image, band, heads=drawn)) if drawn else None,
        "a blank": (blank, edits_to(replay, image, from_image, band)),
    }
    return {name: ask_again(replay, *each, longest).text for name, each in tried.items() if each is not None}


def _share(record: Record, image: int) -> float:
    return float(record.ledger()[f"image_{image + 1}"].iloc[record.rows_of()].mean())
