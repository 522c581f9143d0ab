"""What an NVILA prompt may be told beyond its texts and pictures. Knows no prompt and no model, and imports quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from vila_lab.errors import OptionError
from vila_lab.options import check_types, nearest

ASPECT_RATIOS = ("resize", "pad", "dynamic")
"""Ways of cutting that any tower of the family can take; "dynamic_s2" needs one that was built for it."""


@dataclass(frozen=True)
class NVILAOptions:
    """Options of `ask` that are this family's own. One with a ``help`` is an option of the command line too.

    Attributes
    ----------
    conv_mode : str
        Conversation template: auto, vicuna_v1, llama_3, hermes-2 or plain.
    tile_all_images : bool
        Cut every picture into tiles where the model does so for a single one; the reference does not.
    tile_first : bool
        Cut the first picture so, and no other: a conversation that began with one picture goes on as it was.

    image_aspect_ratio : str, optional
        How a picture is cut, instead of the checkpoint's own way: "resize", "pad" or "dynamic".

    Raises
    ------
    OptionError
        If a value has another type, or is unknown.
    """

    conv_mode: str = field(
        default="auto", metadata={"short": "-c", "help": "auto (default), vicuna_v1, llama_3, hermes-2 or plain"}
    )
    tile_all_images: bool = False
    tile_first: bool = False
    image_aspect_ratio: str | None = None

    def __post_init__(self) -> None:
        check_types(NVILAOptions, vars(self))
        if self.image_aspect_ratio not in (None, *ASPECT_RATIOS):
            known = ", ".join(ASPECT_RATIOS)
            raise OptionError(
                f"image_aspect_ratio {self.image_aspect_ratio!r} is unknown{nearest(self.image_aspect_ratio, ASPECT_RATIOS)}; choose one of {known}"
            )
