"""The context manager that puts a recorder into a model and takes it out again, whatever happens. Knows no numerics.

How the attention modules are brought to call the recorder, and why so, is in `vila_lab.hooks.rewire`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks.finish import decoder_layers, tower_layers
from vila_lab.hooks.recorder import ATTENTION, SLOT, DecoderRecorder, Mode, Slot, TowerRecorder, uncompiled
from vila_lab.hooks.rewire import WAY_OUT, rewired
from vila_lab.hooks.rows import group_indicator
from vila_lab.hooks.tape import Tape
from vila_lab.hooks.towers import Site, base_function, select_sites


class Capture(ExitStack[bool | None]):
    """Record attention while a model generates, without changing what it computes.

    Parameters
    ----------
    model : PreTrainedModel
        Any decoder, or model with a decoder, whose attention goes through transformers' `AttentionInterface`.
    rows : "answer", "all" or sequence of int
        "answer" (default) keeps the rows that chose the answer's tokens; positions keep those rows as well; "all" keeps all.
    groups : Tensor, optional, (T,) integer or (T, n)
        Column group of every prompt position (-1: none), or their indicator: the attention mass on each group is then
        recorded for every prompt row.
    mass_block : int
        Average that mass over blocks of so many rows (1: keep every row).
    mode : "auto", "tape" or "live"
        "tape" keeps queries and computes weights when asked; "live" stores float16 weights at once; "auto" takes the tape
        wherever the cache keeps its keys (not: sliding windows, quantised and offloaded caches).
    towers : sequence of "text", "vision"
        Towers to record. ``with`` gives the tape of the first; `Tape.tower_tape` the others.

    Raises
    ------
    OptionError
        If an option is unknown.
    CaptureError
        On entering: if the model is being captured already. From inside generate: beams, assisted decoding,
        ``use_cache=False`` or a second generation. On leaving: if a layer did not record every step.

    Notes
    -----
    Only the thread that entered the block is recorded; the same model may answer in other threads meanwhile.

    Examples
    --------
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> config = Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    >>> model = Qwen2ForCausalLM(config).eval()
    >>> with Capture(model) as tape:
    ...     ids = model.generate(torch.arange(5)[None], max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    >>> tape.finish(tokens=3).positions.tolist()
    [4, 5, 6]
    >>> tape.weights(layer=1, rows=0).shape  # (rows, heads, columns)
    torch.Size([1, 4, 7])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rows: str | Iterable[int] = "answer",
        groups: Tensor | None = None,
        mass_block: int = 1,
        mode: Mode = "auto",
        towers: Iterable[str] = ("text",),
    ) -> None:
        if mode not in get_args(Mode):
            raise OptionError(f"mode {mode!r} is unknown; use one of {', '.join(get_args(Mode))}.")
        if mass_block < 1:
            raise OptionError(f"mass_block must be at least 1, not {mass_block}.")
        super().__init__()
        self._model = model
        self._mode: Mode = mode
        self._rows = _checked_rows(rows)
        self._indicator = None if groups is None else group_indicator(torch.as_tensor(groups))
        self._mass_block = mass_block
        self._towers = (towers,) if isinstance(towers, str) else tuple(towers)
        if not self._towers:
            raise OptionError("towers is empty; name 'text', 'vision' or both.")
        self._recorders: dict[str, DecoderRecorder | TowerRecorder] = {}
        self._tapes: dict[str, Tape] = {}

    def __enter__(self) -> Tape:  # type: ignore[override]
        if self._recorders:
            raise CaptureError("this Capture is already running; create another one.")
        sites = select_sites(self._model, self._towers)
        self._check_free(sites)
        bases = {site.name: base_function(site) for members in sites.values() for site in members}
        try:
            self._tapes = {}
            for tower in self._towers:
                Tape(tower, self._tapes)
            self.push(self._finish)  # runs last, when nothing is left in the model
            for tower, members in sites.items():
                self._install(tower, members, bases)
            return self._tapes[self._towers[0]]
        except BaseException as error:
            self._recorders = {}
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _check_free(self, sites: Mapping[str, Sequence[Site]]) -> None:
        taken = [site.name for members in sites.values() for site in members if SLOT in site.module.__dict__]
        if taken:
            raise CaptureError(f"{type(self._model).__name__} is already being captured ({taken[0]}); {WAY_OUT}")

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorders, self._recorders = self._recorders, {}
        if kind is not None:
            for tape in self._tapes.values():
                tape.fail(f"the captured run did not end ({kind.__name__}); run it again")
            return
        for tower, recorder in recorders.items():
            try:
                self._fill(self._tapes[tower], recorder)
            except BaseException:
                for tape in self._tapes.values():
                    tape.fail("the capture was incomplete; run it again")
                raise

    def _install(self, tower: str, members: list[Site], bases: dict[str, Any]) -> None:
        layers = [site.layer for site in members]
        recorder: DecoderRecorder | TowerRecorder
        if tower == "text":
            recorder = DecoderRecorder(layers, self._rows, self._indicator, self._mass_block, self._mode)
            owner = members[0].owner
            before, after = uncompiled(recorder.before), uncompiled(recorder.after)
            self.callback(owner.register_forward_pre_hook(before, with_kwargs=True).remove)
            self.callback(owner.register_forward_hook(after, with_kwargs=True).remove)
        else:
            recorder = TowerRecorder(layers)
        self._recorders[tower] = recorder
        slots = {site: Slot(recorder, site.layer, bases[site.name]) for site in members}
        self.enter_context(rewired(slots, SLOT, ATTENTION))

    @staticmethod
    def _fill(tape: Tape, recorder: DecoderRecorder | TowerRecorder) -> None:
        if isinstance(recorder, TowerRecorder):
            layers, rows = tower_layers(recorder)
            tape.fill(layers, range(rows), rows)
            return
        layers = decoder_layers(recorder)
        positions = [position for step in recorder.steps for position in step.positions]
        extra = (
            recorder.rows if isinstance(recorder.rows, frozenset) else None if recorder.rows == "all" else frozenset()
        )
        missing = sorted((extra or frozenset()) - set(positions))
        if missing:
            raise CaptureError(
                f"the row at position {missing[0]} was asked for, but the sequence has positions "
                f"{recorder.steps[0].start} to {recorder.seen - 1}."
            )
        tape.fill(
            layers,
            positions,
            recorder.seen,
            steps=[step.length for step in recorder.steps],
            extra=extra,
            mass_rows=recorder.mass_rows,
        )


def _checked_rows(rows: str | Iterable[int]) -> str | frozenset[int]:
    if isinstance(rows, str):
        if rows not in ("answer", "all"):
            raise OptionError(f"rows {rows!r} is unknown; use 'answer', 'all' or positions.")
        return rows
    positions = frozenset(int(row) for row in rows)
    if any(position < 0 for position in positions):
        raise OptionError(f"rows holds {min(positions)}; positions count from 0 at the start of the prompt.")
    return positions
