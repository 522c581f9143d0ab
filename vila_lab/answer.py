"""Answer: what a reader holds in the hand; every question about it in one method. Knows a record, and a model if there is one."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .attribution import Attribution
from .attribution.computed import Computed, call_of, frozen
from .attribution.registry import MethodName
from .attribution.vision import VisionAttention
from .edits.flow import Flow
from .engine.inputs import Inputs
from .engine.lab import Lab
from .engine.memory import Holding, image_bytes
from .engine.record import Record
from .engine.record_bytes import KEY
from .engine.replay import NO_MODEL, Replay
from .errors import CaptureError
from .evidence import Evidence, MetricCard
from .options import given, spelled
from .pointing import WhichPicture, WhichTokens
from .progress import progress
from .recorded import RecordedAnswer
from .view import Display, view_of
from .view.explorer import explore
from .view.plots import KindName, plot
from .wire import reading
from .writing import write_file

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from .session import Session


class Answer(RecordedAnswer):
    """An answer and everything that can be asked about it.

    Made by `Session.ask`; not meant to be constructed by hand. It pickles; the copy has no model until `bind` gives it one.
    What it says by itself (text, tokens, pictures, attention, ledger) is in `vila_lab.recorded.RecordedAnswer`.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> answer, answer.ledger().columns.tolist()
    (Answer('Google.', 3 tokens, 1 pictures), ['image_1', 'prompt', 'answer', 'sink'])
    """

    def __init__(self, record: Record, lab: Lab | None = None) -> None:
        super().__init__(record)
        self._lab = None if lab is None else weakref.ref(lab)  # an answer keeps no model alive
        self._computed = Computed()
        self._verdict = ""
        self._shown: tuple[Any, Display] | None = None  # of which state, and its display

    def __reduce__(self) -> tuple[Any, ...]:
        return Answer, (self.record,)

    def bind(self, lab: Session) -> Answer:
        """The same answer with a model again, so that it can be attributed: one from a file, or from another process.

        Parameters
        ----------
        lab
            A session of the model that gave the answer.

        Raises
        ------
        OptionError
            If its model reads the prompt or the words otherwise: then it is another model's answer.

        Examples
        --------
        >>> import pickle, vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> copy = pickle.loads(pickle.dumps(answer))
        >>> copy.bind(lab).attribute("leave_one_out").per_image().shape
        (3, 2)
        """
        return lab.adopt(self.record)

    def __repr__(self) -> str:
        edited = f", edits: {'; '.join(self.edits)}" if self.edits else ""
        return f"Answer({self.text!r}, {len(self.tokens)} tokens, {len(self.images)} pictures{edited})"

    # ---- attribution ---------------------------------------------------------------------------------------------

    @spelled
    def heatmap(
        self, image: WhichPicture = 0, token: WhichTokens = None, method: MethodName | str = "attention"
    ) -> NDArray[np.float64]:
        """How much a token has to do with which place of a picture.

        Parameters
        ----------
        image
            Which picture: a number counted from 0 (negative from the end), or a name counted from 1, "image_1".
        token
            Which generated token: a number counted from 0 (negative from the end), several, a slice, or a word of the answer;
            None for the whole answer.
        method
            "attention" is what `ledger` shows, the mean over the answer's tokens; every other name in
            `vila_lab.methods` is computed by `attribute`, once.

        Returns
        -------
        (rows, cols) array
            Over the ORIGINAL picture's geometry, whatever the tiling; it sums to the picture's share in `ledger`, or to
            its score in `Attribution.per_image`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.heatmap("image_1", "Google").shape, answer.heatmap(0, method="leave_one_out").shape
        ((6, 6), (6, 6))
        """
        if method != "attention":
            return self.attribute(method, token).heatmap(image)
        return self.record.heatmap(image, token)

    @spelled
    def attribute(
        self,
        method: MethodName | str,
        token: WhichTokens = None,
        contrast: str | None = None,
        *,
        at: int | None = None,
        score: str | None = None,
        baseline: Any = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        on: str | None = None,
        readers: str | None = None,
        layers: Sequence[int] | None = None,
        heads: str | Sequence[tuple[int, int]] | None = None,
        sinks: bool | None = None,
        interference: bool | None = None,
        image: WhichPicture | None = None,
        by: str | None = None,
        cells: tuple[int, int] | None = None,
        boxes: Sequence[Sequence[float]] | None = None,
        phrases: Sequence[str] | None = None,
    ) -> Attribution:
        """How much every position, and so every picture and place, contributed to what was said.

        The same call again gives the same result, without computing it again, as long as the model's weights are the same;
        the answer's display offers it. `experiment` computes afresh.

        Parameters
        ----------
        method
            A name in `vila_lab.methods`: "leave_one_out", "shapley", "relevancy" ...
        token : None, int, slice, list of int, or str
            The answer's token (counted from 0, negative from the end), several, or a word of it; None for all. A word
            the model did not say is scored in the answer's place with ``at=k``: from token k on.
        contrast
            Why the target rather than this word: its score in the same place is taken away.
        at
            The answer's token from which a word stands that the model did not say.
        score
            "logprob", or "logodds", which keeps a gradient where the model is certain.
        baseline
            What takes the place of what is left out, of leave_one_out, shapley and occlusion: "remove", "mean", "grey", "blur" or a
            picture; of integrated_gradients where its path begins.
        samples, seed
            Of shapley: orders that are drawn, and by which generator; by default exact for up to 8 pictures.
        steps
            Of integrated_gradients: points on the path.
        on
            Of integrated_gradients: "embeddings" or "pixels"; of input_x_gradient only the first.
        readers
            Of grad_x_attention: "all" rows, or those that chose the "answer".
        layers, heads
            Of attention and attention_value: some layers, counted from 0, or heads, as (layer, head) pairs or a set's name; of
            logit_lens the layers.
        sinks
            Of attention and rollout: count attention sinks in.
        interference
            Of activation_map: take away what the words before explain.
        image
            Of occlusion: one picture alone, counted from 0, or by name.
        by
            Of occlusion: "cells" or "tiles"; of phrases: "clause" or "word".
        cells
            Of occlusion: (rows, columns) of its grid.
        boxes
            Of occlusion: places to cover instead, (x0, y0, x1, y1) each, in pixels of the original picture.
        phrases
            Of phrases: those to leave out.

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
        options = given(
            at=at,
            score=score,
            baseline=baseline,
            samples=samples,
            seed=seed,
            steps=steps,
            on=on,
            readers=readers,
            layers=layers,
            heads=heads,
            sinks=sinks,
            interference=interference,
            image=image,
            by=by,
            cells=cells,
            boxes=boxes,
            phrases=phrases,
        )
        return self._kept(method, token, contrast, **options)

    def _kept(self, method: str, token: WhichTokens = None, contrast: str | None = None, **options: Any) -> Attribution:
        """The result of this call, from when it was computed."""
        call = call_of(method, self._target(token), contrast, options)
        state = self._state()
        known = self._computed.get(call, state)
        if known is not None:
            return known
        found: Attribution = self.experiment("attribute", method=method, token=token, contrast=contrast, **options)
        self._computed.put(call, state, found)
        return found

    def _target(self, token: Any) -> Any:
        """Tokens by their numbers, however they were pointed at; a word stays one, for it may not have been said."""
        return token if token is None or isinstance(token, str) else self.record.numbers_of(token)

    def _state(self) -> Any:
        """What a result depends on beside its call; None without a model."""
        lab = None if self._lab is None else self._lab()
        return None if lab is None or lab.state is None else (lab.state, frozen(dict(self.head_sets)))

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """What was attributed so far, each once; of very many, those that were asked for last.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> answer.attribute("leave_one_out") is found, answer.attributions == (found,)
        (True, True)
        """
        return self._computed.results

    def attributed(self, attributions: Sequence[str | Attribution] = ()) -> tuple[Attribution, ...]:
        """What there is to show: `attributions`, and these as well; a name is computed, if it was not yet.

        Parameters
        ----------
        attributions
            Names in `vila_lab.methods`, and results of `attribute`.

        Raises
        ------
        OptionError, CaptureError
            As `attribute`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> [found.method for found in answer.attributed(["leave_one_out"])]
        ['leave_one_out']
        """
        listed = [attributions] if isinstance(attributions, str | Attribution) else attributions
        named = [self.attribute(each) if isinstance(each, str) else each for each in listed]
        return tuple(dict.fromkeys([*self.attributions, *named]))

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
        return self._model().replay(self.record)

    def _model(self) -> Lab:
        """Who runs the model.

        Raises
        ------
        CaptureError
            If it is there no more.
        """
        lab = None if self._lab is None else self._lab()
        if lab is None:
            raise CaptureError(NO_MODEL)
        return lab

    def experiment(self, name: str, **options: Any) -> Any:
        """Any experiment of `vila_lab.experiments.EXPERIMENTS` by its name; `attribute` and the others below are its everyday forms.

        Raises
        ------
        OptionError
            If the name or an option is unknown.
        CaptureError
            As `attribute`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.experiment("random_weights_map", method="attention").method
        'attention, random weights'
        """
        return self._model().experiment(self.record, name, **options)

    # ---- what edits tell -----------------------------------------------------------------------------------------

    @spelled
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

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> lab.ask(question).leakage().dims
        ('layer', 'reader', 'source')
        """
        found: xr.DataArray = self.experiment("causal_leakage" if causal else "leakage")
        return found

    @spelled
    def flow(
        self,
        token: WhichTokens = None,
        *,
        edges: str | Sequence[str] | None = None,
        width: int | None = None,
        stride: int | None = None,
    ) -> Flow:
        """In which layers does what the pictures show reach the question, and the answer? By cutting edges, band by band.

        Parameters
        ----------
        token
            As in `attribute`: None for the whole answer.
        edges
            Edges as in `Session.knockout`; by default from the pictures to the prompt and to the answer, and from the prompt to the
            answer.
        width
            Layers in a band; by default a sixth of the decoder's.
        stride
            Layers from one band to the next; by default 1.

        Raises
        ------
        OptionError
            If an edge does not exist, or width or stride is no number of layers.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.flow("Google", stride=3)
        Flow('Google', 3 edges, 2 bands of 1 layers)
        """
        options = given(edges=edges, width=width, stride=stride)
        found: Flow = self.experiment("flow", token=token, **options)
        return found

    @spelled
    def evidence(
        self,
        token: WhichTokens = None,
        *,
        methods: Sequence[MethodName | str] | None = None,
        at: int | None = None,
        samples: int | None = None,
    ) -> Evidence:
        """What the answer rests on: a verdict in one line, what it loses without its pictures, how sure the model was, and several
        methods' shares of the pictures. Of the whole answer, the verdict is shown with it from then on.

        Parameters
        ----------
        token, at
            As in `attribute`; None for the whole answer.
        methods
            Names in `vila_lab.methods`; by default one of each kind, those that measured best: attention, integrated gradients,
            leave one out, Shapley.
        samples
            Orders drawn for Shapley; by default exact up to 8 pictures, 20 orders beyond.

        Returns
        -------
        Evidence

        Examples
        --------
        >>> import vila_lab
        >>> folder = vila_lab.demo_images()
        >>> answer = vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> answer.evidence().verdict.partition(":")[0]
        'rests on picture 2'
        """
        found: Evidence = self.experiment("evidence", token=token, methods=methods, at=at, samples=samples)
        if token is None and at is None:
            self._verdict = found.verdict
        return found

    @spelled
    def metric_card(
        self,
        method: MethodName | str,
        token: WhichTokens = None,
        *,
        boxes: Mapping[WhichPicture, Any] | None = None,
        baseline: Any = None,
        seed: int | None = None,
        at: int | None = None,
        score: str | None = None,
        samples: int | None = None,
        steps: int | None = None,
        on: str | None = None,
        readers: str | None = None,
        layers: Sequence[int] | None = None,
        heads: str | Sequence[tuple[int, int]] | None = None,
        sinks: bool | None = None,
        interference: bool | None = None,
        image: WhichPicture | None = None,
        by: str | None = None,
        cells: tuple[int, int] | None = None,
    ) -> MetricCard:
        """How good a method's map is here, beside a flat map, a random map and a model with shuffled weights.

        Parameters
        ----------
        method, token
            As in `attribute`; phrases has no map.
        boxes
            Where the answer's things are, {picture: (x0, y0, x1, y1) or a list of these} in original pixels, pictures counted from 0 or
            by name. Without boxes there is no pointing and no energy in box.
        baseline
            What takes a deleted token's place: "remove" (by default), "mean", "grey" or "blur". It is the metric's; the method's own
            stays at its default.
        seed
            Of the random map, the shuffled weights, and the order of equal scores.
        at, score, samples, steps, on, readers, layers, heads, sinks, interference, image, by, cells
            The method's, as in `attribute`.

        Raises
        ------
        OptionError
            If a name, a token, a box or an option is unknown.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.metric_card("attention", "Google").table.index.tolist()
        ['attention', 'flat map', 'random map', 'random weights']
        """
        options = given(
            boxes=boxes,
            baseline=baseline,
            seed=seed,
            at=at,
            score=score,
            samples=samples,
            steps=steps,
            on=on,
            readers=readers,
            layers=layers,
            heads=heads,
            sinks=sinks,
            interference=interference,
            image=image,
            by=by,
            cells=cells,
        )
        found: MetricCard = self.experiment("metric_card", method=method, token=token, **options)
        return found

    @spelled
    def vision_attention(
        self, image: WhichPicture = 0, *, layer: int = -1, head: int | None = None, at: Any = None
    ) -> VisionAttention:
        """Where do the places of a picture look inside the vision tower, before the decoder sees it?

        Parameters
        ----------
        image, layer, head, at
            See `vila_lab.attribution.vision.vision_attention`; ``at=(x, y)`` is one place, in pixels of the original picture.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.vision_attention(at=(128, 128)).heatmap.ndim
        2
        """
        found: VisionAttention = self.experiment("vision_attention", image=image, layer=layer, head=head, at=at)
        return found

    def known_or_run(self, name: str, **options: Any) -> Any:
        """`experiment`; an attribution that was computed is given again, see `attribute`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.known_or_run("attribute", method="rollout") is answer.attribute("rollout")
        True
        """
        if name == "attribute" and isinstance(options.get("method"), str):
            return self._kept(**options)
        return self.experiment(name, **options)

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
        """When queries and keys were last needed, on the monotonic clock."""
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
        lab = None if self._lab is None else self._lab()
        return Holding(self.record.kept, Inputs() if lab is None else lab.inputs(self.record))

    # ---- showing -------------------------------------------------------------------------------------------------

    @progress(None, "", "drawing")
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.display().mimebundle()

    @progress(None, "", "drawing")
    def display(self, attributions: Sequence[str | Attribution] = ()) -> Display:
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
        baseline: Any = None,
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

        Raises
        ------
        OptionError
            If the kind is unknown, or does not take an option.

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
        attributions: Sequence[str | Attribution] = (),
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
        lab = None if self._lab is None else self._lab()
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
    def to_html(self, path: str | Path, *, attributions: Sequence[str | Attribution] = ()) -> Path:
        """Write the answer as one self-contained page that works offline.

        Parameters
        ----------
        path
        attributions
            More methods to show beside those attributed so far, as names in `vila_lab.methods` or results of `attribute`.

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
        originals
            Whether the pictures are written as they came (a JPEG, PNG or WebP file to the byte). False writes them only as
            fine as the model saw them: a small file, which says so in its notes.

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
