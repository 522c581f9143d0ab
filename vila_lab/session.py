"""Session: a model that stays resident in the kernel, and everything a reader asks of it. Knows families only by their seam."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from .answer import Answer
from .edits.handle import Handle
from .edits.looks import AttentionHook, HiddenHook
from .edits.making import made
from .edits.where import Shape
from .engine.answering import Answering
from .engine.engine import Engine
from .engine.inputs import Inputs
from .engine.memory import Disk, Holding, Memory, Pictures, image_bytes, keep_within
from .engine.question import Spec
from .engine.record import Record
from .engine.replay import NO_MODEL, Replay
from .engine.request import Request
from .engine.reuse import CACHE_BYTES, Features, Prefix
from .errors import CaptureError, OptionError, VilaLabError
from .experiments import ExperimentName, experiment
from .families.base import Family
from .hooks.sites import layer_table
from .progress import progress
from .prompt import Prompt
from .studies import Studies

if TYPE_CHECKING:
    import pandas as pd

CAPTURE_BUDGET = 2**30  # bytes of queries, keys and prepared inputs, all answers of a session together


class Session(Studies):
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

    Examples
    --------
    >>> import vila_lab
    >>> lab = vila_lab.load()
    >>> lab
    Session('embedded', 3.9 M parameters on cpu)
    >>> lab.name, lab.device.type, lab.is_loaded, lab.shape.layers, lab.shape.heads, list(lab.head_sets), lab.edits
    ('embedded', 'cpu', True, 6, 4, ['routing', 'localization', 'causal'], ())
    >>> lab.model is lab.family.model, lab.tokenizer is lab.family.tokenizer, lab.engine.family is lab.family
    (True, True, True)
    >>> lab.capture_budget == lab.cache_bytes == 2**30, dict(lab.first_reading)
    (True, {'tile_first': True})
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
    def state(self) -> Any:
        """Tells the model before from after a change of its weights; like no other while somebody's hooks act on it, and None once it
        was unloaded.

        Examples
        --------
        >>> import vila_lab
        >>> lab = vila_lab.load()
        >>> lab.state == lab.state
        True
        """
        return None if self._engine is None else self._engine.state or object()

    @property
    def family(self) -> Family:
        """The model behind its family's seam."""
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
        """The transformers tokenizer."""
        return self.family.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model's first weights lie."""
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
        return f"Session({self.name!r}, {size / 1e6:.1f} M parameters on {self.device}{self._acting()})"

    # ---- looking and changing ----------------------------------------------------------------------------------------

    def spec_of(self, name: str, typed: Mapping[str, Any]) -> Spec:
        """An edit from the name of the method that makes it and what is typed there, for a request to carry.

        Parameters
        ----------
        name
            Of a method: "knockout", "steer" ...
        typed
            Its arguments by name.

        Raises
        ------
        OptionError, NoEffect
            As the method.

        Examples
        --------
        >>> import vila_lab
        >>> vila_lab.load().spec_of("knockout", {"edge": "image_2 -> *"}).label
        'knock-out of image_2 -> * in all layers and heads'
        """
        given = dict(typed)
        if isinstance(given.get("from_answer"), Answer):
            given["source"] = self._source(given.pop("from_answer"))
        return made(name, self.shape, given)

    def _source(self, answer: Answer) -> Replay:
        """The question of an answer that a patch is taken from."""
        source = answer.replay
        if source.family is not self.family:
            raise OptionError(
                "from_answer was given by another session; ask it of this one, whose layers it has to fit"
            )
        return source

    def _edit(self, name: str, **typed: Any) -> Handle:
        return self._program.add(self.spec_of(name, typed))

    def _hook(self, hook: AttentionHook | HiddenHook) -> Handle:
        return self._program.add(hook)

    @property
    def shape(self) -> Shape:
        """Layers and heads of the decoder."""
        return Shape.of(self.family, self.head_sets)

    def layer_table(self, tower: str) -> pd.DataFrame:
        return layer_table(self.family.model, tower)

    # ---- what an answer asks of its model --------------------------------------------------------------------------

    def _under(self, request: Request) -> Request:
        """The request under the hooks and edits that act here, and under its own."""
        return replace(request, edits=(*self._program.specs, *request.edits))

    def run(self, request: Request) -> Record:
        return self._kept(self.engine.answer(self._under(request)))

    def run_many(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterable[Record | VilaLabError]:
        for found in self.engine.run_many([self._under(request) for request in requests], batch_size):
            yield found if isinstance(found, VilaLabError) else self._kept(found)

    def begin(self, request: Request) -> Answering:
        return Answering(self.engine, self._under(request))

    def options_of(self, options: Mapping[str, Any]) -> Any:
        return self.family.options_of(options)

    @property
    def first_reading(self) -> Mapping[str, Any]:
        return self.family.first_reading

    def shared(self, prompt: Prompt) -> Prompt:
        return self._pictures.shared(prompt)

    def experiment(self, record: Record, name: ExperimentName | str, **options: Any) -> Any:
        """Run an experiment of `vila_lab.experiments` on an answer's record.

        Parameters
        ----------
        record
            Of an answer that this model gave.
        name, options
            As `Answer.experiment` takes them.

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
        with progress(None, "", name.replace("_", " ")):
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
        return self.answer_of(record)

    def _kept(self, record: Record) -> Record:
        """The record, from now on within the session's budget."""
        record.kept.budget = weakref.WeakMethod(self._keep_budget)
        self._records.add(record)
        self._keep_budget()
        return record

    def answer_of(self, record: Record) -> Answer:
        return Answer(self._kept(record), self)

    def forget(self) -> None:
        """Let go of everything that can be computed again: features of pictures, beginnings of prompts, inputs of experiments.

        Answers keep their tapes. Weights that were changed past torch's own count (``weight.data.mul_(2)``) need it; any other
        change is noticed.

        Examples
        --------
        >>> import vila_lab
        >>> lab = vila_lab.load()
        >>> lab.forget()
        >>> lab.memory().prefix, lab.memory().features
        (0, 0)
        """
        self.engine.forget()

    def memory(self) -> Memory:
        """Bytes that this session and its answers hold, and which of them may be dropped.

        Examples
        --------
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
        """Let the model go: `vila_lab.load` loads it afresh, and its memory is freed once nothing else refers to it.

        Examples
        --------
        >>> import vila_lab
        >>> lab = vila_lab.load(dtype="bfloat16")
        >>> lab.unload()
        >>> lab
        Session('embedded', unloaded)
        """
        self._program.clear_everywhere()
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
