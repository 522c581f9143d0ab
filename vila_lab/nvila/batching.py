"""Rows of several prompts as one batch: how long, how padded, as what. Knows a tokenizer's settings, no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vila_lab.errors import OptionError
from vila_lab.nvila.generation import LARGEST_REAL_LENGTH
from vila_lab.nvila.options import CallOptions, TextOptions


def pad(values: np.ndarray, length: int | None, side: str, fill: Any) -> np.ndarray:
    missing = max(0, (length or 0) - len(values))
    padding = np.full((missing, *values.shape[1:]), fill, dtype=values.dtype)
    return np.concatenate([padding, values] if side == "left" else [values, padding])


def longest_allowed(tokenizer: Any, options: TextOptions) -> int | None:
    """The longest length that is allowed; None where nothing says one."""
    limit = options.max_length or tokenizer.model_max_length
    return int(limit) if limit and limit < LARGEST_REAL_LENGTH else None


def padded_length(lengths: Sequence[int], tokenizer: Any, options: TextOptions) -> int | None:
    """The length of every row of a batch; None where each keeps its own."""
    if options.padding is None:
        return None
    limit = longest_allowed(tokenizer, options) if options.padding == "max_length" else max(lengths)
    if limit is None:
        raise OptionError("padding='max_length' needs max_length, which this tokenizer does not have either.")
    step = options.pad_to_multiple_of or 1
    return -(-max(limit, *lengths) // step) * step if options.padding == "longest" else -(-limit // step) * step


def stack(rows: Sequence[np.ndarray], options: CallOptions) -> Any:
    if len({len(row) for row in rows}) == 1:
        return np.stack(rows)
    if options.return_tensors is not None:
        raise OptionError("Prompts of several lengths make no tensor; pass padding=True, or return_tensors=None.")
    return [row.tolist() for row in rows]


def listed(value: Any) -> list[Any]:
    listed: list[Any] = value.tolist() if isinstance(value, np.ndarray) else value
    return listed
