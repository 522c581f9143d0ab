"""What one question left behind, as plain data, and what follows from it without a model. Knows no model and no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import CaptureError, OptionError
from ..hooks import Tape
from ..hooks.sinks import sink_positions
from ..options import check_whole
from ..picture import Frame, Picture
from ..pointing import WhichPicture, WhichTokens, token_numbers, tokens_of_word
from ..prompt import Prompt, Turn
from ..tokenmap import TokenMap
from ..tokens import Token
from ..wire import parsing, to_bytes
from .memory import KeptTape
from .record_bytes import KEY, packed, unpacked
from .said import Said

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ATTENTION_IS_NOT_CAUSE = (
    "Attention shows where the model read, not why it answered; the causal check is answer.attribute('leave_one_out')."
)

ROWS_OF_BYTES = 2**26  # bytes of weights that are looked at together

HeadSets: TypeAlias = "Mapping[str, Sequence[tuple[int, int]]]"


class Record:
    """An answer's text and tokens, the prompt it was given to, and the queries and keys recorded on the way.

    It pickles, and its copy in another process gives the same numbers to the bit; no model is needed to look at it.

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
        The question as it was asked: texts, and the index of a picture where it stood.
    history : tuple of Said
        What was said before it, in a conversation.
    choices : dict
        Where the answer was one of some choices, how probable each was.
    notes : tuple of str
        What a reader must know.
    model : str
        Name of the model that answered.
    norms : (T,) array
        Residual norms in the middle of the decoder, from which sinks are told.
    kept : KeptTape
        Queries and keys, wherever they lie.
    edits : tuple of str
        The edits under which it was given, in words.
    options : dict
        The options of the model's family under which it was prepared, everything automatic in them decided.
    head_sets : mapping
        (layer, head) pairs by the name that ``heads=`` may give.
    frames : tuple of Frame or None
        For every picture, which frame of a video it is.
    asked : dict
        What was asked beside the prompt and the edits; see `vila_lab.engine.repeating`.
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
        edits: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        head_sets: HeadSets | None = None,
        layer_means: NDArray[np.float32] | None = None,
        history: Sequence[Said] = (),
        choices: Mapping[str, float] | None = None,
        frames: Sequence[Frame | None] = (),
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.text = text
        self.tokens = tuple(tokens)
        self.images = tuple(images)
        self.frames = tuple(frames) or (None,) * len(self.images)
        self.token_map = token_map
        self.parts = tuple(parts)
        self.history = tuple(history)
        self.choices = dict(choices or {})
        self.notes = tuple(notes)
        self.model = model
        self.norms = norms
        self.kept = KeptTape(tape)
        self.edits = tuple(edits)
        self.options = {} if options is None else dict(options)
        self.head_sets = {} if head_sets is None else head_sets
        self.asked = dict(asked or {})
        self._layer_means = layer_means

    def __repr__(self) -> str:
        return f"Record({self.text!r}, {len(self.tokens)} tokens, {len(self.images)} pictures)"

    # -- bytes -------------------------------------------------------------------------------------------------------

    def to_bytes(self, *, pictures: bool = True, tape: bool = True, originals: bool = True) -> bytes:
        """The record as the bytes of a saved file: safetensors with a JSON header and a checksum, no pickle.

        Parameters
        ----------
        pictures, tape
            False leaves the pictures, or queries and keys, out: for a reader who has the ones, or may ask for the others.
        originals
            False writes the pictures only as fine as the model saw them, with a note that says so.
        """
        return to_bytes(KEY, *packed(self, pictures=pictures, tape=tape, originals=originals))

    @classmethod
    def from_bytes(cls, data: bytes, images: Sequence[Image.Image] | None = None) -> Record:
        """A record from `to_bytes`, with its pictures where they were left out.

        Raises
        ------
        FileError
            If the bytes are something else, or damaged.
        """
        with parsing(data, KEY, "answer", "the bytes") as (header, tensors):
            return cls.restored(header, tensors, images)

    @classmethod
    def restored(
        cls, header: Mapping[str, Any], tensors: dict[str, Tensor], images: Sequence[Image.Image] | None = None
    ) -> Record:
        """A record from what `vila_lab.engine.record_bytes.packed` makes of one."""
        return cls(**unpacked(header, tensors, images))

    def __reduce__(self) -> tuple[Any, ...]:
        return Record.from_bytes, (self.to_bytes(),)

    @property
    def prompt(self) -> Prompt:
        """The prompt, ready to be asked again."""

        told = self.asked.get("pictures", ())
        notes = [tuple(told[k]) if k < len(told) else () for k in range(len(self.images))]

        def shown(parts: Sequence[str | int]) -> tuple[str | Picture, ...]:
            return tuple(
                Picture(self.images[part], f"picture {part + 1} of an answer", notes[part], self.frames[part])
                if isinstance(part, int)
                else part
                for part in parts
            )

        return Prompt(shown(self.parts), tuple(Turn(said.role, shown(said.parts), said.ids) for said in self.history))

    # -- attention ---------------------------------------------------------------------------------------------------

    @property
    def has_attention(self) -> bool:
        """Whether attention can be told: queries and keys are there, or what was computed from them."""
        return self.kept.is_there or self._layer_means is not None

    def tape(self) -> Tape:
        """Queries and keys, read back where they were moved to a file.

        Raises
        ------
        CaptureError
            If they were released.
        """
        tape = self.kept.get()
        if tape is None:
            raise CaptureError(
                "this answer's queries and keys were released; ask again to look at what was not computed before"
            )
        return tape

    def rows(self) -> list[int]:
        """The tape's rows that chose the tokens."""
        tape = self.tape()
        return [tape.row_of(token.position - 1) for token in self.tokens]

    def attention(self, layer: int | None = None, head: int | None = None) -> xr.DataArray:
        """See `Answer.attention`."""
        import xarray as xr

        tape = self.tape()
        layers = [index_of(layer, tape.n_layers, "layer")] if layer is not None else list(range(tape.n_layers))
        heads = [index_of(head, tape.n_heads, "head")] if head is not None else list(range(tape.n_heads))
        rows = self.rows()
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
            tape, rows = self.tape(), self.rows()
            means = np.zeros((len(rows), tape.n_layers, len(self.token_map)), np.float32)
            for layer in range(tape.n_layers):
                means[:, layer, : tape.length] = tape.weights(layer, rows).mean(1).cpu().numpy()
            self._layer_means = means
        return self._layer_means

    def heads_mean(self, heads: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Attention averaged over some heads, each a layer and its number there.  # (tokens, T)"""
        tape, rows = self.tape(), self.rows()
        mean = np.zeros((len(rows), len(self.token_map)))
        for layer in {layer for layer, _ in heads}:
            chosen = [head for other, head in heads if other == layer]
            mean[:, : tape.length] += tape.weights(layer, rows, chosen).double().sum(1).cpu().numpy()
        return mean / len(heads)

    def head_shares(self, groups: NDArray[Any], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Attention of every head to groups of positions, mean over some tokens, in memory that does not grow with the layers.

        Parameters
        ----------
        groups : (T, groups) array
            What part of each position belongs to each group.
        tokens
            Numbers of the tokens.

        Returns
        -------
        (layers, heads, groups) array
        """
        tape, rows = self.tape(), self.rows()
        chosen = [rows[token] for token in tokens]
        table = torch.from_numpy(np.asarray(groups[: tape.length], np.float32))  # (K, groups)
        many = max(1, ROWS_OF_BYTES // (4 * tape.n_heads * tape.length))
        found = np.zeros((tape.n_layers, tape.n_heads, table.shape[1]))
        for layer in range(tape.n_layers):
            for start in range(0, len(chosen), many):
                weights = tape.weights(layer, chosen[start : start + many])  # (R, H, K)
                found[layer] += (weights.sum(0) @ table.to(weights.device)).double().cpu().numpy()
        return found / max(len(chosen), 1)

    def mean_attention(self) -> NDArray[np.float32]:
        """Attention averaged over all layers and heads.  # (tokens, T)"""
        return np.asarray(self.layer_means().mean(1))

    @property
    def honesty(self) -> str:
        """What attention does not show, and the call that does."""
        return ATTENTION_IS_NOT_CAUSE

    @property
    def method(self) -> str:
        """What `ledger` and `heatmap` tell, in words."""
        layers = self.layer_means().shape[1]
        return f"attention, mean over all {layers} layers and their heads, sinks set apart"

    @property
    def sinks(self) -> NDArray[np.int64]:
        """See `Answer.sinks`."""
        return sink_positions(self.norms)

    def ledger(self) -> pd.DataFrame:
        """See `Answer.ledger`."""
        import pandas as pd

        index = pd.MultiIndex.from_arrays(
            [range(len(self.tokens)), [t.text for t in self.tokens]], names=["token", "text"]
        )
        return pd.DataFrame(self.ledger_values(), index=index, columns=[*self._ledger_groups, "sink"])

    def ledger_values(self) -> NDArray[np.float64]:
        """The numbers of `ledger`, for callers that have many answers: a table of pandas takes longer than what is in it.

        Returns
        -------
        (tokens, pictures + 3) array
        """
        table = self.token_map.indicator(self._ledger_groups)
        table[self.sinks] = 0
        sink = np.zeros((len(table), 1), np.float32)
        sink[self.sinks] = 1
        shares = self.mean_attention().astype(np.float64) @ np.concatenate([table, sink], 1)
        return np.asarray(shares / shares.sum(1, keepdims=True))

    @property
    def _ledger_groups(self) -> list[str]:
        return [*(f"image_{k + 1}" for k in range(len(self.images))), "prompt", "answer"]

    def heatmap(self, image: WhichPicture = 0, token: WhichTokens = None) -> NDArray[np.float64]:
        """Attention over the original picture; see `Answer.heatmap`."""
        values = self.mean_attention().astype(np.float64)
        values[:, self.sinks] = 0
        return self.token_map.heatmap(values[self.numbers_of(token)].mean(0), image)

    # -- words -------------------------------------------------------------------------------------------------------

    def said(self) -> list[int]:
        """Tokens that say something: all but the one that ended the answer (that one if there is no other)."""
        said = [k for k, token in enumerate(self.tokens) if not token.stop]
        return said or list(range(len(self.tokens)))

    def rows_of(self, word: str | None = None) -> list[int]:
        """See `Answer.rows_of`."""
        if not isinstance(word, str | None):
            raise OptionError(f"rows_of takes a word of the answer, not {word!r}")
        return self.said() if word is None else tokens_of_word(word, self.tokens)

    def numbers_of(self, token: WhichTokens = None) -> list[int]:
        """Numbers of the tokens meant; of None, those that say something.

        Raises
        ------
        OptionError
            If there is no such token or word.
        """
        return self.said() if token is None else token_numbers(token, self.tokens)[0]


def index_of(value: int, count: int, what: str) -> int:
    """A number that may count from the end.

    Raises
    ------
    OptionError
        If there is no such one.
    """
    check_whole(what, value)
    if not -count <= value < count:
        raise OptionError(f"there is no {what} {value}: this answer has {count}, counted from 0")
    return value % count
