"""The context manager that records a model while somebody else runs it. Knows no numerics.

How the attention modules are brought to call the recorder, and why so, is in `vila_lab.hooks.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks.joining import tape_of
from vila_lab.hooks.recorder import DecoderRecorder, Mode
from vila_lab.hooks.rows import group_indicator
from vila_lab.hooks.sites import select_sites
from vila_lab.hooks.tape import Tape
from vila_lab.hooks.tower import TowerRecorder, TowerTape


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
        Towers to record: `text` and `vision` are their tapes, and ``with`` gives that of the decoder, or else of the tower.
    prompt_length : int, optional
        Positions of the prompt, with what was in the cache before; needed where it is read in parts.

    Attributes
    ----------
    text : Tape
    vision : TowerTape
        Complete as soon as the block has ended.

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
    >>> tape.positions.tolist()
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
        prompt_length: int | None = None,
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
        self._prompt_length = prompt_length
        self._running = False
        self.text, self.vision = Tape.pending(), TowerTape()

    def __enter__(self) -> Any:  # a Tape, or a TowerTape where only the tower is recorded
        if self._running:
            raise CaptureError("this Capture is already running; create another one.")
        sites = select_sites(self._model, self._towers)
        self.text, self.vision = Tape.pending(), TowerTape()
        for name, tape in (("text", self.text), ("vision", self.vision)):
            if name not in sites:
                tape.fail(f"the {name} tower was not captured; name it in towers=")
        self._running = True
        try:
            # The way out runs last, when nothing is left in the model.
            if "vision" in sites:
                tower = TowerRecorder(sites["vision"])
                self.push(self._ending(lambda: self.vision.fill(tower.layers())))
                self.enter_context(tower.watching())
            if "text" in sites:
                decoder = DecoderRecorder(sites["text"], self._rows, self._indicator, self._mass_block, self._mode)
                self.push(self._ending(lambda: self.text.fill(tape_of(decoder, self._prompt_length))))
                self.enter_context(decoder.watching())
            return self.text if "text" in sites else self.vision
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _ending(self, fill: Callable[[], None]) -> Callable[..., None]:
        """What happens to a tape when the block ends."""

        def end(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
            self._running = False
            if kind is not None:
                self._fail(f"the captured run did not end ({kind.__name__}); run it again")
                return
            try:
                fill()
            except BaseException:
                self._fail("the capture was incomplete; run it again")
                raise

        return end

    def _fail(self, why: str) -> None:
        for name, tape in (("text", self.text), ("vision", self.vision)):
            if name in self._towers:
                tape.fail(why)


def _checked_rows(rows: str | Iterable[int]) -> str | frozenset[int]:
    if isinstance(rows, str):
        if rows not in ("answer", "all"):
            raise OptionError(f"rows {rows!r} is unknown; use 'answer', 'all' or positions.")
        return rows
    positions = frozenset(int(row) for row in rows)
    if any(position < 0 for position in positions):
        raise OptionError(f"rows holds {min(positions)}; positions count from 0 at the start of the prompt.")
    return positions
