"""Redirection: ask again with heads steered to another picture, and see whether the answer follows. Knows no statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..engine.record import Record
from ..engine.replay import Replay
from ..engine.request import Request
from ..pointing import WhichPicture, picture_index
from .edges import EdgeEdit
from .where import Heads, Shape, in_words, resolve

if TYPE_CHECKING:
    import pandas as pd

STRENGTH = 8.0  # in nats: an edge's weight grows by a factor of up to 3,000


class Told(Protocol):
    """An answer, as a record or in a reader's hand."""

    @property
    def text(self) -> str: ...
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

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> found = lab.redirect(lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"]), image="image_1", heads=None)
    >>> found.image, found.before.text, found.changed == (found.after.text != found.before.text)
    (0, 'Microsoft.', True)
    >>> found.share_after > found.share_before
    True
    """

    before: A
    after: A
    image: int
    share_before: float
    share_after: float

    @property
    def changed(self) -> bool:
        """Whether the answer's words changed."""
        return self.before.text != self.after.text

    def __repr__(self) -> str:
        return (
            f"Redirection({self.before.text!r} -> {self.after.text!r}, attention on image_{self.image + 1} "
            f"{self.share_before:.0%} -> {self.share_after:.0%})"
        )


def redirect(
    replay: Replay, image: WhichPicture, *, strength: float = STRENGTH, heads: Heads = "routing"
) -> Redirection[Record]:
    """Ask an answer's question again while heads are steered to a picture.

    Parameters
    ----------
    image
        The picture, counted from 0, or by name: "image_1".
    strength
        See `Session.steer`.
    heads
        The heads that are steered: a set's name, (layer, head) pairs, or None for all.

    Returns
    -------
    Redirection

    Notes
    -----
    Heads that show where a model looks need not steer it. On 60 drawn scenes (``benchmarks/edits.py``) the embedded model
    named what the other picture shows in 3 % with its routing heads at strength 16, in 2 % with as many random heads, and in
    48 % with all heads of its last two layers.

    Raises
    ------
    OptionError
        If there is no such picture or head set.
    NoEffect
        If steering changes no logit.
    """
    number = picture_index(image, replay.token_map.n_pictures)
    shape = Shape.of(replay.family, replay.head_sets)
    where = resolve(shape, heads=heads)
    edit = EdgeEdit(f"image_{number + 1} -> answer", where, float(strength), in_words(where, shape, heads))
    room = replay.family.context_length - replay.prompt_length
    longest = min(room, 2 * len(replay.said) + 8)  # a steered model may lose the thread and never stop
    after = replay.engine.answer(Request(replay.prompt, replay.options, max_new_tokens=longest, edits=(edit,)))
    return Redirection(replay.record, after, number, *(_share(each, number) for each in (replay.record, after)))


def _share(record: Record, image: int) -> float:
    return float(record.ledger()[f"image_{image + 1}"].iloc[record.rows_of()].mean())
