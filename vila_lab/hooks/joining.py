"""From what a decoder's recorder picked up to a tape: joined, checked, with masks reduced. Runs after the model did."""

from __future__ import annotations

import torch
from torch import Tensor

from vila_lab.errors import CaptureError
from vila_lab.hooks.layer_tape import LayerTape
from vila_lab.hooks.recorder import DecoderRecorder, Reel, Step
from vila_lab.hooks.rows import hidden_by
from vila_lab.hooks.tape import Tape


def tape_of(recorder: DecoderRecorder, prompt_length: int | None = None) -> Tape:
    """The tape of a run that has ended.

    Parameters
    ----------
    recorder
    prompt_length
        Positions of the prompt, with what was in the cache before. Needed where the prompt was read in parts, whose last rows
        are not the answer's.

    Raises
    ------
    CaptureError
        If nothing was recorded, a layer did not record every step, a row that was asked for never came, or the forwards are
        not those of one prompt and then one row per token.
    """
    layers = _layers(recorder)
    positions = [position for step in recorder.steps for position in step.positions]
    if recorder.rows != "all":
        extra = recorder.rows if isinstance(recorder.rows, frozenset) else frozenset()
        missing = sorted(extra - set(positions))
        if missing:
            raise CaptureError(
                f"the row at position {missing[0]} was asked for, but the sequence has positions {recorder.steps[0].start} to {recorder.seen - 1}."
            )
        first = _first_row(recorder.steps, prompt_length)
        kept = [row for row, position in enumerate(positions) if position >= first or position in extra]
        if len(kept) < len(positions):
            done: dict[int, tuple[Tensor, Tensor]] = {}
            for layer in layers.values():
                layer.keep_rows(torch.tensor(kept), done)
            positions = [positions[row] for row in kept]
    return Tape(layers, positions, recorder.seen, recorder.mass_rows)


def _first_row(steps: list[Step], prompt_length: int | None) -> int:
    """Position of the row that chose the answer's first token: the prompt's last."""
    if prompt_length is None:
        if len(steps) > 1 and steps[1].length > 1:
            raise CaptureError(
                "the second forward had several rows: a prompt read in parts, whose length must be told (prompt_length=), or assisted "
                "decoding, which cannot be captured."
            )
        return steps[0].stop - 1
    if prompt_length not in {step.stop for step in steps} or any(
        step.length > 1 for step in steps if step.start >= prompt_length
    ):
        raise CaptureError(
            f"after a prompt of {prompt_length} positions every forward must have one row, but they covered "
            f"{', '.join(f'{step.start} to {step.stop - 1}' for step in steps[:4])}; the capture must enclose exactly one generate, "
            "without beams or assistant."
        )
    return prompt_length - 1


def _layers(recorder: DecoderRecorder) -> dict[int, LayerTape]:
    """Join the steps of every layer.

    Raises
    ------
    CaptureError
        If nothing was recorded, or a layer did not record every step.
    """
    steps = len(recorder.steps)
    if not steps:
        raise CaptureError(
            "nothing was recorded: the decoder did not run inside the block, or ran in another thread than the one that opened it."
        )
    for layer, reel in recorder.reels.items():
        if reel.steps != steps:
            raise CaptureError(
                f"layer {layer} recorded {reel.steps} of {steps} forwards; a layer that is skipped or replaced cannot be captured."
            )
    masks: dict[tuple[int, ...], tuple[Tensor | None, bool]] = {}
    return {layer: _layer(reel, recorder, masks) for layer, reel in recorder.reels.items()}


def _layer(
    reel: Reel, recorder: DecoderRecorder, masks: dict[tuple[int, ...], tuple[Tensor | None, bool]]
) -> LayerTape:
    layer = LayerTape(scaling=reel.scaling, softcap=reel.softcap, causal=reel.causal)
    layer.mass = _join(reel.mass, 2) if reel.mass else None
    if reel.live:
        width = max(rows.shape[-1] for rows in reel.live_rows)
        layer.live = _join([_pad(rows, width) for rows in reel.live_rows], 2)
        counts = torch.tensor([rows.shape[2] for rows in reel.live_rows])
        layer.first = torch.tensor(reel.live_first).repeat_interleave(counts)
        return layer
    assert reel.key is not None
    layer.query, layer.sinks = _join(reel.queries, 2), reel.sinks
    layer.key = reel.key[:, :, : recorder.seen]
    if reel.key_is_buffer or reel.key.shape[2] > recorder.seen:
        # A static cache is one buffer that the next prompt overwrites.
        layer.key = layer.key.clone()
    shared = tuple(id(mask) for mask in reel.masks)
    if shared not in masks:
        masks[shared] = _reduce(reel.masks, recorder.steps, recorder.seen, reel.causal, layer.key.device)
    layer.mask, full = masks[shared]
    layer.causal = reel.causal and not full
    return layer


def _reduce(
    masks: list[Tensor | None], steps: list[Step], columns: int, causal: bool, device: torch.device
) -> tuple[Tensor | None, bool]:
    """The steps' masks as little as possible: nothing, the columns that exist (..., 1, K), or all rows (..., R, K).

    The second value tells whether the mask is the whole truth; otherwise the causal limit comes on top.
    """
    sees_what_there_was = causal or len(steps) == 1  # else a row must not see what only later steps brought
    if all(mask is None for mask in masks) and sees_what_there_was:
        return None, False
    parts = []
    for mask, step in zip(masks, steps, strict=True):
        positions = torch.tensor(step.positions, device=device)
        last = positions[:, None] if causal else step.stop - 1
        limit = torch.arange(columns, device=device) <= last  # (r|1, K)
        limit = limit.expand(len(step.positions), columns)
        parts.append(limit[None, None] if mask is None else _widen(mask, len(step.positions), columns))
    batch, heads = max(part.shape[0] for part in parts), max(part.shape[1] for part in parts)
    if any(part.dtype != torch.bool for part in parts):
        parts = [_additive(part) for part in parts]
    full = torch.cat([part.expand(batch, heads, -1, -1) for part in parts], dim=2)  # (B|1, H|1, R, K)
    if full.dtype != torch.bool:
        return full, True
    positions = torch.tensor([position for step in steps for position in step.positions], device=device)
    limit = torch.arange(columns, device=device) <= positions[:, None]  # (R, K)
    exists = full[:, :, -1:]  # the last row sees every column that any row sees, if columns only differ by padding
    if not causal or not torch.equal(full, exists & limit):
        return full, True
    return (None if bool(exists.all()) else exists.clone()), False


def _widen(mask: Tensor, rows: int, columns: int) -> Tensor:
    """A step's mask over all columns, as bool where it only shows or hides."""
    hidden = hidden_by(mask)
    if mask.dtype != torch.bool and bool((mask.masked_fill(hidden, 0) == 0).all()):
        mask = ~hidden
    fill = False if mask.dtype == torch.bool else -torch.inf
    mask = torch.nn.functional.pad(mask, (0, columns - mask.shape[-1]), value=fill)
    return mask.expand(-1, -1, rows, -1)


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)


def _pad(rows: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[-1]))


def _join(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
