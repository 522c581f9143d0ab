"""The seam between vila_lab and a model family: what a family must tell. Knows no family.

A new family is one file here that implements `Family`, one line in `families.FAMILIES` and one test parameter.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from ..errors import OptionError
from ..options import nearest
from ..prompt import Prompt
from ..tokenmap import TokenMap
from .decoder import Components, Decoder
from .embedded import Embedded
from .patches import Patches, Read, Rule, in_tiles

__all__ = ["Components", "Embedded", "Family", "KnownFeatures", "LateInputs", "Prepared"]


class LateInputs(MutableMapping[str, Tensor]):
    """Model inputs, some of which are made when somebody takes one of them: pixels that nobody may need.

    Parameters
    ----------
    ready
        Those that are there.
    names
        Of the others.
    make
        Makes all the others.

    Examples
    --------
    >>> import torch
    >>> inputs = LateInputs({"input_ids": torch.arange(3)}, ("pixel_values",), lambda: {"pixel_values": torch.zeros(2)})
    >>> inputs.nbytes, len(inputs["pixel_values"]), inputs.nbytes
    (24, 2, 32)
    """

    def __init__(
        self, ready: Mapping[str, Tensor], names: Sequence[str], make: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self._ready = dict(ready)
        self._names = [*ready, *names]
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._ready and name in self._names:
            self._ready |= self._make()
        return self._ready[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        if name not in self._names:
            self._names.append(name)
        else:
            self[name]  # made first, so that it is not made later over what is put in its place
        self._ready[name] = value

    def __delitem__(self, name: str) -> None:
        self._ready.pop(name, None)
        self._names.remove(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def nbytes(self) -> int:
        """Bytes of those that are there."""
        return sum(value.nbytes for value in self._ready.values())


@dataclass(frozen=True)
class Prepared:
    """One prompt, ready for the model.

    Attributes
    ----------
    inputs
        Keyword arguments of the model's ``forward`` and ``generate``, on the model's device, batch of 1.
    token_map
        What each of the ``inputs["input_ids"].shape[1]`` positions is.
    options
        The family's own options of a prompt, everything automatic in them decided.
    contents : tuple of str
        For each picture what its features follow from, given the weights: its pixels, and how it is cut.
    pictures : tuple of PIL images
    notes : tuple of str
        What a reader must know of how it was laid out.
    """

    inputs: MutableMapping[str, Tensor]
    token_map: TokenMap
    options: Any
    contents: tuple[str, ...]
    pictures: tuple[Image.Image, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def identity(self) -> str:
        """Tells this prompt from every other: a hash of its tokens and of what its pictures are; no pixel is needed."""
        ids = self.inputs["input_ids"].cpu().numpy().tobytes()
        return hashlib.sha256(ids + "|".join(self.contents).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs that are there."""
        if isinstance(self.inputs, LateInputs):
            return self.inputs.nbytes
        return sum(value.nbytes for value in self.inputs.values())


class KnownFeatures(Protocol):
    """Features of pictures that were computed before, by `Prepared.contents`."""

    def features(self, content: str) -> Tensor | None:
        """(n, F), or None where they are not known."""
        ...

    def keep_features(self, content: str, features: Tensor) -> None:
        """Know them from now on; a tensor of its own, not part of another."""
        ...


