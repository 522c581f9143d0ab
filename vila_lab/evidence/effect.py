"""What an answer loses when its pictures are painted over: the absolute effect, in log-probability. Knows features, no shares.

Shares always sum to 1, also over pictures that tell nothing. What is lost when they show nothing is a number that can be zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..attribution.coalitions import Choice, Feature, evaluate
from ..attribution.features import picture_features
from ..engine.replay import Replay
from ..engine.target import Target

PAINT = "grey"
"""What pictures are painted over in. Taking their tokens away as well (baseline "remove") leaves the model with a question about
pictures and no picture, which it never met: on the embedded model that tells answers about blank pictures from others worse (area
under the curve 0.85 for naming, against 0.96)."""


GRAINS = 448  # along the longer side of noise: of finer ones the model's own shrinking would leave grey


@dataclass(frozen=True)
class Effect:
    """What each token of a target loses when pictures are painted over.

    Attributes
    ----------
    logprobs : (rows,) array
        Natural log-probability of each token as it was asked.
    lost : (1 + pictures, rows) array
        What is lost of it, in nats, when all pictures are painted over, and when each is. Below zero: it became more probable.
    lost_to_noise : (1 + pictures, rows) array
        The same with noise in their place.

    Examples
    --------
    >>> lost = np.array([[4.0, 1.0], [0.0, 0.1]])  # of two tokens; one picture that hardly matters alone
    >>> found = Effect(np.log([0.5, 0.9]), lost, lost_to_noise=lost + 1)
    >>> found.lost.sum(1).tolist(), round(found.weight, 1)
    ([5.0, 0.1], 2.9)
    >>> found = Effect(np.log([0.5, 0.9]), lost, lost_to_noise=lost / 100)
    >>> round(found.painted_weight, 1), round(found.weight, 1)
    (2.9, 0.0)
    """

    logprobs: NDArray[np.float64]
    lost: NDArray[np.float64]
    lost_to_noise: NDArray[np.float64]

    @property
    def painted_weight(self) -> float:
        """The largest loss, each token's weighed with its probability: p log(p / q), its own term of the Kullback-Leibler divergence.

        What the model half guessed weighs half: a guess about a blank picture is another guess about a grey one.
        """
        return float(self._weighed(self.lost).max())

    @property
    def weight(self) -> float:
        """The same where of grey and noise the one counts that costs less: what the model also says of noise rests on no content.

        A model that was taught to name things names something in noise, surely, and something else in grey. On the embedded model
        the area under the curve against answers about blank and noise pictures is 0.97 by this, 0.89 by grey alone.
        """
        return float(np.minimum(self._weighed(self.lost), self._weighed(self.lost_to_noise)).max())

    def _weighed(self, lost: NDArray[np.float64]) -> NDArray[np.float64]:
        return lost @ np.exp(self.logprobs)


def effect(replay: Replay, target: Target) -> Effect:
    """What a target loses without the contents of the pictures; the token that ended the answer is left out.

    Costs 3 + 2 pictures forwards, shared prefixes once.
    """
    rows = [k for k, row in enumerate(target.rows) if not row.stop] or list(range(len(target.rows)))
    features = _with_noise(replay, picture_features(replay, PAINT))
    count = len(features)
    choices: list[Choice] = [(0,) * count]
    for paint in (1, 2):
        choices += [(paint,) * count, *(tuple(paint * (k == one) for k in range(count)) for one in range(count))]
    with replay.lock:
        scores = evaluate(replay, features, choices, target)[:, rows]
    lost, lost_to_noise = np.split(scores[0] - scores[1:], 2)
    return Effect(scores[0], lost, lost_to_noise)


def _with_noise(replay: Replay, features: list[Feature]) -> list[Feature]:
    """One more option of each picture: noise of its size, always the same."""
    rng = np.random.default_rng(0)
    noisy = replay.with_pictures({k: _noise(image.size, rng) for k, image in enumerate(replay.prompt.images)}).features
    return [replace(each, options=(*each.options, noisy[each.positions])) for each in features]


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Grains in colours of their own: pixels, or squares of them in a large picture, which a model sees shrunk."""
    width, height = (max(1, round(side * min(1.0, GRAINS / max(size)))) for side in size)
    grains = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return grains.resize(size, Image.Resampling.NEAREST)
