"""The numerics of attention capture: two pure functions of queries and keys. Knows no model, no cache and no recorder.

Everything that vila_lab says about attention weights comes from `attention_rows`; everything it says about
the attention mass of column groups comes from `group_mass`. Both work in float32 (float64 for float64 input).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vila_lab.errors import OptionError
from vila_lab.upstream import fused_kernel

# Measured on CPU: from about 3 x head_dim groups on, the chunked softmax is cheaper than one fused call per head_dim groups.
FUSED_PIECES = 3

# Scores that the chunked form holds at once: 2**23 float32 values are 32 MiB, small beside the keys of a long prompt.
CHUNK_SCORES = 2**23


def attention_rows(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Softmax attention weights of chosen query rows, exactly.

    Parameters
    ----------
    query : Tensor, (B, H, R, D) or (H, R, D)
        The wanted rows, after rotary embedding and any query norm.
    key : Tensor, (B, Hkv, K, D) or (Hkv, K, D)
        H is a multiple of Hkv; head h reads key head ``h // (H // Hkv)`` (grouped-query attention).
    scaling : float
        Factor on the dot products, usually ``D ** -0.5``.
    mask : Tensor, optional
        Bool (True: may be seen) or additive float, broadcastable to (B, H, R, K), or one bool per column, (B, K).
    positions : Tensor, optional, (R,)
        Column of each row itself: later columns are hidden. None: no causal limit beyond `mask`.
    window : int, optional
        With `positions`: a row sees only the last `window` columns up to itself (sliding-window attention).
    softcap : float, optional
        Scores become ``softcap * tanh(scores / softcap)`` before masking (Gemma 2).
    sinks : Tensor, optional, (H,)
        One extra logit per head that takes part in the softmax and is then dropped (gpt-oss): rows sum to less than 1.

    Returns
    -------
    Tensor, (B, H, R, K) or (H, R, K)
        float32. Hidden columns are exactly 0; a row that may see nothing (padding) is all zeros.

    Raises
    ------
    OptionError
        If the shapes of query and key do not fit.

    Examples
    --------
    >>> query, key = torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)
    >>> attention_rows(query, key, scaling=0.5, positions=torch.tensor([0, 1]))[0]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000]])
    """
    if query.ndim == 3 and key.ndim == 3:
        return attention_rows(
            query[None],
            key[None],
            scaling=scaling,
            mask=mask,
            positions=positions,
            window=window,
            softcap=softcap,
            sinks=sinks,
        )[0]
    batch, heads, rows_count, columns = _shape(query, key)
    dtype = torch.promote_types(query.dtype, torch.float32)
    grouped = query.to(dtype).reshape(batch, key.shape[1], -1, query.shape[3])  # (B, Hkv, H/Hkv*R, D)
    scores = grouped @ key.to(dtype).transpose(-1, -2)  # (B, Hkv, H/Hkv*R, K)
    scores = (scores * scaling).view(batch, heads, rows_count, columns)  # (B, H, R, K)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if positions is not None:
        distance = positions.to(scores.device)[:, None] - torch.arange(columns, device=scores.device)  # (R, K)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores = scores.masked_fill(hidden, -torch.inf)
    if mask is not None:
        scores = _apply_mask(scores, mask)
    if sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        extra = sinks.to(scores).view(1, -1, 1, 1).expand(batch, heads, rows_count, 1)
        weights = torch.softmax(torch.cat([scores, extra], dim=-1), dim=-1)[..., :-1]
    if mask is None:
        return weights
    # softmax of a row of -inf is NaN; such a row is padding and attends to nothing.
    return weights.masked_fill(torch.isneginf(scores.amax(-1, keepdim=True)), 0.0)


