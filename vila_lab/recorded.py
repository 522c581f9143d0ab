"""What an answer says without a model: its record, read. Knows no session and no experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .engine.record import HeadSets, Record
from .tokenmap import TokenMap
from .tokens import Token

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class RecordedAnswer:
    """An answer as it was given.

    Attributes
    ----------
    record : Record
        All of it as plain data.
    text : str
        What the model said.
    tokens : tuple of Token
        The generated tokens, the one that ended the answer included.
    images : tuple of PIL images
        The pictures, in order.
    token_map : TokenMap
        What every position of prompt and answer is.
    parts : tuple
        The question as it was asked, in order: texts, and for each picture its number, from 0.
    notes : tuple of str
        What a reader must know: a first frame taken, an orientation ignored, an answer cut at its limit.
    choices : dict
        Where the answer was one of some choices (``response_format``), how probable each was among them.
    model : str
        Name of the model that answered.
    edits : tuple of str
        The edits under which it was given (`Session.knockout` and others), in words.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def text(self) -> str:
        """What the model said."""
        return self.record.text

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The generated tokens, the one that ended the answer included."""
        return self.record.tokens

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures, in order."""
        return self.record.images

    @property
    def token_map(self) -> TokenMap:
        """What every position of prompt and answer is."""
        return self.record.token_map

    @property
    def parts(self) -> tuple[str | int, ...]:
        """The question as it was asked, in order: texts, and for each picture its number, from 0."""
        return self.record.parts

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, such as a first frame taken or an answer cut at its limit."""
        return self.record.notes

    @property
    def choices(self) -> dict[str, float]:
        """How probable each of the choices was among them, where ``response_format`` gave some; empty otherwise."""
        return self.record.choices

    @property
    def model(self) -> str:
        """Name of the model that answered."""
        return self.record.model

    @property
    def edits(self) -> tuple[str, ...]:
        """The edits under which it was given, in words."""
        return self.record.edits

    @property
    def head_sets(self) -> HeadSets:
        """(layer, head) pairs by the name that ``heads=`` may give: the session's own, or those of when it was saved."""
        return self.record.head_sets

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

        Raises
        ------
        OptionError
            If there is no such layer or head.
        CaptureError
            If queries and keys were released.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.attention(layer=-1).sizes["head"]
        4
        """
        return self.record.attention(layer, head)

    def layer_means(self) -> NDArray[np.float32]:
        """Attention averaged over the heads of each layer, kept once computed.  # (tokens, layers, T)

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.layer_means().shape[:2]  # tokens and layers
        (3, 6)
        """
        return self.record.layer_means()

    def mean_attention(self) -> NDArray[np.float32]:
        """Attention averaged over all layers and heads.  # (tokens, T)

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.mean_attention().shape == (3, len(answer.token_map))
        True
        """
        return self.record.mean_attention()

    @property
    def sinks(self) -> NDArray[np.int64]:
        """Positions that are looked at whatever they hold: the first, and those whose residual norm in the middle of
        the decoder is more than five times the median (see `vila_lab.hooks.sinks` for the sources)."""
        return self.record.sinks

    @property
    def honesty(self) -> str:
        """What attention does not show, and the call that does."""
        return self.record.honesty

    @property
    def method(self) -> str:
        """What `ledger` and `heatmap` draw, in words."""
        return self.record.method

    def ledger(self) -> pd.DataFrame:
        """Where each token was read: shares of attention, one row per generated token, each summing to 1.

        Returns
        -------
        pandas.DataFrame
            Columns ``image_1`` to ``image_n`` (visual tokens of each picture), ``prompt`` (all other positions of the
            prompt), ``answer`` (tokens generated before), ``sink`` (see `sinks`); the index holds the tokens' numbers
            and texts. Mean over layers and heads: attention says where the model read, not why it answered.

        Raises
        ------
        CaptureError
            If queries and keys were released before it was computed.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.ledger().sum(axis=1).round(3).tolist()
        [1.0, 1.0, 1.0]
        """
        return self.record.ledger()

    def rows_of(self, word: str | None = None) -> list[int]:
        """Numbers of the tokens that hold a word's first occurrence; all that say something for None; none if it was
        not said.

        Raises
        ------
        OptionError
            If it is no word.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.rows_of("Google"), answer.rows_of("Apple")
        ([0], [])
        """
        return self.record.rows_of(word)
