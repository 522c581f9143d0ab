"""The edits that send an answer to another picture, and the search for the layers where they do. Knows no result and no reader.

In a band of layers every row behind a picture loses the other pictures and looks at the one that is wanted, some nats more than it
would; and where the question names a picture by its number, no later row reads that number, in any layer. For a row that looks for
"picture 3" scores picture 1 not just lower: what stands out in picture 1 it may score lowest, so that more attention to picture 1 alone
is attention to its wrong places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..engine.band import Band
from ..engine.question import Question, Spec
from ..engine.record import Record
from ..engine.replay import Replay
from ..engine.request import Request
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import Where
from ..inputs.mentions import written
from ..progress import progress
from ..prompt import Prompt
from .edges import EdgeEdit
from .where import Heads, Shape, in_words, resolve

STRENGTH = 6.0  # nats, at which bands are compared: an edge's weight grows by a factor of up to 400
STRENGTHS = (2.0, 4.0, STRENGTH, 8.0, 12.0)
FEW = 3  # bands in which all strengths are tried
BLOCKS = 6  # into which a decoder's layers are cut at most; bands are runs of blocks
LONGEST = 64  # tokens of an answer to the question with its pictures exchanged


@dataclass(frozen=True, eq=False)
class Case:
    """A question, the picture to be steered to, and what is said when the two pictures are exchanged."""

    replay: Replay
    image: int
    from_image: int
    exchanged: Record


def edits_to(
    replay: Replay,
    image: int,
    from_image: int,
    band: Band,
    *,
    heads: Heads = None,
    close: bool = True,
    steer: bool = True,
) -> tuple[Spec, ...]:
    """The edits that send an answer from one picture to another.

    Parameters
    ----------
    heads
        Instead of all heads of the band's layers: (layer, head) pairs.
    close, steer
        Whether the other pictures are closed, and whether the one is steered to; the question's number is left out with them.
    """
    shape = Shape.of(replay.family, replay.head_sets)
    where = resolve(shape, list(band.layers)) if heads is None else resolve(shape, heads=heads)
    words = in_words(where, shape)
    found: list[EdgeEdit] = []
    number = written((part for part in replay.prompt.parts if isinstance(part, str)), from_image + 1)
    if close and number is not None and image != from_image:
        everywhere: Where = resolve(shape)
        found.append(EdgeEdit(f'"{number}" -> *', everywhere, -math.inf, in_words(everywhere, shape)))
    if close:
        others = [k for k in range(replay.token_map.n_pictures) if k != image]
        found += [EdgeEdit(f"image_{k + 1} -> *", where, -math.inf, words) for k in others]
    if steer:
        found.append(EdgeEdit(f"image_{image + 1} -> *", where, band.strength, words))
    return tuple(found)


def exchanged(replay: Replay, image: int, from_image: int) -> Record:
    """The same question with two pictures in each other's places."""
    pictures = list(replay.prompt.pictures)
    pictures[image], pictures[from_image] = pictures[from_image], pictures[image]
    prompt = replay.prompt.with_pictures(lambda k, picture: pictures[k])
    return ask_again(replay, prompt, longest=LONGEST)


def ask_again(replay: Replay, prompt: Prompt, edits: Sequence[Spec] = (), longest: int = 0) -> Record:
    """Another prompt under the options of a question; a steered model may lose the thread and never stop, so there is an end."""
    room = replay.family.context_length - replay.prompt_length
    most = min(room, max(longest, 2 * len(replay.said) + 8))
    return replay.engine.answer(Request(prompt, replay.options, max_new_tokens=most, edits=tuple(edits)))


def cases_of(replay: Replay, from_image: int, without: int | None = None) -> Iterator[Case]:
    """A question to each of its other pictures; with ``without`` that one is steered from, and never to.

    Where only one other picture is there, leaving it out leaves the question with both exchanged.
    """
    for image in range(replay.token_map.n_pictures):
        if image not in (from_image, without):
            yield Case(replay, image, from_image, exchanged(replay, image, from_image))
    if without is not None and without != from_image:
        other = exchanged(replay, without, from_image)
        yield Case(Replay(other, replay.engine), without, from_image, replay.record)