def group_mass(
    query: Tensor,
    key: Tensor,
    groups: Tensor,
    *,
    scaling: float,
    mask: Tensor | None = None,
    start: int | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """Attention mass of every row on every group of columns, without a rows x columns matrix.

    Attention with the groups' indicator matrix in place of the values IS the mass: sum over the group's columns of
    the weights. A fused kernel therefore does it in the memory of one attention call. Soft-cap, sinks, offset causal
    rows and many groups go through `attention_rows` in chunks of rows instead.

    Parameters
    ----------
    query, key, scaling, mask, window, softcap, sinks
        As in `attention_rows`, batched.
    groups : Tensor, (K,) integer or (K, n)
        Group of each column (-1: none), or the indicator (or any weighting) of n groups.
    start : int, optional
        Row i is at column ``start + i`` and sees no later column. None: no causal limit beyond `mask`.
    chunk_scores : int
        Upper bound of the scores that the chunked form holds at once.

    Returns
    -------
    Tensor, (B, H, R, n)
        float32. With half-precision input the fused form is as exact as the kernel's output type.

    Raises
    ------
    OptionError
        If the shapes do not fit.
    """
    _shape(query, key)
    indicator = group_indicator(groups).to(query.device)  # (K, n)
    if indicator.shape[0] != key.shape[2]:
        raise OptionError(
            f"groups name {indicator.shape[0]} columns, but there are {key.shape[2]} keys; give one group per key."
        )
    open_window = start is None or window is None or window >= key.shape[2]
    plain = open_window and softcap is None and sinks is None and indicator.shape[1] <= FUSED_PIECES * query.shape[3]
    fused = _fused_mass(query, key, indicator, scaling, mask, start) if plain else None
    if fused is not None:
        return fused
    options = {"scaling": scaling, "window": window, "softcap": softcap, "sinks": sinks}
    return _chunked_mass(query, key, indicator, mask, start, chunk_scores, options)


def group_indicator(groups: Tensor) -> Tensor:
    """Indicator matrix (K, n) in float32 of integer groups (K,); an indicator that is already (K, n) passes through.

    Examples
    --------
    >>> group_indicator(torch.tensor([0, -1, 1]))
    tensor([[1., 0.],
            [0., 0.],
            [0., 1.]])
    """
    if groups.ndim == 2:
        return groups.float()
    if groups.ndim != 1 or groups.is_floating_point() or groups.numel() == 0:
        raise OptionError(
            f"groups must be a (positions,) integer tensor or a (positions, n) indicator, not {groups.dtype} of shape {tuple(groups.shape)}."
        )
    names = torch.arange(int(groups.max()) + 1, device=groups.device)
    return (groups[:, None] == names).float()


def expand_mask(mask: Tensor) -> Tensor:
    """A mask as something that broadcasts to (B, H, R, K): one bool per column, (B, K), gets its middle axes."""
    return mask[:, None, None, :].bool() if mask.ndim == 2 else mask


def hidden_by(mask: Tensor) -> Tensor:
    """True where a mask hides a column: False in a bool mask, half the type's lowest value or less in an additive one."""
    return ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2


def _shape(query: Tensor, key: Tensor) -> tuple[int, int, int, int]:
    """(B, H, R, K) of a query (B, H, R, D) and key (B, Hkv, K, D) that fit."""
    fits = query.ndim == key.ndim == 4 and query.shape[0] == key.shape[0] and query.shape[3] == key.shape[3]
    if not fits or query.shape[1] % key.shape[1]:
        raise OptionError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} do not fit; expected (B, H, R, D) and (B, Hkv, K, D) with H a multiple of Hkv."
        )
    return query.shape[0], query.shape[1], query.shape[2], key.shape[2]


def _apply_mask(scores: Tensor, mask: Tensor) -> Tensor:
    mask = expand_mask(mask.to(scores.device))
    if mask.dtype != torch.bool:
        scores = scores + mask
    return scores.masked_fill(hidden_by(mask), -torch.inf)


def _fused_mass(
    query: Tensor, key: Tensor, indicator: Tensor, scaling: float, mask: Tensor | None, start: int | None
) -> Tensor | None:
    """The mass by fused attention kernels, or None where only the kernel that builds the whole matrix would run."""
    rows, width = query.shape[2], query.shape[3]
    if start is not None:
        if mask is not None or (start and rows > 1):
            return None
        # No row sees beyond the last one; and the kernels' causal triangle is fastest when square.
        key, indicator = key[:, :, : start + rows], indicator[: start + rows]
    causal = start is not None and rows > 1
    if mask is not None:
        mask = expand_mask(mask)
        mask = mask if mask.dtype == torch.bool else mask.to(query.dtype)
    values = _padded_pieces(indicator.to(query.dtype), width)  # (pieces, K, D)
    if _needs_math(query, key, mask, causal, scaling):
        # Some kernels want one key head per query head.
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        if _needs_math(query, key, mask, causal, scaling):
            return None
    grouped = query.shape[1] != key.shape[1]
    pieces = [
        torch.nn.functional.scaled_dot_product_attention(
            query, key, value.expand_as(key), attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
        )
        for value in values
    ]
    mass = torch.cat(pieces, dim=-1)[..., : indicator.shape[1]].float()  # (B, H, R, n)
    if mask is None:
        return mass
    blind = hidden_by(mask).all(-1, keepdim=True)  # (B|1, H|1, R|1, 1); some kernels answer NaN for such a row
    return mass.masked_fill(blind, 0.0)


def _padded_pieces(indicator: Tensor, width: int) -> Tensor:
    """(K, n) as (pieces, K, width), zero padded: a value narrower than the query would silently take the slow kernel."""
    columns, groups = indicator.shape
    pieces = -(-groups // width)
    padded = torch.nn.functional.pad(indicator, (0, pieces * width - groups))  # (K, pieces*width)
    return padded.view(columns, pieces, width).transpose(0, 1)


def _needs_math(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scaling: float) -> bool:
    """Whether the dispatcher would take the kernel that builds the whole matrix."""
    value = key[..., :1, :].expand_as(key)  # broadcast like the indicator
    return not fused_kernel(query, key, value, mask, causal, scaling)


def _chunked_mass(
    query: Tensor,
    key: Tensor,
    indicator: Tensor,
    mask: Tensor | None,
    start: int | None,
    chunk_scores: int,
    options: dict[str, Any],
) -> Tensor:
    batch, heads, rows, columns = _shape(query, key)
    step = max(1, chunk_scores // (batch * heads * columns))
    mask = None if mask is None else expand_mask(mask)
    pieces = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        positions = None if start is None else torch.arange(start + first, start + last, device=query.device)
        part = mask if mask is None or mask.shape[2] == 1 else mask[:, :, first:last]
        weights = attention_rows(query[:, :, first:last], key, mask=part, positions=positions, **options)
        pieces.append(weights @ indicator.to(weights.dtype))
    return torch.cat(pieces, dim=2)  # (B, H, R, n)
