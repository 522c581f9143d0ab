"""Redirection: ask again with heads steered to another picture, and see whether the answer follows. Knows no statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .patch import replay_of
from .where import Heads

if TYPE_CHECKING:
    from ..answer import Answer
    from ..session import Session

STRENGTH = 8.0  # in nats: an edge's weight grows by a factor of up to 3,000


@dataclass(frozen=True, eq=False)
class Redirection:
    """An answer, and the same question's answer under steering.

    Attributes
    ----------
    before, after : Answer
    to_image : int
        The picture steered to, counted from 1 as in the edge's name.
    share_before, share_after : float
        Its share of the answer's attention, from the ledger.
    """

    before: Answer
    after: Answer
    to_image: int
    share_before: float
    share_after: float

    @property
    def changed(self) -> bool:
        """Whether the answer's words changed."""
        return self.before.text != self.after.text

    def __repr__(self) -> str:
        return (
            f"Redirection({self.before.text!r} -> {self.after.text!r}, attention on image_{self.to_image} "
            f"{self.share_before:.0%} -> {self.share_after:.0%})"
        )


def redirect(
    session: Session, answer: Answer, to_image: int, *, strength: float = STRENGTH, heads: Heads = "routing"
) -> Redirection:
    """Ask an answer's question again while heads are steered to a picture.

    Parameters
    ----------
    to_image
        The picture, counted from 1 as in ``"image_2 -> answer"``.
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
    count = len(answer.images)
    if not 1 <= to_image <= count:
        raise OptionError(f"there is no image_{to_image}: this answer is about {count} pictures, counted from 1 here")
    if heads is None:
        heads = [(layer, head) for layer, row in session.cross_modal_layers.iterrows() for head in range(row["heads"])]
    replay = replay_of(answer)
    prompt: Any = replay.prompt
    room = session.family.context_length - replay.prompt_length
    with session.steer(f"image_{to_image}", strength, heads=heads):
        after = session.ask(
            prompt,
            max_new_tokens=min(room, 2 * len(answer.tokens) + 8),  # a steered model may lose the thread and never stop
            **vars(replay.options),
        )
    column = f"image_{to_image}"
    shares = [float(each.ledger()[column].iloc[each.rows_of()].mean()) for each in (answer, after)]
    return Redirection(answer, after, to_image, *shares)
