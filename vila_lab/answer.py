"""Answer: what the model said, and lazily where every token of it was read. Knows no model, only what was captured."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .engine.memory import Disk, Spilled, image_bytes
from .errors import CaptureError, OptionError
from .hooks import Tape
from .hooks.sinks import sink_positions
from .options import check_whole
from .tokenmap import TokenMap
from .tokens import Token

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

    from .attribution import Attribution, Replay
    from .edits.flow import Flow
    from .evidence import Evidence, MetricCard

HeadSets: TypeAlias = "Mapping[str, Sequence[tuple[int, int]]]"
ATTENTION_IS_NOT_CAUSE = (
    "Attention shows where the model read, not why it answered; the causal check is answer.attribute('leave_one_out')."
)


class Answer:
    """An answer and everything that can be asked about it.

    Made by `Session.ask`; not meant to be constructed by hand.

    Attributes
    ----------
    text : str
        What the model said.
    tokens : tuple of Token
        The generated tokens, the one that ended the answer included.
    images : tuple of PIL images
        The pictures, in order.
    token_map : TokenMap
        What every position of prompt and answer is.
    parts : tuple
        The prompt as it was asked: texts, and the index of a picture where it stood.
    notes : tuple of str
        What a reader must know: a first frame taken, an orientation ignored, an answer cut at its limit.
    model : str
        Name of the model that answered.
    edits : tuple of str
        The edits under which it was given (`Session.knockout` and others), in words.
    """

    def __init__(
        self,
        *,
        text: str,
        tokens: Sequence[Token],
        images: Sequence[Image.Image],
        token_map: TokenMap,
        parts: Sequence[str | int],
        notes: Sequence[str],
        model: str,
        norms: NDArray[np.float32],
        tape: Tape | None,
        replay: Replay | None = None,
        edits: Sequence[str] = (),
        head_sets: HeadSets | None = None,
        keep_budget: weakref.WeakMethod[Callable[[], None]] | None = None,
    ) -> None:
        self.text = text
        self.tokens = tuple(tokens)
        self.images = tuple(images)
        self.token_map = token_map
        self.parts = tuple(parts)
        self.notes = tuple(notes)
        self.model = model
        self._norms = norms
        self._held = tape
        self._spilled: Spilled | None = None
        self._keep_budget = keep_budget  # weak: an answer must not keep the model alive
        self._replay = replay
        self.edits = tuple(edits)
        self._head_sets = {} if head_sets is None else head_sets
        self._attributions: dict[tuple[str, int | None], Attribution] = {}
        self._layer_means: NDArray[np.float32] | None = None
        self._looked_at = time.monotonic()

    def __repr__(self) -> str:
        return f"Answer({self.text!r}, {len(self.tokens)} tokens, {len(self.images)} pictures)"

    # ---- attention -----------------------------------------------------------------------------------------------

    def attention(self, layer: int | None = None, head: int | None = None) -> xr.DataArray:
        """Exact attention weights of the rows that chose the answer's tokens, computed now.

        Parameters
        ----------
        layer, head
            One layer or one head, counted from 0 (negative from the end); None for all.

        Returns
        -------
        xarray.DataArray
            float32, dims (token, layer, head, position). Row k belongs to ``tokens[k]``; it was computed at the
            position before that token, so the columns from the token on are 0.
        """
        import xarray as xr

        tape = self._require_tape()
        layers = [self._index(layer, tape.n_layers, "layer")] if layer is not None else list(range(tape.n_layers))
        heads = [self._index(head, tape.n_heads, "head")] if head is not None else list(range(tape.n_heads))
        rows = self._rows()
        values = np.zeros((len(rows), len(layers), len(heads), len(self.token_map)), np.float32)
        for place, index in enumerate(layers):
            values[:, place, :, : tape.length] = tape.weights(index, rows, heads).cpu().numpy()
        return xr.DataArray(
            values,
            dims=("token", "layer", "head", "position"),
            coords={
                "token": np.arange(len(rows)),
                "layer": layers,
                "head": heads,
                "position": np.arange(values.shape[-1]),
                "text": ("token", [token.text for token in self.tokens]),
            },
            name="attention",
        )

    def layer_means(self) -> NDArray[np.float32]:
        """Attention averaged over the heads of each layer, kept once computed.  # (tokens, layers, T)"""
        if self._layer_means is None:
            tape = self._require_tape()
            rows = self._rows()
            means = np.zeros((len(rows), tape.n_layers, len(self.token_map)), np.float32)
            for layer in range(tape.n_layers):
                means[:, layer, : tape.length] = tape.weights(layer, rows).mean(1).cpu().numpy()
            self._layer_means = means
        return self._layer_means

    def mean_attention(self) -> NDArray[np.float32]:
        """Attention averaged over all layers and heads.  # (tokens, T)"""
        return np.asarray(self.layer_means().mean(1))

    @property
    def sinks(self) -> NDArray[np.int64]:
        """Positions that are looked at whatever they hold: the first, and those whose residual norm in the middle of
        the decoder is more than five times the median (see `vila_lab.hooks.sinks` for the sources)."""
        return sink_positions(self._norms)

    @property
    def honesty(self) -> str:
        """What attention does not show, and the call that does."""
        return ATTENTION_IS_NOT_CAUSE

    @property
    def method(self) -> str:
        """What `ledger` and `heatmap` draw, in words."""
        layers = self.layer_means().shape[1]
        return f"attention, mean over all {layers} layers and their heads, sinks set apart"

    def ledger(self) -> pd.DataFrame:
        """Where each token was read: shares of attention, one row per generated token, each summing to 1.

        Returns
        -------
        pandas.DataFrame
            Columns ``image_1`` to ``image_n`` (visual tokens of each picture), ``prompt`` (all other positions of the
            prompt), ``answer`` (tokens generated before), ``sink`` (see `sinks`); the index holds the tokens' numbers
            and texts.
        """
        import pandas as pd

        groups = [*(f"image_{k + 1}" for k in range(len(self.images))), "prompt", "answer"]
        table = self.token_map.indicator(groups)
        table[self.sinks] = 0
        sink = np.zeros((len(table), 1), np.float32)
        sink[self.sinks] = 1
        shares = self.mean_attention().astype(np.float64) @ np.concatenate([table, sink], 1)
        shares /= shares.sum(1, keepdims=True)
        index = pd.MultiIndex.from_arrays(
            [range(len(self.tokens)), [t.text for t in self.tokens]], names=["token", "text"]
        )
        return pd.DataFrame(shares, index=index, columns=[*groups, "sink"])

    def heatmap(self, image: int = 0, token: int | None = None, method: str = "attention") -> NDArray[np.float64]:
        """How much a token has to do with which place of a picture.

        Parameters
        ----------
        image
            Which picture, counted from 0.
        token
            Which generated token, counted from 0 (negative from the end); None for the whole answer.
        method
            "attention" is what `ledger` shows, the mean over the answer's tokens; every other name in
            `vila_lab.methods` is computed by `attribute`, once.

        Returns
        -------
        (rows, cols) array
            Over the ORIGINAL picture's geometry, whatever the tiling; it sums to the picture's share in `ledger`, or to
            its score in `Attribution.per_image`.
        """
        if method != "attention":
            return self._attribution(method, token).heatmap(image)
        values = self.mean_attention().astype(np.float64)
        values[:, self.sinks] = 0
        chosen = (
            values[self._index(token, len(self.tokens), "token")] if token is not None else values[self._said()].mean(0)
        )
        return self.token_map.heatmap(chosen, image)

    # ---- attribution ---------------------------------------------------------------------------------------------

    def attribute(self, method: str, token: Any = None, contrast: str | None = None, **options: Any) -> Attribution:
        """How much every position, and so every picture and place, contributed to what was said.

        Parameters
        ----------
        method
            A name in `vila_lab.methods`: "leave_one_out", "shapley", "relevancy" ...
        token : None, int, slice, list of int, or str
            The answer's token (counted from 0, negative from the end), several, or a word of it; None for all. A word
            the model did not say is scored in the answer's place with ``at=k``: from token k on.
        contrast
            Why the target rather than this word: its score in the same place is taken away.
        options
            ``at``; ``score`` ("logprob", or "logodds", which keeps a gradient where the model is certain); and the
            method's own, such as ``baseline``.

        Returns
        -------
        Attribution

        Raises
        ------
        OptionError
            If a name, a token, a word or an option is unknown.
        CaptureError
            If the answer was read from a file or its session was unloaded: there is no model to run again.

        Examples
        --------
        >>> import vila_lab
        >>> folder = vila_lab.demo_images()
        >>> answer = vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> answer.attribute("leave_one_out", token=0).per_image().shape  # a row for the token, a column per picture
        (1, 2)
        """
        from .attribution.registry import attribute, find

        find(method)
        found = attribute(self.replay, method, token, contrast, **options)
        self._settle()
        return found

    @property
    def head_sets(self) -> HeadSets:
        """(layer, head) pairs by the name that ``heads=`` may give: the session's own, or those of when it was saved."""
        return self._head_sets

    @property
    def replay(self) -> Replay:
        """The question, ready to be run again; what every method of attribution works on.

        Raises
        ------
        CaptureError
            If the answer was read from a file: there is no model to run again.
        OptionError
            If it was given under edits, which a clean run would not repeat.
        """
        from .engine.replay import NO_MODEL

        if self.edits:
            raise OptionError(
                f"this answer was given under edits ({'; '.join(self.edits)}), and running it again without them would explain "
                "another answer: ask without edits to attribute it"
            )
        if self._replay is None:
            raise CaptureError(NO_MODEL)
        return self._replay

    # ---- what edits tell -----------------------------------------------------------------------------------------

    def leakage(self, causal: bool = False) -> xr.DataArray:
        """How much the tokens of one picture read from another: attention mass by layer, or its causal twin.

        Parameters
        ----------
        causal
            See `vila_lab.edits.leakage`.

        Returns
        -------
        xarray.DataArray
            Dims (layer, reader, source); without layer for the causal twin.
        """
        from .edits.leakage import causal_leakage, leakage

        return causal_leakage(self.replay) if causal else leakage(self.replay)

    def flow(self, token: Any = None, **options: Any) -> Flow:
        """In which layers does what the pictures show reach the question, and the answer? By cutting edges, band by band.

        Parameters
        ----------
        token, options
            See `vila_lab.edits.flow.flow`.
        """
        from .edits.flow import flow

        return flow(self.replay, token, **options)

    def evidence(self, token: Any = None, **options: Any) -> Evidence:
        """Shares of the pictures by attention, gradient, leave-one-out and Shapley, and whether they agree.

        Parameters
        ----------
        token, options
            See `vila_lab.evidence.evidence`.
        """
        from .evidence import evidence

        return evidence(self, token, **options)

    def metric_card(self, method: str, token: Any = None, *, boxes: Any = None, **options: Any) -> MetricCard:
        """How good a method's map is here, beside a flat map, a random map and a model with shuffled weights.

        Parameters
        ----------
        method, token, boxes, options
            See `vila_lab.evidence.metric_card`.
        """
        from .evidence import metric_card

        return metric_card(self, method, token, boxes=boxes, **options)

    def rows_of(self, word: str | None = None) -> list[int]:
        """Numbers of the tokens that hold a word's first occurrence; all that say something for None; none if it was
        not said."""
        if word is None:
            return self._said()
        start = "".join(token.text for token in self.tokens).find(word)
        ends = np.cumsum([len(token.text) for token in self.tokens])
        begins = ends - [len(token.text) for token in self.tokens]
        return [] if start < 0 else np.flatnonzero((begins < start + len(word)) & (ends > start)).tolist()

    def _attribution(self, method: str, token: int | None) -> Attribution:
        key = method, token
        if key not in self._attributions:
            self._attributions[key] = self.attribute(method, token)
        return self._attributions[key]

    def _said(self) -> list[int]:
        """Tokens that say something: all but the one that ended the answer (that one if there is no other)."""
        said = [k for k, token in enumerate(self.tokens) if not token.stop]
        return said or list(range(len(self.tokens)))

    def _rows(self) -> list[int]:
        tape = self._require_tape()
        return [tape.row_of(token.position - 1) for token in self.tokens]

    def _require_tape(self) -> Tape:
        if self._tape is None:
            raise CaptureError(
                "this answer's queries and keys were released; ask again to look at what was not computed before"
            )
        self._looked_at = time.monotonic()
        return self._tape

    def _index(self, value: int, count: int, what: str) -> int:
        check_whole(what, value)
        if not -count <= value < count:
            raise OptionError(f"there is no {what} {value}: this answer has {count}, counted from 0")
        return value % count

    # ---- memory --------------------------------------------------------------------------------------------------

    @property
    def _tape(self) -> Tape | None:
        """Queries and keys, read back where they were moved to a file."""
        if self._held is not None or self._spilled is None:
            return self._held
        held = self._held = self._spilled.load()
        self._looked_at = time.monotonic()
        self._settle()
        return held

    def _settle(self) -> None:
        """Let the session put others out of memory for what came in here."""
        settle = None if self._keep_budget is None else self._keep_budget()
        if settle is not None:
            settle()

    @property
    def nbytes(self) -> int:
        """Bytes in memory: queries and keys, what the next experiment needs, and the pictures (which answers share)."""
        return self.device_bytes + self.host_bytes + image_bytes(self.images)

    @property
    def device_bytes(self) -> int:
        """Bytes of queries and keys on an accelerator."""
        return self._held.nbytes if self._held is not None and self._held.is_on_accelerator else 0

    @property
    def host_bytes(self) -> int:
        """Bytes of queries, keys and prepared inputs in the host's memory."""
        tape = 0 if self._held is None or self._held.is_on_accelerator else self._held.nbytes
        return tape + self.cache_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of model inputs and embeddings that wait for the next experiment."""
        return 0 if self._replay is None else self._replay.nbytes

    @property
    def looked_at(self) -> float:
        """When queries and keys were last needed, on the monotonic clock."""
        return self._looked_at

    def offload(self) -> None:
        """Move queries and keys to the host's memory; everything still works."""
        if self._held is not None:
            self._held.to("cpu")

    def spill(self, disk: Disk) -> None:
        """Move queries and keys to a file, and forget inputs; both come back when somebody looks."""
        if self._held is not None:
            self._spilled = self._spilled or Spilled.of(self._held, disk)
            self._held = None
        if self._replay is not None:
            self._replay.release()

    def release(self) -> None:
        """Let go of queries and keys. The text, the tokens, the pictures and whatever was computed already stay."""
        self._held = self._spilled = None
        if self._replay is not None:
            self._replay.release()

    # ---- showing -------------------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from .view import mimebundle, view_of

        return mimebundle(view_of(self))

    def plot(self, kind: str, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw a figure: heatmap, ledger, layers, heads, leakage, flow, curves, patching, logit_lens or agreement.

        Parameters
        ----------
        kind, options
            See `vila_lab.view.plots`: the options are the keywords of the kind's function there.
        ax
            matplotlib axes to draw on; None makes a figure of its own (``.figure``), which a notebook shows.

        Raises
        ------
        OptionError
            If the kind or an option is unknown.
        """
        from .view.plots import plot

        return plot(self, kind, ax, **options)

    def explore(self, *, sync: Any = None, **shown: Any) -> Any:
        """The live widget: the reader's token, region, layer and head as traits; any head computed when asked for.

        Parameters
        ----------
        sync
            Another explorer, or several, that shall make the same choices.
        shown
            ``attributions``, ``cards`` and ``boxes`` to show as well; see `vila_lab.view.explorer.explore`.

        Raises
        ------
        MissingExtra
            Without anywidget; the message holds the pip line.
        """
        from .view.explorer import explore

        return explore(self, sync=sync, **shown)

    def to_html(self, path: str | Path) -> Path:
        """Write the answer as one self-contained page that works offline."""
        from .view import page, view_of

        return page(view_of(self), path)

    # ---- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write everything to one file: safetensors with a JSON header, no pickle. `vila_lab.open` reads it back."""
        from .answer_file import save_answer

        return save_answer(self, path)
