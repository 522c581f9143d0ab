"""Queries, keys, values and outputs of every decoder layer in one teacher-forced pass, with their graph. Knows no method.

Nothing T x T is kept: weights of chosen rows, and their gradients dP = dO Vᵀ, are computed from these when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.replay import Replay, frozen
from ..engine.target import Pass
from ..errors import CaptureError
from ..hooks.call import AttentionCall, acting_on
from ..hooks.rows import attention_rows
from ..hooks.sinks import ResidualNorms, sink_positions

CHUNK_SCORES = 2**23  # weights held at once: 32 MiB in float32
NO_GRADIENTS = (
    "this model gives no gradients (its attention implementation or its quantisation has no backward pass): "
    "load it with attn_implementation='sdpa' and without quantization, or use 'leave_one_out'"
)


@dataclass(eq=False)
class Layer:
    """One layer's attention call.

    Attributes
    ----------
    query : Tensor (1, H, T, D)
    key, value : Tensor (1, Hkv, T, D)
    output : Tensor (1, T, H, D)
    mask : Tensor (1, H|1, T, T), optional
        The whole truth of what each row sees; None: what stands before it, within the window.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    mask: Tensor | None
    causal: bool

    def weights(self, rows: Tensor) -> Tensor:
        """Attention weights of some rows.  # (H, R, T)"""
        return attention_rows(
            self.query[0, :, rows].detach(),
            self.key[0].detach(),
            scaling=self.scaling,
            mask=None if self.mask is None else self.mask[0, :, rows],
            positions=rows if self.causal and self.mask is None else None,
            window=self.window,
            softcap=self.softcap,
            sinks=self.sinks,
        )

    def weight_gradients(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """dP = dO Vᵀ: how the target changes with the weights of some rows.  # (H, R, T)

        `gradient` is that of `output`, (1, T, H, D).
        """
        value = self.value[0].detach().float()  # (Hkv, T, D)
        wanted = gradient[0, rows].float().transpose(0, 1)  # (H, R, D)
        heads, count, width = wanted.shape
        grouped = wanted.reshape(value.shape[0], -1, width)  # (Hkv, H/Hkv*R, D)
        return (grouped @ value.transpose(-1, -2)).view(heads, count, -1)

    def chunks(self, stop: int) -> Iterator[Tensor]:
        """Rows 0 to `stop`, few enough at a time for their weights to fit."""
        heads, length = self.query.shape[1:3]
        step = max(1, CHUNK_SCORES // (heads * length))
        for first in range(0, stop, step):
            yield torch.arange(first, min(first + step, stop), device=self.query.device)


@dataclass(eq=False)
class Recording:
    """One teacher-forced pass.

    Attributes
    ----------
    layers : list of Layer
    inputs : Tensor (T, (1 + deep) * H)
        All that each position is given, see `Embedded.features`: a leaf of the graph.
    logits : Tensor (rows, V)
        At the rows of the pass.
    norms : (T,) array
        Residual norms in the middle of the decoder, from which sinks are told.
    """

    inputs: Tensor
    logits: Tensor
    layers: list[Layer] = field(default_factory=list)
    norms: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def sinks(self) -> NDArray[np.int64]:
        return sink_positions(self.norms)


class CallRecorder:
    """Keeps what goes in and out of every layer's attention, graph and all."""

    def __init__(self) -> None:
        self.kept: dict[int, Layer] = {}

    def record(self, call: AttentionCall, output: Tensor) -> None:
        self.kept[call.layer] = Layer(
            call.query,
            call.key,
            call.value,
            output,
            scaling=call.scaling,
            window=call.window,
            softcap=call.softcap,
            sinks=call.sinks,
            mask=None if call.mask is None or call.mask.ndim == 2 else call.mask.detach(),
            causal=call.causal,
        )


@contextmanager
def recorded(replay: Replay, each: Pass, *, gradients: bool = True, attention: bool = True) -> Iterator[Recording]:
    """Run one pass of a target and keep it for the length of the block, without gradients of parameters.

    Raises
    ------
    CaptureError
        If gradients are wanted and the model gives none.
    """
    model = replay.model
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(frozen(model))
        sequence = replay.followed(replay.embedded, each.fed)
        inputs = sequence.features.detach().requires_grad_(gradients)
        keep = [replay.prompt_length - 1 + row for row in each.rows]
        with ExitStack() as hooks:
            calls = CallRecorder()
            if attention:
                hooks.enter_context(acting_on(replay.family.sites, recorder=calls))
            decoder = replay.family.decoder_layers
            norms = hooks.enter_context(ResidualNorms(decoder[len(decoder) // 2]))
            logits = replay.decode(sequence.with_features(inputs), keep=keep)[0]
        replay.meter.forwards += 1
        if gradients and not logits.requires_grad:
            raise CaptureError(NO_GRADIENTS)
        layers = [calls.kept[layer] for layer in sorted(calls.kept)]
        yield Recording(inputs, logits, layers, norms.values())


def gradients_of(replay: Replay, value: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One backward pass from a score to some tensors of a recording; the graph stays for the next score.

    Raises
    ------
    CaptureError
        If a tensor does not take part in the score.
    """
    replay.meter.backwards += 1
    try:
        found = torch.autograd.grad(value, list(tensors), retain_graph=True, allow_unused=False)
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CaptureError(f"{NO_GRADIENTS} ({str(error).splitlines()[0]})") from error
    return found
