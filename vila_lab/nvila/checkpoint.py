"""Load model and processor of an NVILA or VILA1.5 checkpoint together. Knows no devices and no file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vila_lab.errors import CheckpointError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import find_checkpoint
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.nvila.processing_nvila import NVILAProcessor


def load_checkpoint(
    source: str | Path, name: str | None = None, **given: Any
) -> tuple[NVILAForConditionalGeneration, NVILAProcessor]:
    """Load model and processor of an NVILA or VILA1.5 checkpoint.

    Parameters
    ----------
    source : str or Path
        A local folder in any of the published layouts, or a hub id.
    name : str, optional
        What errors call it; by default `source`.
    given
        Keyword arguments of transformers' ``from_pretrained``: dtype, device_map, quantization_config, attn_implementation.

    Returns
    -------
    (NVILAForConditionalGeneration, NVILAProcessor)
        The model in evaluation mode.

    Raises
    ------
    CheckpointNotFound, CheckpointError
    """
    folder = find_checkpoint(source)
    config = NVILAConfig.from_pretrained(folder.root)
    processor = NVILAProcessor.from_folder(folder, config, name=str(name or source))
    check_vocabulary(processor.tokenizer, config.text_config.vocab_size)
    model = NVILAForConditionalGeneration.from_pretrained(folder.root, config=config, processor=processor, **given)
    return model, processor


def check_vocabulary(tokenizer: Any, rows: int) -> None:
    """Whether a tokenizer can be that of a decoder with so many rows of embeddings.

    Raises
    ------
    CheckpointError
    """
    known = len(tokenizer)
    if tokenizer.eos_token_id is None:
        raise CheckpointError("The tokenizer has no token that ends an answer; copy tokenizer_config.json there.")
    if known < rows / 2:
        raise CheckpointError(
            f"The tokenizer knows {known} tokens and the decoder has {rows}; copy the tokenizer that belongs to it."
        )
    control = set(tokenizer.added_tokens_decoder)  # those of pictures have no rows of their own
    highest = max((number for number in tokenizer.get_vocab().values() if number not in control), default=0)
    if highest >= rows:
        raise CheckpointError(
            f"The tokenizer gives ids up to {highest} and the decoder has {rows} rows; copy the tokenizer that belongs to it."
        )
