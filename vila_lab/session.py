"""Session: a model that stays resident in the kernel, and everything a reader asks of it. Knows families only by their seam."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import torch

from .answer import Answer
from .answers import Answers, answered
from .chat import Chat
from .edits.redirect import STRENGTH, Redirection
from .edits.where import Heads
from .engine.answering import Answering
from .engine.engine import Engine
from .engine.inputs import Inputs
from .engine.memory import Disk, Holding, Memory, Pictures, image_bytes, keep_within
from .engine.record import Record
from .engine.replay import NO_MODEL, Replay
from .engine.request import Request, limits_of
from .engine.reuse import CACHE_BYTES, Features, Prefix
from .engine.sampling import Sampling
from .errors import CaptureError, OptionError, VilaLabError
from .evidence import HeadRanking, OrderTest, Sample, order_test, rank_heads
from .evidence.order import ORDERS
from .experiments import experiment
from .families.base import Family
from .interrupts import keeps_gradients
from .interventions import Interventions
from .options import check_range, check_types
from .prompt import Prompt
from .stream import Stream

if TYPE_CHECKING:
    import xarray as xr

TILINGS = ("reference", "first")
CAPTURE_BUDGET = 2**30  # bytes of queries, keys and prepared inputs, all answers of a session together


class Session(Interventions):
    """A resident model that answers questions about pictures.

    Made by `vila_lab.load`. One question runs at a time; questions from other threads wait their turn. As a context manager it
    is unloaded at the end of the block.

    Attributes
    ----------
    name : str
        What was loaded: "embedded", a hub id or a folder.
    family : Family
        The model behind its family's seam.
    capture_budget : int
        Bytes of queries, keys and prepared inputs that answers may keep on the device, and as many in the host's memory;
        beyond it the answers that were looked at least recently move theirs to the host, and from there to files, and
        read them back when somebody looks. Pictures are kept once by content and are not counted here; see `memory`.
    cache_bytes : int
        Bytes of what is kept for the next question about the same pictures, or that begins like one before.
    head_sets : dict
        (layer, head) pairs by name; what ``heads="routing"`` means. The embedded model brings its own, `rank_heads`
        finds them for any other.
    """

    def __init__(
        self, family: Family, name: str, *, capture_budget: int = CAPTURE_BUDGET, cache_bytes: int = CACHE_BYTES
    ) -> None:
        super().__init__()
        self._engine: Engine | None = Engine(family, name)
        self.cache_bytes = cache_bytes
        self.name = name
        self.capture_budget = capture_budget
        self._records: weakref.WeakSet[Record] = weakref.WeakSet()
        self._pictures = Pictures()
        self._disk: Disk | None = None

    @property
    def engine(self) -> Engine:
        """What runs the model, a request at a time."""
        if self._engine is None:
            raise OptionError(f"this session of {self.name} was unloaded: vila_lab.load(...) gives a new one")
        return self._engine

    @property
    def cache_bytes(self) -> int:
        """Bytes that features of pictures and beginnings of prompts may have together; 0 keeps none."""
        return self.engine.reuse.limit

    @cache_bytes.setter
    def cache_bytes(self, value: int) -> None:
        with self.engine.lock:
            self.engine.reuse.limit = value

    @property
    def is_loaded(self) -> bool:
        """Whether the model is there, until `unload`."""
        return self._engine is not None

    @property
    def family(self) -> Family:
        return self.engine.family

    @property
    def head_sets(self) -> dict[str, Sequence[tuple[int, int]]]:
        return self.engine.head_sets

    @property
    def model(self) -> Any:
        """The transformers model; changing it changes the answers."""
        return self.family.model

    @property
    def tokenizer(self) -> Any:
        return self.family.tokenizer

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unload()

    def __repr__(self) -> str:
        if self._engine is None:
            return f"Session({self.name!r}, unloaded)"
        size = sum(p.numel() for p in self.model.parameters())
        return f"Session({self.name!r}, {size / 1e6:.1f} M parameters on {self.device})"

    @overload
    def ask(
        self,
        prompt: Any,
        images: Any = None,
        *,
        n: None = None,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        response_format: Any = None,
        apply_exif: bool = False,
        **options: Any,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        prompt: Any,
        images: Any = None,
        *,
        n: int,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        response_format: Any = None,
        apply_exif: bool = False,
        **options: Any,
    ) -> list[Answer]: ...
    @keeps_gradients
    def ask(
        self,
        prompt: Any,
        images: Any = None,
        *,
        n: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        response_format: Any = None,
        apply_exif: bool = False,
        **options: Any,
    ) -> Answer | list[Answer]:
        """Ask about pictures, and keep what is needed to see where the answer came from.

        Parameters
        ----------
        prompt
            A question, a list of texts and pictures in order, or a list of messages as chat services take them. Paths, PIL
            images, arrays, tensors, bytes, open files and addresses are pictures; so is a string that names a file or
            looks as if it should. Every other string is text, and every `vila_lab.Text`. See `vila_lab.Prompt.of`.
        images
            Pictures to put before the text, as ``vila-infer`` does; then ``prompt`` is text only.
        n
            So many answers, side by side: the first is what ``seed`` gives, the next what ``seed + 1`` gives, and so on.
        max_new_tokens
            Longest answer; by default 256 or what the context still holds.
        do_sample, temperature, top_p, top_k, min_p, seed
            Sampling instead of the reference's greedy decoding, with random numbers of the answer's own.
        stop
            Texts that end the answer, and are no part of it.
        logprobs
            Alternatives to keep of every token; by default 5.
        response_format
            What the answer has to look like: ``{"type": "json_object"}``, ``{"type": "json_schema", "json_schema": {"schema":
            ...}}`` or a pydantic class, written compactly; or a list of texts, of which the answer is one, and
            ``answer.choices`` says how probable each was. Scores of tokens stay the model's own.
        apply_exif
            Turn pictures as their EXIF data says; the reference ignores it.
        options
            The model's family may take more: for NVILA see `vila_lab.nvila.prompt_options.NVILAOptions`.

        Returns
        -------
        Answer, or with `n` a list of Answer

        Raises
        ------
        PromptError, PictureError, PictureNotFound
            If a part cannot be used.
        ContextTooLong
            If prompt and answer do not fit, before anything is computed.
        OptionError
            If an option is unknown, or a schema has something that cannot be followed.
        MissingExtra
            For JSON without the extra ``structured``.

        Examples
        --------
        >>> import vila_lab
        >>> from vila_lab.tiny import demo_images
        >>> answer = vila_lab.load().ask("What is in image 2?", images=[demo_images() / "g.png", demo_images() / "m.png"])
        >>> answer.text
        'Microsoft.'
        """
        sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
        limits = limits_of(max_new_tokens, stop, logprobs, response_format)
        request = self._request(prompt, images, sampling, limits, apply_exif, options)
        if n is None:
            return self._answer(self.run(request))
        check_types(Session.ask, {"n": n})
        check_range("n", n, least=1)
        if n > 1 and not do_sample:
            raise OptionError("n answers without sampling are n times the same one: add do_sample=True")
        return self._several([replace(request, sampling=sampling.other(number)) for number in range(n)])

    def _several(self, requests: Sequence[Request]) -> list[Answer]:
        found = []
        for record in self.engine.run_many([self._under(request) for request in requests]):
            if isinstance(record, VilaLabError):
                raise record
            found.append(self._answer(self._kept(record)))
        return found

    def stream(
        self,
        prompt: Any,
        images: Any = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        response_format: Any = None,
        apply_exif: bool = False,
        **options: Any,
    ) -> Stream:
        """Ask, and get the answer as it comes: iterate over its tokens, or let a notebook show it growing.

        Parameters
        ----------
        prompt, images, max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, options
            As in `ask`.

        Returns
        -------
        Stream
            Its ``answer`` is what `ask` gives, or as much of it as was said when the stream was closed or interrupted.

        Raises
        ------
        VilaLabError
            As `ask`, before anything is computed.
        """
        sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
        limits = limits_of(max_new_tokens, stop, logprobs, response_format)
        request = self._request(prompt, images, sampling, limits, apply_exif, options)
        return Stream(Answering(self.engine, self._under(request)), lambda record: self._answer(self._kept(record)))

    def ask_many(
        self,
        prompts: Iterable[Any],
        *,
        batch_size: int | str = "auto",
        errors: str = "raise",
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        response_format: Any = None,
        apply_exif: bool = False,
        **options: Any,
    ) -> Answers:
        """Ask many questions, several side by side.

        Parameters
        ----------
        prompts
            Each as `ask` takes it, with any number of pictures.
        batch_size
            How many are answered side by side; "auto" takes what there is memory for.
        errors
            "raise": the first question that cannot be answered ends it, before any is answered where that is seen at once.
            "keep": its error stands in its place, and the others are answered; a Ctrl-C keeps what there is until then.
        max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, options
            As in `ask`, for every question.

        Returns
        -------
        Answers
            In order; each is what `ask` gives, to the rounding of a batch.

        Raises
        ------
        VilaLabError
            As `ask`; the message begins "question 3 of 100".
        """
        check_types(Session.ask_many, {"batch_size": batch_size, "errors": errors})
        if isinstance(batch_size, str) and batch_size != "auto":
            raise OptionError(f'batch_size is a number or "auto", not {batch_size!r}')
        check_range("batch_size", None if isinstance(batch_size, str) else batch_size, least=1)
        sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
        limits = limits_of(max_new_tokens, stop, logprobs, response_format)
        size = None if isinstance(batch_size, str) else batch_size
        return answered(
            prompts,
            lambda prompt: self._request(prompt, None, sampling, limits, apply_exif, options),
            lambda requests: self.engine.run_many([self._under(request) for request in requests], size),
            lambda record: self._answer(self._kept(record)),
            errors,
        )

    def chat(self, system: str | None = None, *, tiling: str = "reference") -> Chat:
        """A conversation: each question sees what was shown and said before, and nothing of it is computed again.

        Parameters
        ----------
        system
            What the system says, instead of what the model's template has it say.
        tiling
            "reference": in some models a picture is cut into tiles only while it is alone, so that a second one changes how the
            first is read; a note on the answer says so. "first" keeps the first reading.

        Returns
        -------
        Chat

        Raises
        ------
        OptionError
            If the tiling is unknown.
        """
        if tiling not in TILINGS:
            raise OptionError(f"tiling {tiling!r} is unknown; choose one of {', '.join(TILINGS)}")
        return Chat(self, system, first_reading=self.family.first_reading if tiling == "first" else {})

    def _request(
        self,
        prompt: Any,
        images: Any,
        sampling: Sampling,
        limits: dict[str, Any],
        apply_exif: Any,
        options: dict[str, Any],
    ) -> Request:
        check_types(Session.ask, {"apply_exif": apply_exif})
        chosen = self.family.options_of(options)
        parts = self._pictures.shared(Prompt.of(prompt, images=images, apply_exif=apply_exif))
        return Request(parts, chosen, sampling, **limits)

    def _under(self, request: Request) -> Request:
        """The request under the hooks and edits that act here, and under its own."""
        return replace(request, edits=(*self._program.specs, *request.edits))

    # ---- what an answer asks of its model --------------------------------------------------------------------------

    def run(self, request: Request) -> Record:
        """Answer a request under the hooks and edits that act here, and under its own."""
        return self._kept(self.engine.answer(self._under(request)))

    def experiment(self, record: Record, name: str, **options: Any) -> Any:
        """Run an experiment of `vila_lab.experiments` on an answer's record.

        Raises
        ------
        OptionError
            If the name or an option is unknown, the answer was given under edits, or another model gave it.
        CaptureError
            If this session was unloaded.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> record = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"]).record
        >>> lab.experiment(record, "leakage").dims
        ('layer', 'reader', 'source')
        """
        self.replay(record)  # which says first why it cannot be
        found = self.engine.with_room(lambda: experiment(self.replay(record), name, **options))
        self._keep_budget()
        return found

    def replay(self, record: Record) -> Replay:
        """An answer's question, ready to be run again; what every experiment works on.

        Raises
        ------
        OptionError, CaptureError
            As `experiment`.
        """
        if self._engine is None:
            raise CaptureError(NO_MODEL)
        if record not in self._records:
            self._engine.check_own(record)
            self._kept(record)
        return Replay(record, self._engine)

    def inputs(self, record: Record) -> Inputs:
        """What is kept of an answer's question for its next experiment."""
        return Inputs() if self._engine is None else self._engine.inputs(record)

    def adopt(self, record: Record) -> Answer:
        """An answer of this session's model from a record of it; see `Answer.bind`.

        Raises
        ------
        OptionError
            If the model would cut or write the record's prompt otherwise, or reads other words from its tokens.
        """
        self.engine.check_own(record)
        return self._answer(self._kept(record))

    def _kept(self, record: Record) -> Record:
        """The record, from now on within the session's budget."""
        record.kept.budget = weakref.WeakMethod(self._keep_budget)
        self._records.add(record)
        self._keep_budget()
        return record

    def _answer(self, record: Record) -> Answer:
        return Answer(record, self)

    # ---- evidence ------------------------------------------------------------------------------------------------

    def rank_heads(
        self, dataset: Sequence[Sample], kind: str = "routing", *, top: int = 3, seed: int = 0
    ) -> HeadRanking:
        """Heads whose attention picks the right picture ("routing") or the right place in it ("localization").

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
        """
        ranking = rank_heads(self, dataset, kind, top=top, seed=seed)
        self.head_sets[kind] = ranking.heads
        return ranking

    def order_test(
        self,
        prompt: Any,
        images: Any = None,
        *,
        orders: int = ORDERS,
        twins: Mapping[int, Any] | None = None,
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
        """
        asked = Prompt.of(prompt, images=images)
        return order_test(self, asked, orders=orders, twins=twins, max_new_tokens=max_new_tokens, seed=seed)

    def patch_scan(self, answer: Answer, from_answer: Answer, **options: Any) -> xr.DataArray:
        """Where does what tells two answers apart lie? Patch every layer and position, one at a time.

        Parameters
        ----------
        answer, from_answer, options
            See `vila_lab.edits.scan.patch_scan`.

        Returns
        -------
        xarray.DataArray
            Recovered logit difference, dims (layer, position).
        """
        found: xr.DataArray = self.experiment(answer.record, "patch_scan", from_record=from_answer.record, **options)
        return found

    def redirect(
        self,
        answer: Answer,
        to_image: int | None = None,
        *,
        image: int | None = None,
        strength: float = STRENGTH,
        heads: Heads = "routing",
    ) -> Redirection[Answer]:
        """Ask again with heads steered to another picture: does the answer follow?

        Parameters
        ----------
        answer
        image
            The picture, counted from 0.
        strength, heads
            See `vila_lab.edits.redirect.redirect`.
        to_image
            The same, counted from 1: the spelling of before, for one release.
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
        options = {"image": image, "strength": strength, "heads": heads}
        found: Redirection[Record] = self.experiment(answer.record, "redirect", **options)
        after = self._answer(self._kept(found.after))
        return Redirection(answer, after, found.image, found.share_before, found.share_after)

    def forget(self) -> None:
        """Let go of everything that can be computed again: features of pictures, beginnings of prompts, inputs of experiments.

        Answers keep their tapes. Weights that were changed past torch's own count (``weight.data.mul_(2)``) need it; any other
        change is noticed.

        >>> import vila_lab
        >>> lab = vila_lab.load()
        >>> lab.forget()
        >>> lab.memory().prefix, lab.memory().features
        (0, 0)
        """
        self.engine.forget()

    def memory(self) -> Memory:
        """Bytes that this session and its answers hold, and which of them may be dropped.

        >>> import vila_lab
        >>> vila_lab.load().memory().weights > 0
        True
        """
        tensors = {
            id(value): value
            for value in (*self.model.parameters(), *self.model.buffers())
            if value.device.type != "meta"
        }
        records, holdings = list(self._records), self._holdings()
        caches = sum(holding.inputs.nbytes for holding in holdings)
        kept = list(self.engine.reuse)
        return Memory(
            weights=sum(value.nbytes for value in tensors.values()),
            prefix=sum(each.nbytes for each in kept if isinstance(each, Prefix)),
            features=sum(each.nbytes for each in kept if isinstance(each, Features)),
            tapes=sum(holding.device_bytes + holding.host_bytes for holding in holdings) - caches,
            pictures=image_bytes(image for record in records for image in record.images),
            caches=caches,
            disk=0 if self._disk is None else self._disk.nbytes,
            answers=len(records),
            budget=self.capture_budget,
            cache_bytes=self.cache_bytes,
            note=self.engine.reuse.note,
        )

    def _holdings(self) -> list[Holding]:
        return [Holding(record.kept, self.inputs(record)) for record in list(self._records)]

    def _keep_budget(self) -> None:
        """Move queries and keys of the answers looked at least recently out of the way until the rest fits."""
        holdings = self._holdings()
        if sum(holding.device_bytes + holding.host_bytes for holding in holdings) <= self.capture_budget:
            return
        self._disk = self._disk or Disk()
        keep_within(holdings, self.capture_budget, self._disk)

    def unload(self) -> None:
        """Let the model go: `vila_lab.load` loads it afresh, and its memory is freed once nothing else refers to it."""
        self._program.clear_everywhere()
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
