"""Log-probability and best alternatives of a token, from the row of scores that chose it. Knows no model and no text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tokens import Alternative

BEST = 5


@dataclass(frozen=True)
class Scores:
    """What the model thought of the next token, before any temperature.

    Attributes
    ----------
    logprobs : Tensor (V,)
        Natural logarithms, where they were computed.
    best : tuple of Alternative
        The most probable tokens, best first.
    is_broken : bool
        Whether one of them is no number; infinity among the scores ends here too.
    """

    logprobs: Tensor
    best: tuple[Alternative, ...]
    is_broken: bool

    @classmethod
    def of(cls, scores: Tensor, best: int = BEST) -> Scores:
        """Read one row of scores; one copy from the device.  # (V,)

        >>> row = Scores.of(torch.tensor([0.0, 1.0, -torch.inf]))
        >>> [each.id for each in row.best], row.is_broken
        ([1, 0, 2], False)
        """
        logprobs = torch.log_softmax(scores.float(), -1)
        values, ids = logprobs.topk(min(best, len(logprobs)))
        # float32 holds every id below 2**24.
        found = torch.cat([values, ids.float(), logprobs.isnan().any()[None].float()]).tolist()
        count = len(values)
        pairs = zip(found[count : 2 * count], found[:count], strict=True)
        return cls(logprobs, tuple(Alternative(int(token), value) for token, value in pairs), bool(found[-1]))
