"""What is asked about an answer: attributions, evidence and other experiments, by whoever runs the model. Knows no drawing and no file."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .attribution import Attribution
from .attribution.choices import Baseline, Cover, On, Readers, Score, Unit
from .attribution.computed import Computed, call_of, frozen, listed
from .attribution.registry import MethodName
from .attribution.vision import VisionAttention
from .edits.flow import Flow
from .engine.lab import Lab
from .engine.record import Record
from .engine.replay import NO_MODEL, Replay
from .errors import CaptureError
from .evidence import Evidence, MetricCard
from .experiments import ExperimentName
from .options import given, spelled
from .pointing import WhichPicture, WhichTokens
from .recorded import RecordedAnswer

if TYPE_CHECKING:
    import xarray as xr


class ExaminedAnswer(RecordedAnswer):
    """An answer, and everything that is found out about it by running the model again.

    Parameters
    ----------
    record
    lab
        Who runs the model; None where there is none.
    """

    def __init__(self, record: Record, lab: Lab | None = None) -> None:
        super().__init__(record)
        self._lab = None if lab is None else weakref.ref(lab)  # an answer keeps no model alive
        self._computed = Computed()
        self._verdict = ""

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
        score: Score | str | None = None,
        baseline: Baseline | Any = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        on: On | str | None = None,
        readers: Readers | str | None = None,
        layers: Sequence[int] | None = None,
        heads: str | Sequence[tuple[int, int]] | None = None,
        sinks: bool | None = None,
        interference: bool | None = None,
        image: WhichPicture | None = None,
        by: Cover | Unit | str | None = None,
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
            One of the answer's tokens (counted from 0, negative from the end), several, or a word of the answer; None for all.
            With ``at=k``, a word that the model did not say: it is scored as if it stood there from token k on.
        contrast
            Another word, for the question "why this rather than that?": its score in the same place is subtracted.
        at
            The answer's token from which a word stands that the model did not say.
        score
            "logprob" (natural logarithm of the probability), or "logodds", which keeps a gradient where the model is certain.
        baseline
            What takes the place of what is left out, of leave_one_out, shapley and occlusion: "remove", "mean", "grey", "blur" or a
            picture; of integrated_gradients where its path begins.
        samples, seed
            Of shapley: orders that are drawn, and by which generator; by default exact for up to 8 pictures.
        steps
            Of integrated_gradients: steps of the path; by default as many as the shares need to add up, 8 to 64.
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
        lab = self._there()
        return None if lab is None or lab.state is None else (lab.state, frozen(dict(self.head_sets)))

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """The results of `attribute` so far, each once; beyond 256 MB, those that were asked for last.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> found = answer.attribute("leave_one_out")
        >>> answer.attribute("leave_one_out") is found, answer.attributions == (found,)
        (True, True)
        """
        return self._computed.results

    def attributed(self, attributions: Sequence[MethodName | str | Attribution] = ()) -> tuple[Attribution, ...]:
        """All results there are to show: those of `ExaminedAnswer.attributions`, and these; a name not attributed yet is computed.

        Parameters
        ----------
        attributions
            Names in `vila_lab.methods`, and results of `attribute`.

        Raises
        ------
        OptionError, CaptureError
            As `attribute`; or if something else is given.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> [found.method for found in answer.attributed(["leave_one_out"])]
        ['leave_one_out']
        """
        named = [self.attribute(each) if isinstance(each, str) else each for each in listed(attributions)]
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

    def _there(self) -> Lab | None:
        """Who runs the model, where it is still there."""
        return None if self._lab is None else self._lab()

    def _model(self) -> Lab:
        """Who runs the model.

        Raises
        ------
        CaptureError
            If it is there no more.
        """
        lab = self._there()
        if lab is None:
            raise CaptureError(NO_MODEL)
        return lab

    def experiment(self, name: ExperimentName | str, **options: Any) -> Any:
        """Any experiment of `vila_lab.experiments.EXPERIMENTS` by its name; `attribute` and the others below are its everyday forms.

        Parameters
        ----------
        name
            A name in `vila_lab.experiments.EXPERIMENTS`.
        options
            The experiment's own. What `attribute`, `evidence`, `metric_card`, `flow`, `vision_attention`, `Session.patch_scan`,
            `Session.patch_heads` and `Session.redirect` take stands there; `random_weights_map` takes a ``seed`` and what `attribute` does, `causal_leakage`
            a ``token``, `leakage` nothing. ``help(EXPERIMENTS[name].function)`` says it all.

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
            Instead of attention, the log-probability (nats) that the answer loses when the edge between the two is cut in all
            layers; see `vila_lab.edits.leakage`.

        Returns
        -------
        xarray.DataArray
            Dims (layer, reader, source): shares of the reader's attention; without layer for the causal twin.

        Raises
        ------
        OptionError
            If there are fewer than two pictures.

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
            It shows itself in a cell; its ``verdict`` is one line.

        Raises
        ------
        OptionError
            If there is no picture, or a token, a word or a method is unknown.
        CaptureError
            As `attribute`.

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
        baseline: Baseline | Any = None,
        seed: int | None = None,
        at: int | None = None,
        score: Score | str | None = None,
        samples: int | None = None,
        steps: int | None = None,
        on: On | str | None = None,
        readers: Readers | str | None = None,
        layers: Sequence[int] | None = None,
        heads: str | Sequence[tuple[int, int]] | None = None,
        sinks: bool | None = None,
        interference: bool | None = None,
        image: WhichPicture | None = None,
        by: Cover | Unit | str | None = None,
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
        image
            Which picture, counted from 0, or by name: "image_1".
        layer, head
            Of the vision tower, counted from 0 (negative from the end); None for the mean of all heads.
        at : (x, y)
            One place, in pixels of the original picture, whose patches look; None for the mean of all.

        Returns
        -------
        VisionAttention

        Raises
        ------
        OptionError
            If there is no such picture, layer, head or place.
        CaptureError
            As `attribute`.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.vision_attention(at=(128, 128)).heatmap.ndim
        2
        """
        found: VisionAttention = self.experiment("vision_attention", image=image, layer=layer, head=head, at=at)
        return found

    def known_or_run(self, name: ExperimentName | str, **options: Any) -> Any:
        """`experiment`, but an attribution that was computed before is given again, as by `attribute`.

        Parameters
        ----------
        name, options
            As in `experiment`.

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
