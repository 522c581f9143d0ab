"""Studies: the part of a session that puts several questions, or several answers, beside each other. Knows whoever asks, and no model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .answer import Answer
from .asking import Asking
from .edits.redirect import BAND, Redirection, case_of
from .edits.steering import find_band
from .edits.where import Heads, Layers
from .engine.band import Band
from .engine.record import Record
from .errors import OptionError
from .evidence import HeadRanking, OrderTest, Sample, order_test, rank_heads
from .evidence.heads import HeadKind
from .evidence.order import ORDERS
from .hooks.edits import State
from .options import given, spelled
from .pointing import WhichPicture
from .prompt import Prompt

if TYPE_CHECKING:
    import xarray as xr


class Studies(Asking):
    """What a session finds out by asking more than once."""

    @spelled
    def rank_heads(
        self, dataset: Sequence[Sample], kind: HeadKind | str = "routing", *, top: int = 3, seed: int = 0
    ) -> HeadRanking:
        """Heads whose attention picks the right picture ("routing") or the right place in it ("localization"), or that carry the answer
        ("causal").

        From then on ``heads=kind`` stands for the best of them wherever heads are chosen.

        Parameters
        ----------
        dataset
            Questions about a known picture, as `vila_lab.evidence.Sample`.
        kind, top, seed
            See `vila_lab.evidence.rank_heads`.

        Returns
        -------
        HeadRanking

        Examples
        --------
        >>> import vila_lab
        >>> from vila_lab.evidence import Sample
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> pictures = folder / "g.png", folder / "m.png"
        >>> samples = [Sample(pictures, f"What is in image {k + 1}?", k) for k in (0, 1, 0, 1)]
        >>> before = lab.head_sets["routing"]
        >>> found = lab.rank_heads(samples, top=2)
        >>> len(found.heads), lab.head_sets["routing"] == found.heads
        (2, True)
        >>> lab.head_sets["routing"] = before
        """
        ranking = rank_heads(self, dataset, kind, top=top, seed=seed)
        self.head_sets[kind] = ranking.heads
        return ranking

    @spelled
    def order_test(
        self,
        prompt: Any,
        images: Any = None,
        *,
        orders: int = ORDERS,
        twins: Mapping[WhichPicture, Any] | None = None,
        max_new_tokens: int = 64,
        seed: int = 0,
    ) -> OrderTest:
        """Ask with the pictures in other orders, one twice, blank, or replaced by its twin: does the answer change?

        Parameters
        ----------
        prompt, images
            As in `ask`.
        orders, twins, max_new_tokens, seed
            See `vila_lab.evidence.order_test`.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> lab.order_test(question, max_new_tokens=3).answer
        'Microsoft.'
        """
        asked = Prompt.of(prompt, images=images)
        return order_test(self, asked, orders=orders, twins=twins, max_new_tokens=max_new_tokens, seed=seed)

    @spelled
    def patch_scan(
        self,
        answer: Answer,
        from_answer: Answer,
        *,
        token: int | str | None = None,
        positions: str | Sequence[Any] | None = None,
        layers: int | Sequence[int] | None = None,
        state: State | str | None = None,
        batch: int | None = None,
    ) -> xr.DataArray:
        """Where does what tells two answers apart lie? Patch every layer and position, one at a time.

        Parameters
        ----------
        answer
            Whose run is patched.
        from_answer
            Where the vectors come from: an answer of this model to a prompt of the same shape.
        token
            The answer's token that is scored, or a word of it (its first token); by default the first at which the two differ.
        positions
            The places, one or several, each a group of the prompt ("image_2", a quoted phrase) or a position; by default every picture,
            and every other position by itself.
        layers
            One layer, several, or None for all.
        state
            "residual" (by default), "attention" or "mlp".
        batch
            Runs that go through the model together; by default 8.

        Returns
        -------
        xarray.DataArray
            Recovered logit difference, dims (layer, position).

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> other = lab.ask([folder / "g.png", folder / "a.png", "What is in image 2?"])
        >>> lab.patch_scan(lab.ask(question), other, positions="image_2").sizes["layer"]
        6
        """
        options = given(token=token, positions=positions, layers=layers, state=state, batch=batch)
        found: xr.DataArray = self.experiment(answer.record, "patch_scan", from_record=from_answer.record, **options)
        return found

    @spelled
    def patch_heads(
        self,
        answer: Answer,
        from_answer: Answer,
        *,
        sets: Sequence[Sequence[tuple[int, int]]] | None = None,
        token: int | str | None = None,
        batch: int | None = None,
    ) -> xr.DataArray:
        """Which heads carry what tells two answers apart? Patch every head behind the pictures, one at a time.

        Parameters
        ----------
        answer
            Whose run is patched.
        from_answer
            Where the heads' outputs come from: an answer of this model to a prompt of the same shape.
        sets
            Sets of (layer, head) pairs that are patched together; by default every head by itself.
        token
            The answer's token that is scored, or a word of it (its first token); by default the first at which the two differ.
        batch
            Runs that go through the model together; by default 8.

        Returns
        -------
        xarray.DataArray
            Recovered logit difference, dims (layer, head), or (set,).

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> other = lab.ask([folder / "g.png", folder / "a.png", "What is in image 2?"])
        >>> lab.patch_heads(lab.ask(question), other).dims
        ('layer', 'head')
        """
        options = given(sets=sets, token=token, batch=batch)
        found: xr.DataArray = self.experiment(answer.record, "patch_heads", from_record=from_answer.record, **options)
        return found

    @spelled
    def redirect(
        self,
        answer: Answer,
        to_image: int | None = None,
        *,
        image: WhichPicture | None = None,
        strength: float | None = None,
        heads: Heads = BAND,
        layers: Layers = None,
        controls: bool = True,
        seed: int = 0,
    ) -> Redirection[Answer]:
        """Ask again with the answer sent to another picture, and controls beside it: does it follow?

        Parameters
        ----------
        answer
        image
            The picture, counted from 0, or by name: "image_1".
        strength, heads, layers, controls, seed
            See `vila_lab.edits.redirect.redirect`.
        to_image
            The same, counted from 1: the spelling of before, for one release.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> found = lab.redirect(lab.ask(question), image="image_1")
        >>> found.after.text, found.band.layers == lab.engine.band.layers
        ('Google.', True)
        """
        if (image is None) == (to_image is None):
            raise OptionError("redirect needs the picture to steer to: redirect(answer, image=0) is the first")
        if to_image is not None:
            warnings.warn(
                "redirect counts pictures from 0 now, as everything else does: write image= instead of to_image=, one less",
                FutureWarning,
                stacklevel=2,
            )
            image = to_image - 1
        chosen = given(strength=strength, layers=layers)
        found: Redirection[Record] = self.experiment(
            answer.record, "redirect", image=image, heads=heads, controls=controls, seed=seed, **chosen
        )
        shares = found.share_before, found.share_after
        after = self.answer_of(found.after)
        return Redirection(
            answer, after, found.image, *shares, found.from_image, found.wanted, found.band, found.controls
        )

    def find_band(self, answers: Sequence[Answer]) -> Band:
        """Look for the layers and the strength at which answers can be redirected; `redirect` takes them from then on.

        Parameters
        ----------
        answers
            A small calibration set: answers of this model to questions about one of several pictures. No truth is needed: what each
            should say when it is redirected is asked without edits, with its picture and another exchanged.

        Returns
        -------
        Band

        Raises
        ------
        OptionError
            If there is no answer, or none changes with its pictures exchanged.
        NotHere
            If the model is not in this process.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> pictures = [folder / name for name in ("g.png", "m.png", "a.png")]
        >>> before = lab.engine.band
        >>> found = lab.find_band([lab.ask([*pictures, f"What is in image {k}?"]) for k in (1, 3)])
        >>> found.questions, lab.engine.band == found
        (2, True)
        >>> lab.engine.band = before
        """
        replays = [self.replay(answer.record) for answer in answers]
        if not replays:
            raise OptionError("a band is looked for on answers, and none was given")
        cases = [case for number, replay in enumerate(replays) for case in case_of(replay, number)]
        found = find_band(cases, len(replays[0].family.decoder_layers))
        replays[0].engine.band = found
        return found
