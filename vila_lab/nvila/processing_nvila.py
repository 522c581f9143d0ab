"""The processor: from texts and pictures to model inputs, in every form transformers calls one. Knows a checkpoint's files, no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from vila_lab.errors import CheckpointError, OptionError, PromptError
from vila_lab.nvila.batching import batched
from vila_lab.nvila.chat import ChatOptions, render_chat
from vila_lab.nvila.composing import Composer
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.conversation import (
    AUTO,
    CONVERSATION_MODES,
    built_in_chat_template,
    check_mode,
    mode_of_checkpoint,
    stop_token_ids,
)
from vila_lab.nvila.folder import CheckpointFolder, find_checkpoint, write_json
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor, flatten_pictures, saved_here
from vila_lab.nvila.layout import PromptLayout, TokenGrid
from vila_lab.nvila.messages import conversations_of, pictures_in, standard_messages
from vila_lab.nvila.options import CallOptions, NVILAProcessorKwargs, TextOptions, call_options, is_call_option
from vila_lab.nvila.prompting import IMAGE_TOKEN, MEDIA_TOKENS, LiteralMediaTokenWarning
from vila_lab.nvila.shares import all_there, share_out, texts_of
from vila_lab.nvila.tokenizer_files import load_tokenizer, named_chat_template, use_older_names

__all__ = ["LiteralMediaTokenWarning", "NVILAProcessor"]


class NVILAProcessor(ProcessorMixin):
    """Tokenizer, tiling and conversation template of one checkpoint.

    Parameters
    ----------
    image_processor : NVILAImageProcessor
    tokenizer : PreTrainedTokenizerBase
        The three media tokens are added if they are missing; no embedding is resized for them.
    grid : TokenGrid or dict, optional
        How a tile becomes tokens; by default 2 x 2 patches of 14 pixels.
    start_tokens, end_tokens : str or None
        What stands around every block of visual tokens.
    conv_mode : str, optional
        What "auto" means here; by default the chat template if there is one, otherwise what the tokenizer suggests.
    chat_template : str or dict, optional
        Instead of the tokenizer's.
    """

    valid_processor_kwargs = NVILAProcessorKwargs  # type: ignore[assignment]

    def __init__(
        self,
        image_processor: NVILAImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        grid: TokenGrid | Mapping[str, Any] | None = None,
        start_tokens: str | None = None,
        end_tokens: str | None = "\n",
        conv_mode: str | None = None,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        tokenizer.add_tokens(
            [token for token in MEDIA_TOKENS if token not in tokenizer.get_vocab()], special_tokens=True
        )
        super().__init__(image_processor, tokenizer)  # type: ignore[no-untyped-call]
        if chat_template:
            self.chat_template = chat_template
        self.grid = TokenGrid(**grid) if isinstance(grid, Mapping) else grid or TokenGrid(patch=14, merge=2)
        self.start_tokens = start_tokens
        self.end_tokens = end_tokens
        self.conv_mode = check_mode(conv_mode or mode_of_checkpoint(tokenizer, decoder=""))
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]

    @property
    def chat_template(self) -> Any:
        """The tokenizer's chat template: one text, or several by name."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, value: str | dict[str, str] | None) -> None:
        if "tokenizer" in vars(self):  # transformers' initialiser sets it before there is a tokenizer
            self.tokenizer.chat_template = value

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
        self,
        parts: Any,
        conv_mode: str = AUTO,
        tile_all_images: bool = False,
        return_tensors: str | None = "pt",
        *,
        tile_first: bool = False,
        cutter: NVILAImageProcessor | None = None,
        pixels: bool = True,
    ) -> tuple[BatchFeature, PromptLayout]:
        """Model inputs of one prompt and the map of its positions.

        Parameters
        ----------
        parts : list of str and PIL images, or list of messages
            One user turn in order, or ``{"role", "content"}`` messages whose content is a text or such a list. A message of the
            assistant may bring the ``ids`` of its own tokens.
        conv_mode : str
            One of `conversation_modes`.
        tile_all_images : bool
            Cut every picture as if it were alone. The reference cuts only a single picture.
        tile_first : bool
            Cut the first picture as if it were alone: a conversation that began with it goes on as it was.
        cutter : NVILAImageProcessor, optional
            Cuts the pictures instead of the processor's own; see `NVILAImageProcessor.with_settings`.
        pixels : bool
            False leaves ``pixel_values`` and ``block_sizes`` out, and with them most of the work.

        Returns
        -------
        (BatchFeature, PromptLayout)
            ``input_ids`` and ``attention_mask`` (1, T), ``pixel_values`` (n_tiles, 3, S, S), ``block_sizes`` (n_blocks, 2).

        Raises
        ------
        PromptError, OptionError
        """
        cutter = cutter or self.image_processor
        mode = self.resolve_conv_mode(conv_mode)
        prompt = self._composer(cutter).parts(parts, mode, tile_all=tile_all_images, tile_first=tile_first)
        shown = prompt if pixels else replace(prompt, pictures=())
        options = CallOptions(TextOptions(), {}, return_tensors)
        return batched([shown], options, self.tokenizer, cutter, self.image_token_id), prompt.layout

    def layout(self, parts: Any, conv_mode: str = AUTO, tile_all_images: bool = False) -> PromptLayout:
        """The map of positions of one prompt; see `prepare`."""
        return self.prepare(parts, conv_mode, tile_all_images, return_tensors=None, pixels=False)[1]

    def _composer(self, cutter: NVILAImageProcessor) -> Composer:
        separated_by = self.start_tokens, self.end_tokens
        return Composer(self.tokenizer, self.image_token_id, self.grid, separated_by, cutter.options)

    # -- transformers' call forms ---------------------------------------------------------------------------------

    def __call__(
        self,
        parts: Any = None,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        conv_mode: str | None = None,
        tile_all_images: bool | None = None,
        **kwargs: Unpack[NVILAProcessorKwargs],
    ) -> BatchFeature:
        """Model inputs of one prompt, of rendered texts, or of pictures alone.

        Parameters
        ----------
        parts : list
            One prompt, see `prepare`.
        text : str or list of str
            Instead of `parts`: prompts that are rendered already, with one ``<image>`` per picture.
        images : picture, list of pictures, or one list per text
            The pictures of `text` in order.
        conv_mode, tile_all_images : optional
            See `prepare`; the mode only holds for `parts`.
        kwargs
            transformers' own, flat or in ``text_kwargs``, ``images_kwargs`` and ``common_kwargs``: padding (by default to
            the longest), padding_side ("left" suits generation), max_length, truncation, return_tensors ("pt"),
            return_mm_token_type_ids ..., and any setting of the image processor.

        Raises
        ------
        PromptError, PictureError, OptionError
        """
        options = call_options(self.tokenizer, kwargs)
        settings = dict(options.images)
        tiled, layout = settings.pop("tiled", None), settings.pop("input_data_format", None)
        cutter = self.image_processor.with_settings(**settings)
        all_tiled = bool(tile_all_images or tiled)
        if parts is not None and text is None and images is None:
            mode = self.resolve_conv_mode(conv_mode or AUTO)
            prompt = self._composer(cutter).parts(parts, mode, tile_all=all_tiled)
            return batched([prompt], options, self.tokenizer, cutter, self.image_token_id)
        if conv_mode is not None:
            raise OptionError("conv_mode belongs to a prompt that is yet to be rendered; text is rendered already.")
        if parts is not None and images is None:  # transformers' positional order is images, text
            images = parts
        if text is None and images is None:
            raise PromptError("There is no prompt; pass one list of texts and pictures, or text= beside images=.")
        if text is None:
            pictures = flatten_pictures(images, layout)
            cut = all_tiled or len(pictures) == 1
            return BatchFeature(dict(cutter(pictures, tiled=cut)), tensor_type=options.return_tensors)
        texts = texts_of(text)
        composer, special = self._composer(cutter), options.text.add_special_tokens
        prompts = [
            composer.text(each, pictures, tile_all=all_tiled, special=special)
            for each, pictures in zip(texts, share_out(images, texts, layout), strict=True)
        ]
        return batched(prompts, options, self.tokenizer, cutter, self.image_token_id)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "auto",
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        *,
        conv_mode: str = AUTO,
        tile_all_images: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Render messages, or turn them into model inputs.

        Parameters
        ----------
        conversation : list of messages, or list of such lists
            With ``{"type": "text", "text": ...}`` parts, and pictures as ``{"type": "image", ...}`` with image, path, url or
            base64, or as ``{"type": "image_url", "image_url": {"url": ...}}``.
        chat_template : str, optional
            Another jinja template, or the name of one of the checkpoint's.
        tools, documents : list, optional
            For templates that write them.
        add_generation_prompt : bool
            Begin the answer's turn; without it the text ends with the last message, as transformers has it.
        continue_final_message : bool or str
            End inside the last message instead.
        return_assistant_tokens_mask : bool
            With `tokenize` and `return_dict`: ``assistant_masks``, 1 where the template's generation blocks are.
        tokenize : bool
            True needs the pictures inside the messages; False returns the text with one ``<image>`` per picture, for
            ``processor(text=..., images=...)``.
        return_tensors : str or None
            "auto" is the processor's default, tensors of torch.
        return_dict : bool
            All model inputs instead of ``input_ids`` alone.
        processor_kwargs : mapping, optional
            Options of the call, see `__call__`; they may also stand among `kwargs`.
        conv_mode, tile_all_images
            See `prepare`.
        kwargs
            Variables of the template.

        Returns
        -------
        str, Tensor or BatchFeature, or for several conversations a list of str or a batch

        Raises
        ------
        PromptError, PictureError, OptionError
        """
        settings = dict(processor_kwargs or {})
        settings |= {name: kwargs.pop(name) for name in list(kwargs) if is_call_option(name)}
        chat = ChatOptions(
            add_generation_prompt,
            continue_final_message,
            return_assistant_tokens_mask,
            {"tools": tools, "documents": documents, **kwargs},
        )
        found, several = conversations_of(conversation)
        conversations = [standard_messages(each) for each in found]
        mode = self.resolve_conv_mode(conv_mode)
        rendered = [render_chat(self.tokenizer, each, mode, chat_template, chat) for each in conversations]
        if not tokenize:
            texts = [each.text for each in rendered]
            return texts if several else texts[0]
        if return_tensors != "auto":
            settings["return_tensors"] = return_tensors
        options = call_options(self.tokenizer, settings)
        cutter = self.image_processor.with_settings(**{k: v for k, v in options.images.items() if k != "tiled"})
        composer = self._composer(cutter)
        prompts = [
            composer.text(
                each.text,
                all_there(pictures_in(messages)),
                tile_all=tile_all_images or bool(options.images.get("tiled")),
                special=options.text.add_special_tokens,
                generated=each.generated if return_assistant_tokens_mask else None,
                typed=each.typed,
            )
            for messages, each in zip(conversations, rendered, strict=True)
        ]
        batch = batched(prompts, options, self.tokenizer, cutter, self.image_token_id)
        return batch if return_dict else batch["input_ids"]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "block_sizes"]

    # -- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> NVILAProcessor:  # type: ignore[override]
        """Read a processor that was saved, alone or with its model, or that of a checkpoint in any layout.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            A folder, or a hub id.
        config : NVILAConfig, optional
            The checkpoint's configuration, if it is read already.
        kwargs
            For a saved processor, values to overrule, as transformers takes them.

        Raises
        ------
        CheckpointNotFound, CheckpointError
        """
        config = kwargs.pop("config", None)
        if saved_here(pretrained_model_name_or_path):
            return cls._read(pretrained_model_name_or_path, **kwargs)
        revision = kwargs.pop("revision", None)
        folder = find_checkpoint(pretrained_model_name_or_path, revision=revision, weights=False)
        if saved_here(folder.root):
            return cls._read(folder.root, **kwargs)
        config = config or NVILAConfig.from_pretrained(folder.root)
        return cls.from_folder(folder, config, name=str(pretrained_model_name_or_path))

    @classmethod
    def _read(cls, source: Any, **kwargs: Any) -> NVILAProcessor:
        processor: NVILAProcessor = super().from_pretrained(source, **kwargs)
        processor.tokenizer.padding_side = "right"  # as the reference reads it; a batch is padded by its own option
        return processor

    @classmethod
    def from_folder(cls, folder: CheckpointFolder, config: NVILAConfig, name: str = "") -> NVILAProcessor:
        """Build the processor from the places of a checkpoint and its configuration."""
        tokenizer = load_tokenizer(folder)
        decoder = str(config.text_config.model_type)
        if template := named_chat_template(folder):
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

    def to_dict(self) -> dict[str, Any]:
        """What a file of this processor holds."""
        content: dict[str, Any] = super().to_dict()
        return {**content, "grid": asdict(self.grid)}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the processor so that it can be read by itself, and for readers of the three-folder layout.

        At the root stand transformers' own files, which hold everything; ``llm/`` gets the tokenizer with its chat template
        once more and ``vision_tower/`` the image processor, where the reference looks for them.

        Raises
        ------
        CheckpointError
            `push_to_hub` is asked for.
        """
        if push_to_hub:
            raise CheckpointError(
                "Saving straight to the hub is not supported; save to a folder and upload it with huggingface_hub."
            )
        root = Path(save_directory)
        written = list(self.tokenizer.save_pretrained(root / "llm", save_jinja_files=False))
        use_older_names(root / "llm" / "tokenizer_config.json")
        preprocessor = root / "vision_tower" / "preprocessor_config.json"
        write_json(preprocessor, self.image_processor.to_siglip_dict())
        return [*super().save_pretrained(root, **kwargs), *written, str(preprocessor)]


AutoProcessor.register(NVILAConfig, NVILAProcessor, exist_ok=True)