def find_band(cases: Sequence[Case], layers: int) -> Band:
    """The band in which most of the cases follow; of those alike the one that makes what is wanted most probable.

    All bands at one strength, then all strengths in the best few.

    Raises
    ------
    OptionError
        If no case says something else with the pictures exchanged.
    """
    useful = [case for case in cases if case.exchanged.text != case.replay.record.text]
    if not useful:
        raise OptionError(
            "the answer stays the same when its picture and another are exchanged, so nothing shows where steering would bite; "
            "give layers= and strength=, or heads="
        )
    every = bands(layers)
    tried: dict[Band, tuple[float, float]] = {}

    def best(count: int) -> list[Band]:
        return sorted(tried, key=lambda band: (*tried[band], -len(band.layers)), reverse=True)[:count]

    passes = (len(every) + FEW * (len(STRENGTHS) - 1)) * len(useful)
    with progress(passes, "passes", "looking for a band") as bar:

        def rate(band: Band) -> None:
            found = []
            for case in useful:
                found.append(follows(case, band))
                bar.update()
            tried[band] = float(np.mean([same for same, _ in found])), float(np.mean([nats for _, nats in found]))

        for chosen in every:
            rate(Band(chosen, STRENGTH))
        for few in best(FEW):
            for strength in STRENGTHS:
                if strength != STRENGTH:
                    rate(Band(few.layers, strength))
    found = best(1)[0]
    return replace(found, followed=tried[found][0], questions=len(useful))


def bands(layers: int) -> list[tuple[int, ...]]:
    """Runs of neighbouring layers: at least a sixth of them, and half at most, so that another band is there to compare with.

    >>> bands(4)
    [(0,), (0, 1), (1,), (1, 2), (2,), (2, 3), (3,)]
    >>> len(bands(6)), bands(28)[1]
    (15, (0, 1, 2, 3, 4, 5, 6, 7, 8))
    """
    edges = np.linspace(0, layers, min(BLOCKS, layers) + 1).round().astype(int).tolist()
    runs = [tuple(range(a, b)) for k, a in enumerate(edges) for b in edges[k + 1 :]]
    return [run for run in runs if len(run) <= max(1, layers // 2)]


def follows(case: Case, band: Band) -> tuple[bool, float]:
    """Whether the edited model says what is said with the pictures exchanged, word for word, and its log-probability (nats)."""
    replay = case.replay
    specs = edits_to(replay, case.image, case.from_image, band)
    ids = [token.id for token in case.exchanged.tokens]
    sequence = replay.followed(replay.embedded, ids[:-1])
    question = Question(replay.family, replay.prepared)
    with (
        replay.lock,
        torch.no_grad(),
        Editing(replay.model, [edit for spec in specs for edit in spec.resolve(question)]),
    ):
        logits = replay.decode(sequence, keep=range(replay.prompt_length - 1, len(sequence)))[0]
    wanted = torch.tensor(ids, device=logits.device)
    probable = torch.log_softmax(logits, -1).gather(1, wanted[:, None]).sum()
    return bool((logits.argmax(-1) == wanted).all()), float(probable)


def other_band(band: Band, layers: int) -> Band | None:
    """As many neighbouring layers that have nothing in common with a band's, or as many as there are; None where it has all.

    >>> other_band(Band((3, 4, 5), 6.0), 6).layers, other_band(Band((1, 2), 6.0), 6).layers
    ((0, 1, 2), (3, 4))
    """
    before, behind = tuple(range(band.layers[0])), tuple(range(band.layers[-1] + 1, layers))
    width = len(band.layers)
    longest = before[-width:] if len(before) >= min(width, len(behind) + 1) else behind[:width]
    return Band(longest, band.strength) if longest else None


def random_heads(band: Band, layers: int, heads: int, seed: int) -> list[tuple[int, int]]:
    """As many heads as a band has, from all other layers, or as many as there are.

    >>> len(random_heads(Band((1, 2), 6.0), 6, 4, seed=0)), random_heads(Band((0,), 6.0), 2, 2, seed=0)
    (8, [(1, 0), (1, 1)])
    """
    others = [(layer, head) for layer in range(layers) if layer not in band.layers for head in range(heads)]
    drawn = np.random.default_rng(seed).choice(len(others), min(len(others), len(band.layers) * heads), replace=False)
    return [others[k] for k in sorted(drawn.tolist())]
