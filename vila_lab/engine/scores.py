"""Log-probability and best alternatives of every generated token, read while generating. Knows no pictures.

One row of logits is held at a time, so a long answer from a large vocabulary costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..errors import NotANumber
from ..tokens import Alternative


class TokenScores(LogitsProcessor):
    """A logits processor that changes nothing and remembers.

    It must stand behind the processors that forbid tokens and before those that reshape the distribution for sampling
    (transformers puts a processor given to ``generate`` there), so the probabilities are the model's own.

    Parameters
    ----------
    best
        How many alternatives to keep.
    may_break
        Let logits of NaN pass and note the first token's number in `broken_at`, as an edit may be meant to do that.

    Raises
    ------
    NotANumber
        While generating, where the model's logits are NaN and that is not expected.
    """

    def __init__(self, best: int = 5, *, may_break: bool = False) -> None:
        self._best = best
        self._may_break = may_break
        self.broken_at: int | None = None
        self._logprobs: Tensor | None = None
        self._chosen: list[Tensor] = []
        self._values: list[Tensor] = []
        self._ids: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._logprobs is not None:
            self._chosen.append(self._logprobs[input_ids[0, -1]])
        self._logprobs = torch.log_softmax(scores[0].float(), -1)  # (V,)
        if self.broken_at is None and bool(self._logprobs.isnan().any()):  # infinity in the scores ends here too
            self.broken_at = len(self._values)
        if self.broken_at is not None and not self._may_break:
            raise NotANumber(
                f"the model's logits are no numbers (NaN) at token {self.broken_at} of the answer: its weights are damaged, a hook "
                "broke it, or float16 overflowed; load it again, with dtype='float32' or 'bfloat16'"
            )
        values, ids = self._logprobs.topk(min(self._best, scores.shape[-1]))
        self._values.append(values)
        self._ids.append(ids)
        return scores

    def finish(self, ids: Sequence[int]) -> tuple[list[float], list[tuple[Alternative, ...]]]:
        """Per generated token its log-probability and the best alternatives, best first.

        A step more than tokens is left out: on some devices (mps) transformers notices the stop one step late.
        """
        if self._logprobs is None or not ids:
            return [], []
        chosen = torch.stack([*self._chosen, self._logprobs[ids[-1]]])[: len(ids)].tolist()
        values, best = (torch.stack(each)[: len(ids)].tolist() for each in (self._values, self._ids))
        self._logprobs = None
        return chosen, [
            tuple(Alternative(i, v) for v, i in zip(row_values, row_ids, strict=True))
            for row_values, row_ids in zip(values, best, strict=True)
        ]
