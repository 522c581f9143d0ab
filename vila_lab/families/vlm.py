"""What all vision-language models of transformers share behind the seam: prompt and features. Knows no family.

The processor itself says what each picture became (its replacement offsets), ``config.image_token_id`` which of these rows are
visual, and `get_image_features` what they hold. A family adds a rule from visual rows to pixels, and what else it cannot know.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig

from ..errors import CheckpointError, PromptError
from ..inputs.remarks import TRANSPARENCY
from ..nvila.limits import check_plain_files
from ..prompt import Picture, Prompt
from ..upstream import is_quantized
from . import name_of
from .base import Embedded, Family, KnownFeatures, Prepared
from .geometry import Rows, Seen
from .laid_out import LaidOut
from .processing import load_processor
from .rendering import Message, Rendered, render
from .verified import note_of
from .vlm_decoder import VLMDecoder
from .vlm_options import VLMOptions

UNKNOWN_CUT = "this checkpoint cuts pictures in a way that vila_lab does not know"


class VLMFamily(VLMDecoder, Family):
    """A loaded checkpoint of a family that transformers has classes for.

    A family states what follows; everything else is the same for all.

    Attributes
    ----------
    model_types : tuple of str
        Of the checkpoints it reads.
    processor_class : str
        Of a checkpoint that does not name its own.
    packages : tuple of str
        Without which its processor cannot be built.
    rows : callable
        The rule from a picture's visual rows to pixels; see `vila_lab.families.geometry`.
    marker : str
        Attribute of the processor that holds what the template writes for a picture.
    brackets : int
        Rows around each picture's that the template writes, not the processor.
    first_position : int
    keeps_order : bool
        Whether words may stand before a picture.
    reads_alone : bool
        Whether a picture is read alike alone and beside others.
    puts_on_white : bool
        Whether its processor does so with transparent pictures, which here show the colours beneath, as in NVILA.
    """

    options = VLMOptions
    pixels = "pixel_values"
    # As paths from the model, since transformers compares names from their beginning.
    kept_in_full = (
        *(f"model.{name}" for name in ("visual", "vision_tower", "vision_model", "multi_modal_projector", "connector")),
        "lm_head",
    )

    model_types: ClassVar[tuple[str, ...]]
    processor_class: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    rows: ClassVar[Callable[[Seen], Rows]]
    marker: ClassVar[str] = "image_token"
    brackets: ClassVar[int] = 0
    first_position: ClassVar[int] = 0
    keeps_order: ClassVar[bool] = True
    reads_alone: ClassVar[bool] = True
    puts_on_white: ClassVar[bool] = True

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor.tokenizer)
        self.processor = processor
        name = name_of(type(self))
        note = note_of(name) if name else None
        self.notes = () if note is None else (note,)

    # -- whose checkpoint it is ------------------------------------------------------------------------------------

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") in cls.model_types

    @classmethod
    def load(cls, folder: Path, name: str, **given: Any) -> VLMFamily:
        check_plain_files(folder)
        processor = load_processor(folder, cls.processor_class, cls.packages)
        processor.chat_template = processor.chat_template or processor.tokenizer.chat_template or cls.default_template()
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True, **given)
        model, report = loaded
        lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if lost:  # transformers draws them at random, and says so where nobody looks
            raise CheckpointError(
                f"{name} lacks {len(lost)} of the tensors that its config asks for, or has them in another shape, such as {lost[0]}; "
                "fetch its files again."
            )
        if is_quantized(model):
            # compressed-tensors unpacks weights in the first forward of the whole model; parts of it are called here.
            ids = torch.full((1, 1), processor.tokenizer.eos_token_id or 0, device=model.device)
            with torch.no_grad():
                model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=torch.zeros_like(ids))
        return cls(model.eval(), processor)

    @classmethod
    def default_template(cls) -> str:
        """The chat template of a checkpoint that has none.

        Raises
        ------
        CheckpointError
            If the family has none that goes without saying.
        """
        raise CheckpointError("the checkpoint has no chat template; copy chat_template.jinja there")

    @property
    def context_length(self) -> int:
        config = self.model.config.get_text_config(decoder=True)
        return min(int(self.tokenizer.model_max_length), int(config.max_position_embeddings))

    # -- from a prompt to what the decoder sees ----------------------------------------------------------------------

    def prepare(self, prompt: Prompt, options: VLMOptions | None = None) -> Prepared:
        options = options or VLMOptions()
        self._check_words(prompt)
        inlines = self.keeps_order and options.picture_order == "given"
        rendered = render(prompt, self.written, self._marker, inlines=inlines)
        images = prompt.images
        made = self._processed(self.typed(rendered.text), images)
        replaced = made.pop("text_replacement_offsets", [[]])[0]
        spans = np.asarray(made.pop("offset_mapping")[0], np.int64)  # (T, 2), in the text with replacements
        device, dtype = self.model.get_input_embeddings().weight.device, self.model.dtype
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if name != "labels"
        }
        laid_out = LaidOut(
            rendered=rendered,
            spans=spans,
            visual=self._visual(inputs).cpu().numpy(),
            ends=np.isin(inputs["input_ids"][0].cpu().numpy(), self._stops),
            blocks=self.blocks(inputs).cpu().numpy().astype(np.int32),
            sizes=tuple(image.size for image in images),
            brackets=self.brackets,
        )
        seen = partial(Seen, inputs=inputs, processor=self.processor, config=self.model.config)
        token_map = laid_out.token_map(replaced, lambda **known: self._rows(seen(**known)))
        contents = self._contents(prompt.pictures, len(images))
        return Prepared(inputs, token_map, options, contents, tuple(images), tuple(self._notes(prompt, rendered)))

    def written(self, messages: list[Message]) -> str:
        """Messages as the chat template writes them, and as the processor lays them out before it tokenises."""
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def typed(self, text: str) -> str:
        """What the processor is to be given for a text of `written`."""
        return text

    @cached_property
    def _marker(self) -> str:
        return str(getattr(self.processor, self.marker))

    @cached_property
    def _control(self) -> tuple[str, ...]:
        """Texts that a tokenizer reads as something else than words."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(sorted(special | {self._marker}, key=len, reverse=True))

    def _check_words(self, prompt: Prompt) -> None:
        texts = [part for turn in prompt.history for part in turn.parts] + list(prompt.parts)
        for text in texts:
            found = next((token for token in self._control if isinstance(text, str) and token in text), None)
            if found is not None:
                raise PromptError(
                    f"the text holds {found!r}, which this model would read as a control token and not as words: write it "
                    "otherwise, with a space in it for example"
                )

    def _processed(self, text: str, images: Sequence[Image.Image]) -> dict[str, Any]:
        """What the processor makes of a text and its pictures."""
        begin = self.tokenizer.bos_token
        has_begin = bool(begin) and text.startswith(begin)  # as `apply_chat_template` does: no second one
        made = self.processor(
            text=[text],
            images=[list(images)] if images else None,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            **({"add_special_tokens": False} if has_begin else {}),
        )
        return dict(made)

    def _rows(self, seen: Seen) -> Rows:
        """The rows of one picture, checked.

        Raises
        ------
        CheckpointError
            If the rule for pixels does not fit the prompt.
        """
        try:
            rows = type(self).rows(seen)
        except ValueError as error:
            raise CheckpointError(f"{error}: {UNKNOWN_CUT}") from error
        if len(rows) != seen.rows:
            raise CheckpointError(
                f"picture {seen.number + 1} has {seen.rows} visual rows in the prompt, and the rule of its family gives {len(rows)}: "
                f"{UNKNOWN_CUT}"
            )
        return rows

    def _contents(self, pictures: Sequence[Picture], count: int) -> tuple[str, ...]:
        """What tells each picture's features from others: its pixels, and how pictures are cut now."""
        cut = self.processor.image_processor.to_json_string()  # its settings may be changed in place
        beside = "" if self.reads_alone or count == 1 else "beside others "
        how = beside + hashlib.sha256(cut.encode()).hexdigest()
        return tuple(f"{picture.digest} {how}" for picture in pictures)

    def _notes(self, prompt: Prompt, rendered: Rendered) -> Iterator[str]:
        if not rendered.keeps_order:
            why = "as its chat template writes them" if self.keeps_order else "this model's prompt has no other order"
            yield f"the pictures do not stand where they were given, {why}"
        for number, picture in enumerate(prompt.pictures, 1):
            if self.puts_on_white and TRANSPARENCY in picture.notes:
                yield f"picture {number}: this family's own processor would put it on white"

    def embed(self, prepared: Prepared, known: KnownFeatures | None = None) -> Embedded:
        ids = prepared.inputs["input_ids"][0]
        visual = self._visual(prepared.inputs)
        table = self.model.get_input_embeddings()
        # The visual id may lie outside the vocabulary, and its rows are replaced anyway.
        vectors = table(torch.where(visual, 0, ids))  # (T, H)
        found = self._features(prepared, known)
        deep: tuple[Tensor, ...] = ()
        if found is not None:
            first, *others = torch.split(found.to(vectors), vectors.shape[-1], -1)
            vectors = vectors.masked_scatter(visual[:, None], first)
            deep = tuple(torch.zeros_like(vectors).masked_scatter(visual[:, None], other) for other in others)
        blocks = self.blocks(prepared.inputs)
        return Embedded(vectors, self.positions(prepared.inputs), blocks if (blocks >= 0).any() else None, deep)

    def positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Of every row of a prompt.  # (T,) or (axes, T)"""
        ids = inputs["input_ids"][0]
        return torch.arange(self.first_position, self.first_position + len(ids), device=ids.device)

    def blocks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which rows of a prompt see each other both ways; see `Embedded.blocks`.  # (T,)"""
        return torch.full_like(inputs["input_ids"][0], -1)

    def _features(self, prepared: Prepared, known: KnownFeatures | None) -> Tensor | None:
        """What stands at all visual rows of a prompt, newlines and padding included.  # (n, F)"""
        if not prepared.contents:
            return None
        if known is None:
            return self.features(prepared.inputs)
        count = len(prepared.contents)
        alone = prepared if count == 1 else None
        parts = zip(prepared.contents, prepared.pictures, strict=True)
        return torch.cat([self._known(content, image, count, known, alone) for content, image in parts])

    def _known(
        self, content: str, image: Image.Image, count: int, known: KnownFeatures | None, alone: Prepared | None = None
    ) -> Tensor:
        """`features` of one picture, computed where they are not known; `alone` is a prompt that has it and no other."""
        features = None if known is None else known.features(content)
        if features is None:
            features = self._of_one(alone or self._by_itself(image, count))
            if known is not None:
                known.keep_features(content, features)
        return features

    def _of_one(self, prepared: Prepared) -> Tensor:
        """`features` of picture 0 of a prompt like `_by_itself`: so they never depend on what stands beside it elsewhere."""
        rows = prepared.token_map.picture[self._visual(prepared.inputs).cpu().numpy()] == 0
        with torch.no_grad():
            return self.features(prepared.inputs)[torch.from_numpy(rows)].clone()

    def _by_itself(self, image: Image.Image, count: int) -> Prepared:
        """A prompt whose picture 0 is read as it is in a prompt of so many pictures."""
        picture = Picture.of(image)
        return self.prepare(Prompt((picture,) if self.reads_alone or count == 1 else (picture, picture)))

    def alone(self, context: Prepared, number: int) -> Prepared:
        return self._by_itself(context.pictures[number], len(context.pictures))

    def _visual(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which rows of a prompt come from pictures.  # (T,)"""
        return inputs["input_ids"][0] == int(self.model.config.image_token_id)

    def pictures_features(
        self,
        pictures: Sequence[Image.Image],
        context: Prepared,
        number: int = 0,
        known: KnownFeatures | None = None,
    ) -> list[Tensor]:
        count, token_map = len(context.contents), context.token_map
        mine = self._visual(context.inputs).cpu().numpy() & (token_map.picture == number)
        shown = torch.from_numpy(token_map.tile[mine] >= 0)  # not the newlines
        contents = self._contents([Picture.of(image) for image in pictures], count)
        parts = zip(contents, pictures, strict=True)
        return [self._known(content, image, count, known)[shown] for content, image in parts]

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """What the tower and the projector make of all pictures, row by row.  # (n, (1 + deep) * H)"""
        takes = ("pixel_values", "image_grid_thw", "image_sizes", "pixel_attention_mask", "batch_num_images")
        found = self.model.get_image_features(
            **{name: inputs[name] for name in takes if name in inputs}, return_dict=True
        )
        deep = getattr(found, "deepstack_features", None) or ()
        return torch.cat([_rows_of(found.pooler_output), *map(_rows_of, deep)], -1)

    # -- answers -----------------------------------------------------------------------------------------------------

    @cached_property
    def _stops(self) -> list[int]:
        """Tokens that end an answer, of both sources."""
        own = self.model.generation_config.eos_token_id
        given = own if isinstance(own, list) else [own]
        return sorted({token for token in (*given, self.tokenizer.eos_token_id) if token is not None})

    def generation_config(self, options: VLMOptions) -> GenerationConfig:
        """Greedy, with the stop tokens of both generation_config.json and the tokenizer."""
        own: GenerationConfig = self.model.generation_config
        stops = self._stops
        plain = GenerationConfig(temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0)
        config = copy.deepcopy(own) if options.generation_config == "checkpoint" else plain
        pad = self.tokenizer.pad_token_id
        config.update(
            do_sample=False, num_beams=1, eos_token_id=list(stops), pad_token_id=stops[0] if pad is None else pad
        )
        return config


def _rows_of(features: Any) -> Tensor:
    """Rows of all pictures, however a family hands them out: a tensor, or one for each picture.  # (n, H)"""
    parts = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([part.flatten(0, -2) for part in parts])
