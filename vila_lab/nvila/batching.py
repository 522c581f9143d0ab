"""Several prompts as one batch of model inputs: rows of one length, pictures one behind the other. Knows layouts, no template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature

from vila_lab.errors import OptionError, PromptError
from vila_lab.nvila.composing import Composed
from vila_lab.nvila.generation import LARGEST_REAL_LENGTH
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor
from vila_lab.nvila.options import CallOptions, TextOptions

__all__ = ["batched"]


def batched(
    prompts: Sequence[Composed],
    options: CallOptions,
    tokenizer: Any,
    cutter: NVILAImageProcessor,
    image_token_id: int,
) -> BatchFeature:
    """Model inputs of several prompts.

    Parameters
    ----------
    prompts
    options
        How they are padded and cut, what is returned beside their ids, and as what.
    tokenizer
        Says what a padding is, on which side a long prompt is cut, and how long one may be.
    cutter
        Makes tiles of the pictures.
    image_token_id
        Of a visual token.

    Raises
    ------
    PromptError
        If a picture's tokens would be cut off.
    OptionError
        If the options do not give one length for all.
    """
    text = options.text
    rows = [_row(prompt, text, tokenizer, image_token_id) for prompt in prompts]
    length = _padded_length([len(row["input_ids"]) for row in rows], tokenizer, text)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    fill = {"input_ids": int(pad), "offset_mapping": (0, 0)}
    data: dict[str, Any] = {
        name: _stack([_pad(row[name], length, text.padding_side, fill.get(name, 0)) for row in rows], options)
        for name in rows[0]
    }
    if text.return_length:
        data["length"] = np.array([len(row["input_ids"]) for row in rows])
    pictures = [cutter(list(prompt.pictures), tiled=prompt.tiled) for prompt in prompts if prompt.pictures]
    for name in ("pixel_values", "block_sizes") if pictures else ():
        data[name] = np.concatenate([each[name] for each in pictures])
    if options.return_tensors is None:
        data = {name: list(value) if name == "pixel_values" else _listed(value) for name, value in data.items()}
    return BatchFeature(data, tensor_type=options.return_tensors)


def _row(prompt: Composed, options: TextOptions, tokenizer: Any, image_token_id: int) -> dict[str, np.ndarray]:
    """What one prompt has per position, cut to the longest length that is allowed."""
    ids = prompt.layout.input_ids
    row = {"input_ids": ids}
    if options.return_attention_mask:
        row["attention_mask"] = np.ones(len(ids), dtype=np.int64)
    if options.return_mm_token_type_ids:
        row["mm_token_type_ids"] = (ids == image_token_id).astype(np.int64)
    if options.return_offsets_mapping:
        row["offset_mapping"] = prompt.layout.offsets
    if prompt.generated is not None:
        row["assistant_masks"] = prompt.generated
    limit = _longest_allowed(tokenizer, options)
    if not options.truncation or limit is None or len(ids) <= limit:
        return row
    kept = slice(len(ids) - limit, None) if tokenizer.truncation_side == "left" else slice(limit)
    if np.count_nonzero(ids == image_token_id) != np.count_nonzero(ids[kept] == image_token_id):
        raise PromptError(
            f"truncation to {limit} of {len(ids)} positions would cut a picture's tokens off; give fewer pictures or a "
            "larger max_length."
        )
    return {name: values[kept] for name, values in row.items()}


def _longest_allowed(tokenizer: Any, options: TextOptions) -> int | None:
    """The longest length that is allowed; None where nothing says one."""
    limit = options.max_length or tokenizer.model_max_length
    return int(limit) if limit and limit < LARGEST_REAL_LENGTH else None


def _padded_length(lengths: Sequence[int], tokenizer: Any, options: TextOptions) -> int | None:
    """The length of every row of a batch; None where each keeps its own."""
    if options.padding is None:
        return None
    limit = _longest_allowed(tokenizer, options) if options.padding == "max_length" else max(lengths)
    if limit is None:
        raise OptionError("padding='max_length' needs max_length, which this tokenizer does not have either.")
    step = options.pad_to_multiple_of or 1
    return -(-max(limit, *lengths) // step) * step if options.padding == "longest" else -(-limit // step) * step


def _pad(values: np.ndarray, length: int | None, side: str, fill: Any) -> np.ndarray:
    missing = max(0, (length or 0) - len(values))
    padding = np.full((missing, *values.shape[1:]), fill, dtype=values.dtype)
    return np.concatenate([padding, values] if side == "left" else [values, padding])


def _stack(rows: Sequence[np.ndarray], options: CallOptions) -> Any:
    if len({len(row) for row in rows}) == 1:
        return np.stack(rows)
    if options.return_tensors is not None:
        raise OptionError("Prompts of several lengths make no tensor; pass padding=True, or return_tensors=None.")
    return [row.tolist() for row in rows]


def _listed(value: Any) -> list[Any]:
    listed: list[Any] = value.tolist() if isinstance(value, np.ndarray) else value
    return listed
