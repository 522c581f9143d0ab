"""Answer: what a reader holds in the hand, shown, drawn, saved and let go of. Knows a record, and a model if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .attribution import Attribution
from .attribution.choices import Baseline
from .attribution.registry import MethodName
from .engine.inputs import Inputs
from .engine.lab import Lab
from .engine.memory import Holding, image_bytes
from .engine.record import Record
from .engine.record_bytes import KEY
from .errors import CaptureError, OptionError
from .evidence import MetricCard
from .examined import ExaminedAnswer
from .options import given, spelled
from .pointing import WhichPicture, WhichTokens
from .progress import progress
from .view import Display, view_of
from .view.explorer import explore
from .view.plots import KindName, plot
from .wire import reading
from .writing import write_file

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from .session import Session


class Answer(ExaminedAnswer):
    """An answer and everything that can be asked about it.

    Made by `Session.ask`; not meant to be constructed by hand. It pickles; the copy has no model until `bind` gives it one.
    What it says by itself (text, tokens, pictures, attention, ledger) is in `vila_lab.recorded.RecordedAnswer`, what is found out by
    running the model again (attributions, evidence, flow) in `vila_lab.examined.ExaminedAnswer`.

    Attributes
    ----------
    record : Record
        All that the answer says by itself, as plain data.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> answer
    Answer('Google.', 3 tokens, 1 pictures)

    What was said, and to what:

    >>> answer.text, [token.text for token in answer.tokens], answer.model
    ('Google.', ['Google', '.', ''], 'embedded')
    >>> answer.parts, [image.size for image in answer.images]
    ((0, 'What is in image 1?'), [(256, 256)])
    >>> answer.token_map
    TokenMap(65 positions: 18 template, 7 text, 36 image, 1 separator, 3 answer; 1 pictures)
    >>> answer.notes, answer.edits, answer.choices
    ((), (), {})

    Where it was read, and what that does not show:

    >>> answer.ledger().columns.tolist(), answer.sinks.tolist(), list(answer.head_sets)
    (['image_1', 'prompt', 'answer', 'sink'], [0], ['routing', 'localization', 'causal'])
    >>> print(answer.method, answer.honesty, sep="\\n")
    attention, mean over all 6 layers and their heads, sinks set apart
    Attention shows where the model read, not why it answered; the causal check is answer.attribute('leave_one_out').

    What it holds in memory, and its question, ready to be run again:

    >>> answer.nbytes > answer.host_bytes >= answer.cache_bytes, answer.device_bytes, answer.looked_at > 0
    (True, 0, True)
    >>> answer.replay.prompt_length == answer.token_map.prompt_length
    True
    """

    def __init__(self, record: Record, lab: Lab | None = None) -> None:
        super().__init__(record, lab)
        self._shown: tuple[Any, Display] | None = None  # of which state, and its display

    def __reduce__(self) -> tuple[Any, ...]:
        return Answer, (self.record,)

    def bind(self, lab: Session) -> Answer:
        """A new answer with the same record and a model, so that it can be attributed: of one from a file or another process.

        Parameters
        ----------
        lab
            A session of the model that gave the answer.

        Raises
        ------
        OptionError
            If its model reads the prompt or the words otherwise: then it is another model's answer; or if it is no session.

        Examples
        --------
        >>> import pickle, vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> copy = pickle.loads(pickle.dumps(answer))
        >>> copy.bind(lab).attribute("leave_one_out").per_image().shape
        (3, 2)
        """
        if not hasattr(lab, "adopt"):
            raise OptionError(f"bind takes a session, such as vila_lab.load() gives, not {type(lab).__name__}")
        return lab.adopt(self.record)

    def __repr__(self) -> str:
        edited = f", edits: {'; '.join(self.edits)}" if self.edits else ""
        return f"Answer({self.text!r}, {len(self.tokens)} tokens, {len(self.images)} pictures{edited})"

    # ---- memory --------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes in memory: queries and keys, what the next experiment needs, the pictures (which answers share), what was
        attributed, and the display once it was shown."""
        shown = 0 if self._shown is None else self._shown[1].nbytes
        return self.device_bytes + self.host_bytes + image_bytes(self.images) + self._computed.nbytes + shown

    @property
    def device_bytes(self) -> int:
        """Bytes of queries and keys on an accelerator."""
        return self.record.kept.device_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of queries, keys and prepared inputs in the host's memory."""
        return self._holding().host_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of model inputs and embeddings that wait for the next experiment."""
        return self._holding().inputs.nbytes

    @property
    def looked_at(self) -> float:
        """When queries and keys were last needed, in seconds of `time.monotonic`."""
        return self.record.kept.looked_at

    def offload(self) -> None:
        """Move queries and keys to the host's memory; everything still works.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.offload()
        >>> answer.device_bytes
        0
        """
        self.record.kept.offload()

    def release(self) -> None:
        """Let go of queries and keys, and of the display. The text, the tokens, the pictures and what was computed stay.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.release()
        >>> answer.text
        'Google.'
        """
        self._shown = None
        self._holding().inputs.release()
        self.record.kept.release()

    def _holding(self) -> Holding:
        lab = self._there()
        return Holding(self.record.kept, Inputs() if lab is None else lab.inputs(self.record))

    # ---- showing -------------------------------------------------------------------------------------------------

    @progress(None, "", "drawing")
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        try:
            return self.display().mimebundle()
        except CaptureError as error:  # released before it was shown: a cell has no use for a traceback
            return {"text/plain": f"{self!r}: {error}"}

    @progress(None, "", "drawing")
    def display(self, attributions: Sequence[MethodName | str | Attribution] = ()) -> Display:
        """What a cell and a page show of the answer now, with what was attributed so far; drawn once until that changes.

        Parameters
        ----------
        attributions
            More to show; see `attributed`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.display() is answer.display()
        True
        """
        found = self.attributed(attributions)
        state = (*found, self._verdict, self.record.kept.is_there)
        if self._shown is None or self._shown[0] != state:
            self._shown = state, Display.of(view_of(self.record, attributions=found, verdict=self._verdict))
        return self._shown[1]

    @spelled
    @progress(None, "", "drawing")
    def plot(
        self,
        kind: KindName | str,
        ax: Axes | None = None,
        *,
        image: WhichPicture | None = None,
        token: WhichTokens = None,
        method: MethodName | str | None = None,
        methods: Sequence[MethodName | str] | None = None,
        layer: int | None = None,
        head: int | None = None,
        outline: Sequence[tuple[int, int]] | None = None,
        causal: bool | None = None,
        baseline: Baseline | Any = None,
        scan: xr.DataArray | None = None,
    ) -> Axes:
        """Draw a figure: heatmap, ledger, frames, layers, heads, grid, words, leakage, flow, curves, patching, logit_lens or
        agreement.

        Parameters
        ----------
        kind
            What is drawn; each is a function of `vila_lab.view.plots`, and takes those of the options that it has there.
        ax
            matplotlib axes to draw on; None makes a figure of its own (``.figure``), which a notebook shows.
        image
            Of heatmap, heads and logit_lens: the picture, counted from 0, or by name; by default the one that counts most.
        token
            A token, several, or a word, as in `heatmap`; by default the whole answer.
        method, methods
            Of heatmap and frames a name in `vila_lab.methods`; of curves several.
        layer, head
            Of leakage, logit_lens and words: one alone, counted from 0.
        outline
            Of heads and grid: (layer, head) pairs to frame.
        causal
            Of leakage: what the answer loses, instead of attention.
        baseline
            Of curves: what takes a deleted token's place.
        scan
            Of patching: what `Session.patch_scan` gave.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        OptionError
            If the kind is unknown, does not take an option, or has nothing to draw.
        CaptureError
            If the figure needs a model, or queries and keys, that are there no more.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.plot("heatmap", image="image_1", token="Google").get_title(loc="left").partition(":")[0]
        "attention of 'Google' in picture 1"
        """
        options = given(
            image=image,
            token=token,
            method=method,
            methods=methods,
            layer=layer,
            head=head,
            outline=outline,
            causal=causal,
            baseline=baseline,
            scan=scan,
        )
        return plot(self.record, self.known_or_run, kind, ax, **options)

    @spelled
    @progress(None, "", "drawing")
    def explore(
        self,
        *,
        sync: Any = None,
        attributions: Sequence[MethodName | str | Attribution] = (),
        cards: Sequence[MetricCard] = (),
        boxes: Mapping[WhichPicture, Any] | None = None,
    ) -> Any:
        """The live widget: the reader's token, region, layer and head as traits; any head and method computed when asked for.

        A method that takes long is computed beside the notebook, tells how far it is, and can be cancelled in the widget. The
        traits are those of `vila_lab.view.explorer.explore`.

        Parameters
        ----------
        sync
            Another explorer, or several, that shall make the same choices.
        attributions
            More methods to show from the start, as names in `vila_lab.methods` or results of `attribute`; what was attributed so
            far is shown anyway.
        cards, boxes
            Results of `metric_card`, and where things are known to be; see `vila_lab.view.view_of`.

        Raises
        ------
        MissingExtra
            Without anywidget; the message holds the pip line.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> widget = answer.explore(attributions=["leave_one_out"])
        >>> widget.selected_token = 0
        """
        lab = self._there()
        if cards or boxes:
            found = self.attributed(attributions)
            view = view_of(self.record, attributions=found, cards=cards, boxes=boxes, verdict=self._verdict)
            display = Display.of(view)
        else:
            display = self.display(attributions)
        attribute = None if lab is None or self.edits else self.attribute
        return explore(self.record, display, sync=sync, attribute=attribute)

    @spelled
    @progress(None, "", "drawing")
    def to_html(self, path: str | Path, *, attributions: Sequence[MethodName | str | Attribution] = ()) -> Path:
        """Write the answer as one self-contained page that works offline.

        Parameters
        ----------
        path
            An existing file is replaced whole or not at all.
        attributions
            More methods to show beside those attributed so far, as names in `vila_lab.methods` or results of `attribute`.

        Raises
        ------
        FileAccessError
            If the place cannot be written; before anything is drawn, where that can be known.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = answer.to_html(f"{folder}/answer.html", attributions=["leave_one_out"])
        """
        return write_file(path, lambda: self.display(attributions).page_text())

    # ---- files ---------------------------------------------------------------------------------------------------

    @spelled
    @progress(None, "", "saving")
    def save(self, path: str | Path, *, originals: bool = True) -> Path:
        """Write everything to one file: safetensors with a JSON header, no pickle. `vila_lab.open` reads it back.

        Parameters
        ----------
        path
            An existing file is replaced whole or not at all.
        originals
            Whether the pictures are written as they came (a JPEG, PNG or WebP file to the byte). False writes them only as
            fine as the model saw them: a small file, which says so in its notes.

        Raises
        ------
        FileAccessError
            If the place cannot be written.
        CaptureError
            If queries and keys were released.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vila_lab.open(answer.save(f"{folder}/answer.vila")).text == answer.text
        True
        """
        return write_file(path, lambda: self.record.to_bytes(originals=originals))


@progress(None, "", "opening")
def open_answer(path: str | Path) -> Answer:
    """Read an answer that `Answer.save` wrote; no model is needed to look at it.

    Raises
    ------
    FileError
        If the file is no saved answer, is damaged, or was made by a newer version. Fields that are not known are passed over.
    SavedFileNotFound, FileAccessError
        If there is no such file, or it cannot be read.
    """
    with reading(path, KEY, "answer") as (header, tensors):
        return Answer(Record.restored(header, tensors))
