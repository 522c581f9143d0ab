"""All methods by name, and the one function that runs them. Knows what methods say of themselves, not how they work."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from ..engine.replay import Meter, Replay
from ..engine.target import Target, resolve
from ..errors import OptionError
from ..inputs.sources import shorten
from ..interrupts import keeps_gradients
from ..options import check_types, nearest
from ..picture import digest_of
from .method import Method, Outcome
from .result import Attribution, Cost

if TYPE_CHECKING:
    import pandas as pd

MethodName: TypeAlias = Literal[
    "attention",
    "attention_value",
    "rollout",
    "grad_x_attention",
    "relevancy",
    "input_x_gradient",
    "integrated_gradients",
    "leave_one_out",
    "shapley",
    "occlusion",
    "phrases",
    "logit_lens",
    "activation_map",
]
NAMES: tuple[str, ...] = get_args(MethodName)


LONGEST_OPTION = 60  # characters of an option's value in words


def find(name: str) -> Any:
    """The module of a method.

    Raises
    ------
    OptionError
        If there is none of that name; the message lists those there are.
    """
    if name not in NAMES:
        raise OptionError(f"unknown method {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
    return importlib.import_module(f".{name}", __package__)


def methods() -> pd.DataFrame:
    """Every method: what it measures, whether it is signed, what it costs, whether it takes a contrast, where it is from.

    The table prints whole, in a notebook and in a terminal, whatever pandas' settings are.

    Returns
    -------
    pandas.DataFrame
        A row per method, by its name.

    Examples
    --------
    >>> bool(methods().loc["leave_one_out", "signed"])
    True
    """
    import pandas as pd

    from .printed import printed_table

    found: list[Method] = [find(name).METHOD for name in NAMES]
    return printed_table()(
        {
            "measures": [method.sentence for method in found],
            "signed": [method.signed for method in found],
            "contrast": [method.contrast for method in found],
            "cost": [method.cost for method in found],
            "source": [method.source for method in found],
        },
        index=pd.Index(NAMES, name="method"),
    )


def defaults_of(name: str) -> dict[str, Any]:
    """The options of a method, and what they are where they are not given.

    >>> defaults_of("leave_one_out")
    {'baseline': 'remove', 'at': None, 'score': 'logprob'}
    """
    functions = find(name).attribute, attribute
    parameters = [each for function in functions for each in inspect.signature(function).parameters.values()]
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def attribute(
    replay: Replay,
    method: str,
    token: Any = None,
    contrast: str | None = None,
    *,
    at: int | None = None,
    score: str = "logprob",
    **options: Any,
) -> Attribution:
    """Run a method on a target.

    Parameters
    ----------
    replay
        The question, ready to be run again.
    method
        A name in `methods`.
    token, contrast, at, score
        See `target.resolve`.
    options
        The method's own; `Answer.attribute` lists those of all methods.

    Returns
    -------
    Attribution

    Raises
    ------
    OptionError
        If a name, a token, a word or an option is unknown.
    CaptureError
        If the model is gone, or gives no gradients to a method that needs them.
    """
    check_types(attribute, {"method": method, "contrast": contrast, "at": at, "score": score})
    module = find(method)
    _check_options(module, options)
    check_types(module.attribute, options)
    if contrast is not None and not module.METHOD.contrast:
        raise OptionError(f"{method} takes no contrast; those that do: {', '.join(_with_contrast())}")
    target = target_of(replay, token, contrast, at=at, score=score)
    asked = _in_words({"at": at, "score": score, **options}, defaults_of(method))
    return replace(attribute_target(replay, method, target, **options), options=asked)


@keeps_gradients
def attribute_target(replay: Replay, method: str, target: Target, **options: Any) -> Attribution:
    """`attribute` where the target is resolved and the options are checked."""
    module = find(method)
    with replay.lock:
        replay.meter = Meter()
        start = time.perf_counter()
        outcome: Outcome = module.attribute(replay, target, **options)
        seconds = time.perf_counter() - start
    return _result(replay, module.METHOD, target, outcome, seconds)


def target_of(
    replay: Replay, token: Any = None, contrast: str | None = None, *, at: int | None = None, score: str = "logprob"
) -> Target:
    """The target that `attribute` scores; see `target.resolve`."""
    tokenizer = replay.family.tokenizer

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    return resolve(replay.said, encode, token, contrast, at=at, score=score)


def _result(replay: Replay, about: Method, target: Target, outcome: Outcome, seconds: float) -> Attribution:
    token_map = replay.token_map.with_answer(target.length)
    values = np.zeros((len(target.rows), len(token_map)))
    values[:, : outcome.values.shape[1]] = outcome.values
    nan = "the scores are no numbers (NaN): the model computes none" if np.isnan(values).any() else ""
    meter = replay.meter
    plain = replay.prompt_length + max(len(each.fed) for each in target.passes)
    return Attribution(
        method=about.name,
        unit=about.unit,
        signed=about.signed,
        target=target.text,
        contrast=target.contrast,
        baseline=outcome.baseline,
        note="; ".join(note for note in (nan, target.note, outcome.note) if note),
        cost=Cost(meter.forwards, meter.backwards, round(meter.positions / plain, 3), seconds),
        values=values,
        token=tuple(row.number for row in target.rows),
        text=tuple(row.text for row in target.rows),
        stop=tuple(row.stop for row in target.rows),
        token_map=token_map,
        images=tuple(replay.prompt.images),
        mean=about.mean,
        covers_prompt=about.covers_prompt,
        features=outcome.features,
        feature_values=outcome.feature_values,
        feature_errors=outcome.feature_errors,
        checks=outcome.checks,
        extras=outcome.extras,
    )


def _check_options(module: Any, options: dict[str, Any]) -> None:
    known = list(defaults_of(module.METHOD.name))
    for name in options:
        if name not in known:
            raise OptionError(
                f"{module.METHOD.name} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}"
            )


def _in_words(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that are not as they would be if nothing were said."""
    words = {name: _in_a_word(value) for name, value in options.items()}
    return tuple(f"{name}={word}" for name, word in words.items() if word != _in_a_word(defaults[name]))


def _in_a_word(value: Any) -> str:
    """A plain value as it is typed; of any other, what it is."""
    if value is None or isinstance(value, bool | int | float | str | list | tuple):
        return shorten(repr(value), LONGEST_OPTION)
    which = f" {digest_of(value)[:6]}" if isinstance(value, Image.Image) else ""
    return f"<{type(value).__name__}{which}>"


def _with_contrast() -> list[str]:
    return [name for name in NAMES if find(name).METHOD.contrast]