class Family(Decoder, ABC):
    """A loaded model of one family, spoken to in vila_lab's terms."""

    options: ClassVar[type]
    """A frozen dataclass: what a prompt may be told in this family alone. Its fields are keyword arguments of `ask`."""
    pixels: ClassVar[str]
    """Which of the model's inputs holds the pictures' pixels."""
    tiles_are_whole: ClassVar[bool] = True
    """Whether ``pixels`` holds (tiles, 3, S, S), and the visual tokens of each tile cover all of it: then pixels have a token."""
    needs_no_picture: ClassVar[bool] = True
    """Whether it answers words alone."""
    box_tolerance: ClassVar[float] = 3.0
    """Pixels by which a place that changes a visual token may lie outside of its box."""
    switches_experts: ClassVar[bool] = False
    """Whether every position chooses experts: its output then jumps where the choice changes, and no gradient knows of a jump."""
    kept_in_full: ClassVar[tuple[str, ...]]
    """Modules that are not quantised: they are small, and visibly worse when they are."""
    tower: ClassVar[Rule] = in_tiles
    """The rule from the vision tower's patches to pixels; see `vila_lab.families.patches`."""
    first_reading: ClassVar[Mapping[str, Any]] = {}
    """Options under which the first picture of several is read as one that is alone, where that makes a difference."""

    processor: Any
    """The checkpoint's own."""
    notes: tuple[str, ...] = ()
    """What a reader of any of its answers must know."""
    trained_pictures: int | None = None
    """How many pictures a prompt had at most in training, where a checkpoint tells."""

    # -- whose checkpoint it is ------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this ``config.json`` is of this family."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Any, name: str, **given: Any) -> Family:
        """Load the checkpoint in a folder.

        Parameters
        ----------
        folder : Path
        name : str
            What errors call it.
        given
            Keyword arguments of transformers' ``from_pretrained``.
        """

    @classmethod
    def options_of(cls, given: Mapping[str, Any]) -> Any:
        """Keyword arguments of `ask` as this family's options.

        Raises
        ------
        OptionError
            If the family has no such option, or a value has the wrong type.
        """
        known = [each.name for each in fields(cls.options)]
        for name in given:
            if name not in known:
                raise OptionError(
                    f"there is no option {name!r}{nearest(name, known)}; the options of this model alone are {', '.join(known)}"
                )
        return cls.options(**given)

    @property
    @abstractmethod
    def context_length(self) -> int:
        """How many positions a prompt and its answer may have together."""

    # -- from a prompt to what the decoder sees ----------------------------------------------------------------------

    @abstractmethod
    def prepare(self, prompt: Prompt, options: Any = None) -> Prepared:
        """Inputs of the model's own forward, and the map of their positions; by default with the default options."""

    @abstractmethod
    def embed(self, prepared: Prepared, known: KnownFeatures | None = None) -> Embedded:
        """What the decoder is given of a prompt, each picture embedded by itself.

        Gradients reach the pixels, unless features are taken from, and given to, what is known.
        """

    @abstractmethod
    def pictures_features(
        self,
        pictures: Sequence[Image.Image],
        context: Prepared,
        number: int = 0,
        known: KnownFeatures | None = None,
    ) -> list[Tensor]:
        """`picture_features` of several pictures, embedded together where the family can."""

    def picture_features(self, picture: Image.Image, context: Prepared, number: int = 0) -> Tensor:
        """What a picture gives the decoder, by itself: `Embedded.features` at `TokenMap.rows_of` the picture.

        Parameters
        ----------
        picture
        context
            The prompt that it stands in, which decides how it is cut.
        number
            Which picture of the prompt it stands for, from 0.

        Returns
        -------
        Tensor (n, (1 + deep) * H)
        """
        return self.pictures_features([picture], context, number)[0]

    # -- inside the vision tower -------------------------------------------------------------------------------------

    @abstractmethod
    def alone(self, context: Prepared, number: int) -> Prepared:
        """A prompt whose picture 0 is one picture of another prompt, read as it is there; where that takes a second one, itself."""

    def patches(self, prepared: Prepared) -> Patches:
        """Where each patch of the vision tower stands in a prompt's pictures, in the order in which `embed` has them read."""
        read = Read(prepared.token_map, prepared.inputs, self.pixels, self.processor, self.model.config)
        return type(self).tower(read)

    def layers_read(self, count: int) -> int:
        """How many of so many layers of the vision tower reach the decoder; those behind may run, and nobody reads them."""
        wanted = getattr(self.model.config, "vision_feature_layer", None)
        named = [-1] if wanted is None else [wanted] if isinstance(wanted, int) else wanted
        return max(state % (count + 1) for state in named)  # of `count + 1` hidden states

    # -- answers -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def generation_config(self, options: Any) -> GenerationConfig:
        """Greedy decoding as the family's reference does it, with the stop tokens that belong to the options."""

    def text(self, ids: Sequence[int]) -> str:
        """The answer's text from its generated ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
