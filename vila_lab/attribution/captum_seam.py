"""The seam to captum: a prompt's features as an `InterpretableInput`, its score as a forward function. Knows no method.

captum is imported when something here is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.replay import Replay
from ..engine.target import Target
from ..families.base import Embedded
from ..interrupts import uninterrupted
from .coalitions import Choice, Feature, evaluate, evaluate_plainly


def captum_methods() -> Any:
    """captum's methods, imported whole: Ctrl-C inside the import would leave captum, and the pyplot that it needs, half there for good."""
    with uninterrupted():
        import captum.attr
    return captum.attr


def score_function(
    replay: Replay, target: Target, prompt: Callable[[Tensor], Embedded], bar: Any = None
) -> Callable[[Tensor], Tensor]:
    """A forward function for captum's gradient methods: a batch of inputs to (B, rows) scores."""

    def forward(batch: Tensor) -> Tensor:
        rows = []
        for item in batch:
            rows.append(replay.values(target, prompt(item)))
            if bar is not None:
                bar.update()
        return torch.stack(rows)

    return forward


def interpretable_input(features: Sequence[Feature]) -> Any:
    """The features as captum's `InterpretableInput`: a 1 for each that is as asked, a 0 for each that is left out.

    Its ``to_model_input`` gives the choices that `coalitions.evaluate` takes.

    Examples
    --------
    >>> import numpy as np
    >>> seen = interpretable_input([Feature("image_1", np.arange(2), (torch.zeros(2, 4), None))])
    >>> seen.values, seen.to_tensor(), seen.to_model_input(torch.zeros(1, 1))
    (['image_1'], tensor([[1.]]), [(1,)])
    """

    class PromptInput(captum_methods().InterpretableInput):  # type: ignore[misc]
        """Presence of each feature of a prompt."""

        n_itp_features = len(features)
        values = [feature.name for feature in features]  # noqa: RUF012 - captum's own convention

        def to_tensor(self) -> Tensor:
            return torch.ones(1, len(features))

        def to_model_input(self, perturbed_tensor: Tensor | None = None) -> list[Choice]:
            present = self.to_tensor() if perturbed_tensor is None else perturbed_tensor
            return [tuple(int(each == 0) for each in row) for row in present.tolist()]

    return PromptInput()


def presence_function(
    replay: Replay, target: Target, features: Sequence[Feature], *, shared: bool = True
) -> Callable[[Tensor], Tensor]:
    """A forward function for captum's perturbation methods: presence (B, features) to (B, rows) scores.

    Parameters
    ----------
    shared
        Whether the variants of a batch share their prefixes; False is one whole pass each.
    """
    seen = interpretable_input(features)
    run = evaluate if shared else evaluate_plainly

    def forward(presence: Tensor) -> Tensor:
        return torch.from_numpy(run(replay, features, seen.to_model_input(presence), target))

    return forward
