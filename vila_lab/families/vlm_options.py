"""What a prompt may be told in the families that transformers has classes for. Knows no torch, so that the command line can list it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from ..errors import OptionError
from ..options import nearest

OwnMode: TypeAlias = Literal["auto"]
Decoding: TypeAlias = Literal["greedy", "checkpoint"]
PictureOrder: TypeAlias = Literal["given", "template"]
KNOWN = {
    "conv_mode": get_args(OwnMode),
    "generation_config": get_args(Decoding),
    "picture_order": get_args(PictureOrder),
}


@dataclass(frozen=True)
class VLMOptions:
    """Options of `Session.ask` for these models.

    Attributes
    ----------
    conv_mode : {"auto"}
        The conversation is always the one of the checkpoint's own chat template.
    generation_config : {"greedy", "checkpoint"}
        "checkpoint" lets the penalties of its generation_config.json change the scores, and its temperature, top_p and top_k
        hold where ``do_sample=True`` leaves them open.
    picture_order : {"given", "template"}
        "template" leaves pictures where the chat template writes them, which in some families is before all words.

    Raises
    ------
    OptionError
        If a value is not one of these.
    """

    conv_mode: OwnMode = "auto"
    generation_config: Decoding = field(
        default="greedy", metadata={"help": "checkpoint: with the penalties of its generation_config.json"}
    )
    picture_order: PictureOrder = field(
        default="given",
        metadata={"help": "template: pictures where the chat template writes them, not where they are given"},
    )

    def __post_init__(self) -> None:
        for name, values in KNOWN.items():
            value = getattr(self, name)
            if value not in values:
                raise OptionError(
                    f"{name} {value!r} is unknown{nearest(value, values)} for this model; known: {', '.join(values)}"
                )
