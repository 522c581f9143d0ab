"""Every experiment on an answer, by its name: what it takes, and what it gives. Knows no session and no reader of results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .attribution.registry import attribute
from .attribution.vision import vision_attention
from .edits.flow import flow
from .edits.head_patch import patch_heads
from .edits.leakage import causal_leakage, leakage
from .edits.redirect import redirect
from .edits.scan import patch_scan
from .engine.replay import Replay
from .errors import OptionError
from .evidence import evidence, metric_card
from .evidence.baselines import random_weights_map
from .options import check_types, nearest

ExperimentName: TypeAlias = Literal[
    "attribute",
    "evidence",
    "metric_card",
    "random_weights_map",
    "flow",
    "leakage",
    "causal_leakage",
    "patch_scan",
    "patch_heads",
    "redirect",
    "vision_attention",
]


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes
    ----------
    name : str
    function
        Takes a `Replay`, and options.
    """

    name: str
    function: Callable[..., Any]

    @property
    def sentence(self) -> str:
        """What it tells."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its options; the help of `function` says what they are."""
        found = list(inspect.signature(self.function).parameters.items())[1:]
        return dict(found)

    @property
    def result(self) -> str:
        """The type of what it gives."""
        return str(inspect.signature(self.function).return_annotation)

    def check(self, options: Mapping[str, Any]) -> None:
        """Compare options with its signature.

        Raises
        ------
        OptionError
            If there is no such option, a plain one has another type, or one is missing.
        """
        takes_more = any(each.kind is each.VAR_KEYWORD for each in self.parameters.values())
        known = [name for name, each in self.parameters.items() if each.kind is not each.VAR_KEYWORD]
        for name in options:
            if name not in known and not takes_more:
                raise OptionError(
                    f"{self.name} has no option {name!r}{nearest(name, known)}; it has {', '.join(known) or 'none'}"
                )
        check_types(self.function, {name: value for name, value in options.items() if name in known})
        missing = [
            name for name in known if self.parameters[name].default is inspect.Parameter.empty and name not in options
        ]
        if missing:
            raise OptionError(f"{self.name} needs {', '.join(missing)}")


EXPERIMENTS: Mapping[str, Experiment] = {
    function.__name__: Experiment(function.__name__, function)
    for function in (
        attribute,
        evidence,
        metric_card,
        random_weights_map,
        flow,
        leakage,
        causal_leakage,
        patch_scan,
        patch_heads,
        redirect,
        vision_attention,
    )
}
"""`attribute` stands for all methods of `vila_lab.methods`. `order_test` and `rank_heads` ask questions of their own instead of
looking at one that was asked; see `vila_lab.evidence`."""


def experiment(replay: Replay, name: str, **options: Any) -> Any:
    """Run an experiment.

    Parameters
    ----------
    replay
        The question.
    name
        A name in `EXPERIMENTS`.
    options
        The experiment's own: ``EXPERIMENTS[name].parameters``, which the help of its function explains.

    Raises
    ------
    OptionError
        If the name or an option is unknown; the message lists those there are.

    Examples
    --------
    >>> EXPERIMENTS["flow"].result, list(EXPERIMENTS["redirect"].parameters)
    ('Flow', ['image', 'strength', 'heads', 'layers', 'controls', 'seed'])
    """
    if name not in EXPERIMENTS:
        raise OptionError(f"unknown experiment {name!r}{nearest(name, EXPERIMENTS)}; known: {', '.join(EXPERIMENTS)}")
    chosen = EXPERIMENTS[name]
    chosen.check(options)
    return chosen.function(replay, **options)
