"""Every option of a question that some families alone take, as one type for signatures. Knows names and values, and imports no torch.

Each family checks its own; here they stand together for readers, editors and Tab.
"""

from __future__ import annotations

from typing import TypedDict

from ..nvila.prompt_options import AspectRatio, ConversationMode
from .vlm_options import Decoding, PictureOrder

__all__ = ["FamilyOptions"]


class FamilyOptions(TypedDict, total=False):
    """Options of `Session.ask` that depend on the model's family.

    A family that is not in this package may take others; they are given in the same way.

    Attributes
    ----------
    conv_mode : {"auto", "vicuna_v1", "v1", "llama_3", "hermes-2", "plain"}
        All families; other ones than NVILA take "auto" alone. The conversation template, by default the checkpoint's own.
    tile_all_images : bool
        NVILA alone. Cut every picture into tiles where the model does so for a single one; the reference does not.
    tile_first : bool
        NVILA alone. Cut the first picture so, and no other: a conversation that began with one picture goes on as it was.
    image_aspect_ratio : {"resize", "pad", "dynamic"} or None
        NVILA alone. How a picture is cut; None, the default, in the checkpoint's own way.
    generation_config : {"greedy", "checkpoint"}
        All families but NVILA. "checkpoint" lets the penalties of its generation_config.json change the scores, and its
        temperature, top_p and top_k hold where ``do_sample=True`` leaves them open; by default "greedy".
    picture_order : {"given", "template"}
        All families but NVILA. "template" leaves pictures where the chat template writes them, which in some families is before
        all words; by default they stand where they are "given".

    Examples
    --------
    >>> import vila_lab
    >>> options: FamilyOptions = {"conv_mode": "vicuna_v1"}
    >>> vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"], **options).record.options["conv_mode"]
    'vicuna_v1'
    """

    conv_mode: ConversationMode
    tile_all_images: bool
    tile_first: bool
    image_aspect_ratio: AspectRatio | None
    generation_config: Decoding
    picture_order: PictureOrder
