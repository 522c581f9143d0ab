"""The keyword arguments of a processor's call, told apart and checked. Knows transformers' names, no text and no picture.

Annotations are evaluated here: transformers reads the groups from those of `NVILAProcessorKwargs`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.processing_utils import AudioKwargs, ProcessingKwargs, TextKwargs, VideosKwargs

from vila_lab.errors import OptionError
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessorKwargs
from vila_lab.options import nearest

__all__ = ["CallOptions", "NVILAProcessorKwargs", "TextOptions", "call_options", "is_call_option"]


class NVILAProcessorKwargs(ProcessingKwargs, total=False):
    """What a call may set, in groups or without them."""

    images_kwargs: NVILAImageProcessorKwargs  # type: ignore[misc]
    _defaults = {}  # type: ignore[misc]  # noqa: RUF012 - transformers' own convention; earlier versions want it


TEXT = frozenset(TextKwargs.__annotations__)
IMAGES = frozenset(NVILAImageProcessorKwargs.__annotations__)
ELSEWHERE = (frozenset(VideosKwargs.__annotations__) | frozenset(AudioKwargs.__annotations__)) - TEXT - IMAGES
GROUPS = {"text_kwargs": TEXT, "images_kwargs": IMAGES, "common_kwargs": frozenset({"return_tensors"})}
OTHER_GROUPS = ("videos_kwargs", "audio_kwargs")
KEPT_BY_TOKENIZER = ("padding", "truncation", "max_length")
REFUSED = {
    "text_pair": "a prompt is one text",
    "text_target": "a prompt is one text",
    "text_pair_target": "a prompt is one text",
    "stride": "a prompt is never cut into overlapping pieces",
    "return_overflowing_tokens": "a prompt is never cut into overlapping pieces",
    "is_split_into_words": "a prompt is one text",
    "return_token_type_ids": "the decoder takes none",
    "return_special_tokens_mask": "visual tokens are neither special nor text; see the token map",
    "return_text_replacement_offsets": "visual tokens have no characters of their own; see return_offsets_mapping",
    "sanitize_control_tokens": "control tokens that were typed are dealt with when a prompt is put together",
}
PADDINGS: Mapping[Any, str | None] = {
    True: "longest", "longest": "longest", "max_length": "max_length", False: None, "do_not_pad": None,
}  # fmt: skip
CUTS: Mapping[Any, bool] = {
    True: True, "longest_first": True, "only_first": True, False: False, "do_not_truncate": False,
}  # fmt: skip


@dataclass(frozen=True)
class TextOptions:
    """How texts become one batch.

    Attributes
    ----------
    padding : str or None
        "longest", "max_length", or None: each prompt keeps its length.
    truncation : bool
        Cut a prompt that is longer than `max_length`.
    max_length : int or None
        None: the tokenizer's own limit.
    """

    padding: str | None = "longest"
    truncation: bool = False
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str = "left"
    add_special_tokens: bool = True
    return_attention_mask: bool = True
    return_mm_token_type_ids: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False


@dataclass(frozen=True)
class CallOptions:
    """The options of one call: how texts are batched, what holds for the pictures, and the kind of tensors."""

    text: TextOptions
    images: dict[str, Any]
    return_tensors: str | None


def is_call_option(name: str) -> bool:
    """Whether a processor's call takes an option of this name, of its own or for the sake of other processors."""
    return name in TEXT | IMAGES | ELSEWHERE or name in GROUPS or name in OTHER_GROUPS


def call_options(tokenizer: Any, given: Mapping[str, Any]) -> CallOptions:
    """Sort the keyword arguments of a call.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        What it was loaded with (`padding`, `truncation`, `max_length`) holds where the call says nothing.
    given : mapping
        Flat names, ``text_kwargs``, ``images_kwargs`` and ``common_kwargs``.

    Raises
    ------
    OptionError
        A name is unknown, stands twice, or asks for what this processor cannot do.

    Warns
    -----
    UserWarning
        A name is only for videos or sound.
    """
    groups = {group: dict(given.get(group) or {}) for group in GROUPS}
    for group in OTHER_GROUPS:
        _ignore(given.get(group) or {})
    flat = {name: value for name, value in given.items() if name not in GROUPS and name not in OTHER_GROUPS}
    _ignore({name: value for name, value in flat.items() if name in ELSEWHERE})
    for name, value in flat.items():
        if name not in ELSEWHERE:
            _put(groups, name, value)
    for group, values in groups.items():
        if unknown := sorted(values.keys() - GROUPS[group]):
            raise OptionError(
                f"{group} has no option {unknown[0]!r}{nearest(unknown[0], GROUPS[group])}; it has {', '.join(sorted(GROUPS[group]))}."
            )
    kinds = [groups[name].pop("return_tensors") for name in GROUPS if "return_tensors" in groups[name]]
    kept = {name: tokenizer.init_kwargs[name] for name in KEPT_BY_TOKENIZER if name in tokenizer.init_kwargs}
    return CallOptions(
        _text_options(kept | groups["text_kwargs"]), groups["images_kwargs"], kinds[0] if kinds else "pt"
    )


def _put(groups: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    """A flat name goes to every group that knows it; given there too, it must not say something else."""
    homes = [group for group, names in GROUPS.items() if name in names]
    if not homes:
        raise OptionError(
            f"The processor has no option {name!r}{nearest(name, TEXT | IMAGES)}; it has {', '.join(sorted(TEXT | IMAGES))}."
        )
    for group in homes:
        if name in groups[group] and len(homes) == 1:
            raise OptionError(f"{name} stands both in {group} and beside it; give it once.")
        groups[group].setdefault(name, value)


def _ignore(values: Mapping[str, Any]) -> None:
    if names := sorted(name for name, value in values.items() if value is not None):
        warnings.warn(
            f"{', '.join(names)}: only for videos or sound, of which this processor knows none.", stacklevel=4
        )


def _text_options(given: Mapping[str, Any]) -> TextOptions:
    for name, reason in REFUSED.items():
        if given.get(name):
            raise OptionError(f"{name} cannot be had: {reason}.")
    known = {name: value for name, value in given.items() if value is not None and name in TextOptions.__annotations__}
    if "padding" in known:
        known["padding"] = _one_of(PADDINGS, "padding", known["padding"])
    if "truncation" in known:
        known["truncation"] = _one_of(CUTS, "truncation", known["truncation"])
    if known.get("padding_side", "left") not in ("left", "right"):
        raise OptionError(f"padding_side {known['padding_side']!r} is unknown; use 'left' or 'right'.")
    for name in ("max_length", "pad_to_multiple_of"):
        value = known.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} must be a whole number from 1 on, not {value!r}.")
    return TextOptions(**known)


def _one_of(values: Mapping[Any, Any], name: str, value: Any) -> Any:
    key = getattr(value, "value", value)
    if isinstance(key, bool | str) and key in values:
        return values[key]
    raise OptionError(f"{name}={value!r} is unknown; use one of {', '.join(repr(each) for each in values)}.")
