"""What an NVILA prompt may be told beyond its texts and pictures. Knows no prompt and no model, and imports quickly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from vila_lab.errors import OptionError
from vila_lab.options import check_types, nearest

ConversationMode: TypeAlias = Literal["auto", "vicuna_v1", "v1", "llama_3", "hermes-2", "plain"]
"""Conversation templates; "auto" is the checkpoint's own, and "v1" another name of "vicuna_v1"."""
AspectRatio: TypeAlias = Literal["resize", "pad", "dynamic"]
"""Ways of cutting that any tower of the family can take; "dynamic_s2" needs one that was built for it."""
KNOWN = {"conv_mode": get_args(ConversationMode), "image_aspect_ratio": get_args(AspectRatio)}


@dataclass(frozen=True)
class NVILAOptions:
    """Options of `ask` that are this family's own. One with a ``help`` is an option of the command line too.

    Attributes
    ----------
    conv_mode : {"auto", "vicuna_v1", "v1", "llama_3", "hermes-2", "plain"}
        Conversation template; "auto" is the checkpoint's own, and "v1" another name of "vicuna_v1".
    tile_all_images : bool
        Cut every picture into tiles where the model does so for a single one; the reference does not.
    tile_first : bool
        Cut the first picture so, and no other: a conversation that began with one picture goes on as it was.
    image_aspect_ratio : {"resize", "pad", "dynamic"}, optional
        How a picture is cut, instead of the checkpoint's own way.

    Raises
    ------
    OptionError
        If a value has another type, or is unknown.
    """

    conv_mode: ConversationMode = field(
        default="auto", metadata={"short": "-c", "help": "auto (default), vicuna_v1, llama_3, hermes-2 or plain"}
    )
    tile_all_images: bool = False
    tile_first: bool = False
    image_aspect_ratio: AspectRatio | None = None

    def __post_init__(self) -> None:
        check_types(NVILAOptions, vars(self))
        for name, values in KNOWN.items():
            value = getattr(self, name)
            if value not in (getattr(NVILAOptions, name), *values):  # the default of one is None
                raise OptionError(
                    f"{name} {value!r} is unknown{nearest(value, values)}; choose one of {', '.join(values)}"
                )
