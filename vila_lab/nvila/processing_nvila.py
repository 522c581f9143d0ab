"""From texts and pictures to model inputs, with a map of every position. Knows tokenizer and tiles, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from vila_lab.errors import CheckpointError, MissingExtra, PromptError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.conversation import (
    AUTO,
    CHAT_TEMPLATES,
    CONVERSATION_MODES,
    built_in_chat_template,
    check_mode,
    mode_of_checkpoint,
    render,
    stop_token_ids,
    turn_starts,
)
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint, read_json, write_json
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor, flatten_pictures
from vila_lab.nvila.layout import BlockGeometry, ImageBlock, PromptLayout, TokenGrid, picture_blocks
from vila_lab.nvila.prompting import (
    IMAGE_TOKEN,
    MEDIA_TOKENS,
    LiteralMediaTokenWarning,
    assemble,
    pictures_of,
)
from vila_lab.nvila.typed import spelled_out

__all__ = ["LiteralMediaTokenWarning", "NVILAProcessor"]

OLD_TOKENIZER_CLASS = {
    "TokenizersBackend": "PreTrainedTokenizerFast"
}  # the name that readers before transformers 5 know


class NVILAProcessor(ProcessorMixin):
    """Tokenizer, tiling and conversation template of one checkpoint.

    Parameters
    ----------
    image_processor : NVILAImageProcessor
    tokenizer : PreTrainedTokenizerBase
        The three media tokens are added if they are missing; no embedding is resized for them.
    grid : TokenGrid, optional
        How a tile becomes tokens; by default 2 x 2 patches of 14 pixels.
    start_tokens, end_tokens : str or None
        What stands around every block of visual tokens.
    conv_mode : str, optional
        What "auto" means here; by default the chat template if there is one, otherwise what the tokenizer suggests.
    """

    def __init__(
        self,
        image_processor: NVILAImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        grid: TokenGrid | None = None,
        start_tokens: str | None = None,
        end_tokens: str | None = "\n",
        conv_mode: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        tokenizer.add_tokens(
            [token for token in MEDIA_TOKENS if token not in tokenizer.get_vocab()], special_tokens=True
        )
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)  # type: ignore[no-untyped-call]
        self.grid = grid or TokenGrid(patch=14, merge=2)
        self.start_tokens = start_tokens
        self.end_tokens = end_tokens
        self.conv_mode = check_mode(conv_mode or mode_of_checkpoint(tokenizer, decoder=""))
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]

    # -- conversation ---------------------------------------------------------------------------------------------

    @property
    def conversation_modes(self) -> tuple[str, ...]:
        """The names that ``conv_mode`` takes."""
        return CONVERSATION_MODES

    def resolve_conv_mode(self, mode: str = AUTO) -> str:
        """The template that `mode` means for this checkpoint; "auto" back means the tokenizer's chat template.

        Raises
        ------
        OptionError
            The mode is not known; the message lists those that are.
        """
        name = check_mode(mode)
        return self.conv_mode if name == AUTO else name

    def stop_token_ids(self, conv_mode: str = AUTO) -> list[int]:
        """Ids that end an answer under a conversation mode."""
        return stop_token_ids(self.tokenizer, self.resolve_conv_mode(conv_mode))

    # -- one prompt -----------------------------------------------------------------------------------------------

    def prepare(
        self, parts: Any, conv_mode: str = AUTO, tile_all_images: bool = False, return_tensors: str | None = "pt"
    ) -> tuple[BatchFeature, PromptLayout]:
        """Model inputs of one prompt and the map of its positions.

        Parameters
        ----------
        parts : list of str and PIL images, or list of messages
            One user turn in order, or ``{"role", "content"}`` messages whose content is a text or such a list.
        conv_mode : str
            One of `conversation_modes`.
        tile_all_images : bool
            Cut every picture as if it were alone. The reference cuts only a single picture.

        Returns
        -------
        (BatchFeature, PromptLayout)
            ``input_ids`` and ``attention_mask`` (1, T), ``pixel_values`` (n_tiles, 3, S, S), ``block_sizes`` (n_blocks, 2).

        Raises
        ------
        PromptError, OptionError
        """
        pictures = pictures_of(parts)
        tiled = tile_all_images or len(pictures) == 1
        geometry = self._geometry(pictures, tiled)
        counts = [len(blocks) for blocks in geometry]
        assembled = assemble(parts, lambda picture: self._markers(counts[picture], tiled))
        mode = self.resolve_conv_mode(conv_mode)
        turns = [turn.turn for turn in assembled]
        text = render(self.tokenizer, turns, mode)
        starts = turn_starts(self.tokenizer, turns, mode, text)
        spans = [
            (start + a, start + b)
            for start, turn in zip(starts, assembled, strict=True)
            if start >= 0
            for a, b in turn.spans
        ]
        layout = self._expand(text, [block for blocks in geometry for block in blocks], spans)
        return self._features(layout.input_ids, pictures, tiled, return_tensors), layout

    def layout(self, parts: Any, conv_mode: str = AUTO, tile_all_images: bool = False) -> PromptLayout:
        """The map of positions of one prompt; see `prepare`."""
        return self.prepare(parts, conv_mode, tile_all_images, return_tensors=None)[1]

    def unexpanded_ids(self, parts: Any, conv_mode: str = AUTO, tile_all_images: bool = False) -> np.ndarray:
        """Token ids (T,) with a single ``<image>`` id per block, as the reference has them before it splices."""
        return np.array(self.tokenizer(self.layout(parts, conv_mode, tile_all_images).text).input_ids, dtype=np.int64)

    def _geometry(self, pictures: Sequence[Image.Image], tiled: bool) -> list[list[BlockGeometry]]:
        options = self.image_processor.options
        return [picture_blocks(k, *picture.size, options, self.grid, tiled=tiled) for k, picture in enumerate(pictures)]

    def _markers(self, blocks: int, tiled: bool) -> str:
        """A cut picture of ``dynamic`` has a newline in the text after each of its tiles; all others have one bare marker."""
        if tiled and self.image_processor.image_aspect_ratio == "dynamic":
            return f"{IMAGE_TOKEN}\n" * blocks
        return IMAGE_TOKEN * blocks

    def _separator_ids(self, text: str | None) -> list[int]:
        """Ids with the tokenizer's default specials: a Llama tokenizer puts its begin token into every separator."""
        return list(self.tokenizer(text).input_ids) if text else []

    def _expand(self, text: str, geometry: Sequence[BlockGeometry], spans: list[tuple[int, int]]) -> PromptLayout:
        ids, offsets = spelled_out(self.tokenizer, *self._tokenise(text), text, spans)
        if (markers := ids.count(self.image_token_id)) != len(geometry):
            raise PromptError(
                f"The text has {markers} {IMAGE_TOKEN} markers for {len(geometry)} blocks of visual tokens; give one marker per picture."
            )
        before, after = self._separator_ids(self.start_tokens), self._separator_ids(self.end_tokens)
        new_ids: list[int] = []
        new_offsets: list[tuple[int, int]] = []
        separators: list[int] = []
        blocks: list[ImageBlock] = []
        for token, (start, stop) in zip(ids, offsets, strict=True):
            if token != self.image_token_id:
                new_ids.append(token)
                new_offsets.append((start, stop))
                continue
            block = geometry[len(blocks)].at(len(new_ids) + len(before))
            visual = block.stop - block.start
            separators += [*range(len(new_ids), block.start), *range(block.stop, block.stop + len(after))]
            new_ids += [*before, *[token] * visual, *after]
            new_offsets += [*[(start, start)] * len(before), *[(start, stop)] * visual, *[(stop, stop)] * len(after)]
            blocks.append(block)
        return PromptLayout(
            text=text,
            input_ids=np.array(new_ids, dtype=np.int64),
            offsets=np.array(new_offsets, dtype=np.int64).reshape(-1, 2),
            blocks=blocks,
            separators=np.array(separators, dtype=np.int64),
            user_spans=spans,
        )

    def _tokenise(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if not self.tokenizer.is_fast:
            ids = list(self.tokenizer(text).input_ids)
            return ids, _offsets_by_search(self.tokenizer, text, ids)
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        return list(encoded.input_ids), [tuple(span) for span in encoded.offset_mapping]

    def _features(
        self, input_ids: np.ndarray, pictures: Sequence[Image.Image], tiled: bool, return_tensors: str | None
    ) -> BatchFeature:
        data: dict[str, Any] = {
            "input_ids": input_ids[None],
            "attention_mask": np.ones((1, len(input_ids)), dtype=np.int64),
        }
        if pictures:
            data |= self.image_processor(list(pictures), tiled=tiled)
        return BatchFeature(data, tensor_type=return_tensors)

    # -- transformers' call forms ---------------------------------------------------------------------------------

    def __call__(
        self,
        parts: Any = None,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        conv_mode: str = AUTO,
        tile_all_images: bool = False,
        return_tensors: str | None = "pt",
        padding_side: str = "left",
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of one prompt, or of rendered texts.

        Parameters
        ----------
        parts : list
            One prompt, see `prepare`.
        text : str or list of str
            Instead of `parts`: prompts that are rendered already, with one ``<image>`` per picture.
        images : picture, list of pictures, or one list per text
            The pictures of `text` in order.
        padding_side : str
            Where a batch of texts is padded; "left" suits generation.

        Raises
        ------
        PromptError, OptionError
        """
        if parts is not None and text is None and images is None:
            return self.prepare(parts, conv_mode, tile_all_images, return_tensors)[0]
        if text is None and isinstance(parts, str | list):
            text, parts = parts, None
        if parts is not None and images is None:  # transformers' positional order is images, text
            images = parts
        if text is None:
            raise PromptError("There is no text; pass text= beside images=, or one list of texts and pictures.")
        texts = [text] if isinstance(text, str) else list(text)
        prompts = [
            self._rendered(prompt, pictures, tile_all_images)
            for prompt, pictures in zip(texts, _share_out(images, texts), strict=True)
        ]
        return self._batch(prompts, padding_side, return_tensors)

    def _rendered(self, text: str, pictures: Sequence[Image.Image], tile_all_images: bool) -> BatchFeature:
        tiled = tile_all_images or len(pictures) == 1
        geometry = self._geometry(pictures, tiled)
        pieces = text.split(IMAGE_TOKEN)
        markers = [self._markers(len(blocks), tiled) for blocks in geometry]
        full = "".join(piece + marker for piece, marker in zip(pieces, [*markers, ""], strict=True))
        layout = self._expand(full, [block for blocks in geometry for block in blocks], [])
        return self._features(layout.input_ids, pictures, tiled, None)

    def _batch(self, prompts: Sequence[BatchFeature], padding_side: str, return_tensors: str | None) -> BatchFeature:
        longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        fill = {"input_ids": pad, "attention_mask": 0}
        data: dict[str, Any] = {
            key: np.concatenate([_pad(prompt[key], longest, padding_side, value) for prompt in prompts])
            for key, value in fill.items()
        }
        for key in ("pixel_values", "block_sizes"):
            if found := [prompt[key] for prompt in prompts if key in prompt]:
                data[key] = np.concatenate(found)
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = True,
        tokenize: bool = False,
        conv_mode: str = AUTO,
        tile_all_images: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> Any:
        """Render messages, or turn them into model inputs.

        Parameters
        ----------
        conversation : list of messages
            With ``{"type": "image"}`` and ``{"type": "text", "text": ...}`` parts.
        tokenize : bool
            True needs the pictures inside the messages and returns a BatchFeature; False returns the text with one
            ``<image>`` per picture, for ``processor(text=..., images=...)``.
        """
        if tokenize:
            return self.prepare(conversation, conv_mode, tile_all_images, return_tensors)[0]
        stand_in = Image.new("RGB", (1, 1))
        messages = [{**message, "content": _with_stand_ins(message["content"], stand_in)} for message in conversation]
        turns = [turn.turn for turn in assemble(messages, lambda _: IMAGE_TOKEN)]
        return render(
            self.tokenizer, turns, self.resolve_conv_mode(conv_mode), add_generation_prompt=add_generation_prompt
        )

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "block_sizes"]

    # -- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> NVILAProcessor:  # type: ignore[override]
        """Read the processor of a checkpoint in any layout; a folder, or a hub id.

        Raises
        ------
        CheckpointNotFound, CheckpointError
        """
        revision = kwargs.pop("revision", None)
        folder = find_checkpoint(pretrained_model_name_or_path, revision=revision, weights=False)
        config = kwargs.pop("config", None) or NVILAConfig.from_pretrained(folder.root)
        return cls.from_folder(folder, config, name=str(pretrained_model_name_or_path))

    @classmethod
    def from_folder(cls, folder: CheckpointFolder, config: NVILAConfig, name: str = "") -> NVILAProcessor:
        """Build the processor from the places of a checkpoint and its configuration."""
        tokenizer = _load_tokenizer(folder)
        decoder = str(config.text_config.model_type)
        if template := _named_chat_template(folder):
            tokenizer.chat_template = template
        mode = config.conv_mode or mode_of_checkpoint(
            tokenizer,
            decoder=decoder,
            written_by=getattr(config, "source_transformers_version", None),
            name=name or str(folder.root),
        )
        if mode == AUTO and not tokenizer.chat_template:
            tokenizer.chat_template = built_in_chat_template(tokenizer, decoder)
        encoder = config.image_encoder or {}
        return cls(
            NVILAImageProcessor.from_folder(folder, config),
            tokenizer,
            grid=config.token_grid,
            start_tokens=encoder.get("start_tokens"),
            end_tokens=encoder.get("end_tokens", "\n"),
            conv_mode=mode,
        )

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write tokenizer and chat template to ``llm/`` and the image processor to ``vision_tower/``.

        Tiling and conversation mode are in the root ``config.json``, which the model's `save_pretrained` writes.
        """
        root = Path(save_directory)
        written = list(self.tokenizer.save_pretrained(root / "llm", save_jinja_files=False))
        _use_older_names(root / "llm" / "tokenizer_config.json")
        preprocessor = root / "vision_tower" / "preprocessor_config.json"
        write_json(preprocessor, self.image_processor.to_siglip_dict())
        return [*written, str(preprocessor)]


def _load_tokenizer(folder: CheckpointFolder) -> PreTrainedTokenizerBase:
    place = folder.llm
    if not any(
        (place / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        raise CheckpointError(
            f"The checkpoint has no tokenizer in {place.name}/; copy tokenizer.json and tokenizer_config.json there."
        )
    try:
        if (
            place / "tokenizer.json"
        ).is_file():  # AutoTokenizer would rebuild it by the decoder's type; the file is meant as written
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(place, padding_side="right")
        else:
            tokenizer = AutoTokenizer.from_pretrained(place, padding_side="right", trust_remote_code=False)
    except ImportError as error:
        raise MissingExtra(
            "This checkpoint's tokenizer needs sentencepiece: pip install sentencepiece protobuf"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The tokenizer in {place.name}/ cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise CheckpointError(
            f"The tokenizer in {place.name}/ is of a kind that the installed transformers cannot read."
        )
    return tokenizer


def _use_older_names(path: Path) -> None:
    content = read_json(path)
    name = str(content.get("tokenizer_class"))
    write_json(path, content | {"tokenizer_class": OLD_TOKENIZER_CLASS.get(name, name)})


def _named_chat_template(folder: CheckpointFolder) -> str | None:
    """The template that the root configuration names: a file at the root, or one of those that come with the family."""
    name = folder.config.get("chat_template")
    if not isinstance(name, str):
        return None
    path = folder.root / f"{name}.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8").replace("    ", "").replace("\n", "")
    if name in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[name]
    if "{" in name:
        return name
    raise CheckpointError(
        f"config.json names the chat template {name!r}, and {name}.jinja is not in the folder; copy it there."
    )


def _offsets_by_search(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Spans for a tokenizer that gives none: each decoded token is looked for from where the last one ended."""
    spans: list[tuple[int, int]] = []
    cursor = 0
    for token in ids:
        piece = tokenizer.decode([token])
        place = text.find(piece, cursor) if piece else -1
        spans.append((place, place + len(piece)) if place >= 0 else (cursor, cursor))
        cursor = spans[-1][1]
    return spans


def _pad(values: np.ndarray, length: int, side: str, fill: int) -> np.ndarray:
    missing = length - values.shape[1]
    widths = (missing, 0) if side == "left" else (0, missing)
    return np.pad(values, ((0, 0), widths), constant_values=fill)


def _share_out(images: Any, texts: Sequence[str]) -> list[list[Image.Image]]:
    """Pictures per text, by nesting if there is any, otherwise by the markers in each text."""
    markers = [text.count(IMAGE_TOKEN) for text in texts]
    nested = (
        isinstance(images, list | tuple)
        and len(images) == len(texts)
        and all(isinstance(item, list | tuple) for item in images)
    )
    if nested:
        shares = [flatten_pictures(item) for item in images]
    else:
        pictures = flatten_pictures(images)
        if len(pictures) != sum(markers):
            raise PromptError(
                f"There are {len(pictures)} pictures for {sum(markers)} {IMAGE_TOKEN} markers; give one marker per picture."
            )
        bounds = np.cumsum([0, *markers])
        shares = [pictures[a:b] for a, b in pairwise(bounds)]
    for number, (share, count) in enumerate(zip(shares, markers, strict=True), start=1):
        if len(share) != count:
            raise PromptError(
                f"Text {number} has {count} {IMAGE_TOKEN} markers and {len(share)} pictures; give one marker per picture."
            )
    return shares


def _with_stand_ins(content: Any, stand_in: Image.Image) -> Any:
    if isinstance(content, str):
        return content
    return [stand_in if isinstance(part, dict) and part.get("type") == "image" else part for part in content]


AutoProcessor.register(NVILAConfig, NVILAProcessor, exist_ok=True)
