"""The words that attention is talked about in, each drawn from an answer. Knows an answer's public methods, and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..options import nearest
from ..pointing import WhichTokens, first_token
from .drawings import Chip, chance_bars, chips, looks, patch_grid, row_of_attention, steps_in_nats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..answer import Answer

Drawing: TypeAlias = "Callable[[Answer, int], Axes]"


def show_word(answer: Answer, word: str, token: WhichTokens = 0) -> Axes:
    """Draw what a word means, with the numbers of an answer.

    Parameters
    ----------
    answer
        To a question about one picture or more. ``"patch"`` and ``"nat"`` run its model, the others only look.
    word
        One of `WORDS`.
    token
        Which token of the answer serves as the example: counted from 0, or a word that was said; of several the first.

    Returns
    -------
    matplotlib.axes.Axes
        As a notebook cell's last line they show their figure.

    Raises
    ------
    OptionError
        If there is no drawing of that word, no such token, no picture in the question, or nothing that it could be drawn from.
    CaptureError
        If there is no model for ``"patch"`` and ``"nat"``, or queries and keys were released.

    Examples
    --------
    >>> import vila_lab
    >>> from vila_lab.teaching import show_word
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "m.png", "What is in image 1?"])
    >>> show_word(answer, "log-probability").get_xlabel()
    'log-probability in nats: the natural logarithm of the probability'
    """
    if word not in WORDS:
        raise OptionError(f"there is no drawing of {word!r}{nearest(word, WORDS)}; there are: {', '.join(WORDS)}")
    if not answer.images:
        raise OptionError(f"{word!r} is drawn from an answer about a picture, and this question has none")
    return WORDS[word](answer, first_token(token, answer.tokens))


def _token(answer: Answer, token: int) -> Axes:
    return chips(_prompt_chips(answer), [Chip(each.text) for each in answer.tokens])


def _patch(answer: Answer, token: int) -> Axes:
    picture = _most_read(answer, token)
    positions = answer.token_map.positions(f"image_{picture + 1}")
    patches = answer.vision_attention(picture).heatmap.shape
    return patch_grid(answer.images[picture], picture, answer.token_map.box[positions], patches)


def _attention(answer: Answer, token: int) -> Axes:
    title = f"one row of attention: where the model looked when it chose {_said(answer, token)}"
    return row_of_attention(answer.token_map, answer.mean_attention()[token], title)


def _head(answer: Answer, token: int) -> Axes:
    weights = answer.attention().to_numpy()[token]  # (L, H, T)
    shares = weights @ _pictures(answer)  # (L, H, images)
    layer = int(shares.std(1).sum(-1).argmax())  # where heads differ most there is most to see
    heads = {f"head {head}": row for head, row in enumerate(weights[layer])}
    title = f"the {len(heads)} heads of layer {layer}, when {_said(answer, token)} was chosen"
    return looks(answer.images, answer.token_map, heads, title)


def _layer(answer: Answer, token: int) -> Axes:
    layers = {f"layer {layer}": row for layer, row in enumerate(answer.layer_means()[token])}
    title = f"each layer, mean over its heads, when {_said(answer, token)} was chosen"
    return looks(answer.images, answer.token_map, layers, title)


def _log_probability(answer: Answer, token: int) -> Axes:
    found = [(text, logprob) for text, _, logprob in answer.tokens[token].alternatives]
    if not found:
        raise OptionError(
            "'log-probability' is drawn from what else could have come, and logprobs=0 kept none: ask again"
        )
    return chance_bars(found, f"what could have come in place {token + 1} of the answer")


def _nat(answer: Answer, token: int) -> Axes:
    before = answer.tokens[token].logprob
    lost = answer.attribute("leave_one_out", token=token).total().filter(like="image_").to_numpy()
    after = {f"without picture {k}": before - float(loss) for k, loss in enumerate(lost, 1)}
    return steps_in_nats({"with all pictures": before, **after}, f"how probable {_said(answer, token)} is")


def _sink(answer: Answer, token: int) -> Axes:
    weights = answer.attention().to_numpy()  # (tokens, L, H, T)
    others = np.delete(weights, answer.sinks, axis=-1).max(-1)
    stands_out = weights[..., answer.sinks].max(-1) - others
    at, layer, head = map(int, np.unravel_index(stands_out.argmax(), stands_out.shape))
    title = f"where a sink stands out most: layer {layer}, head {head}, when {_said(answer, at)} was chosen"
    return row_of_attention(answer.token_map, weights[at, layer, head], title, sinks=answer.sinks)


WORDS: Mapping[str, Drawing] = {
    "token": _token,
    "patch": _patch,
    "attention": _attention,
    "head": _head,
    "layer": _layer,
    "log-probability": _log_probability,
    "nat": _nat,
    "sink": _sink,
}
"""What draws each word, in the order in which a newcomer meets them."""


def _prompt_chips(answer: Answer) -> list[Chip]:
    """What the user gave, in order: words one by one, and each picture as one chip for all of its tokens."""
    tokens, found = answer.token_map, []
    for position in np.sort(np.concatenate([tokens.positions("text"), tokens.positions("images")])):
        picture = int(tokens.picture[position])
        if picture < 0:
            start, stop = tokens.span[position]
            found.append(Chip(tokens.text[start:stop]))
        elif not found or found[-1].picture != picture:
            found.append(Chip("", picture, len(tokens.positions(f"image_{picture + 1}"))))
    return found


def _pictures(answer: Answer) -> NDArray[np.float32]:
    """Which positions are a picture's.  # (T, images)"""
    return answer.token_map.indicator([f"image_{k + 1}" for k in range(len(answer.images))])


def _most_read(answer: Answer, token: int) -> int:
    return int((answer.mean_attention()[token] @ _pictures(answer)).argmax())


def _said(answer: Answer, token: int) -> str:
    text = answer.tokens[token].text
    return f"‘{text.strip()}’" if text.strip() else "the end of the answer"
