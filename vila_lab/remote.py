"""RemoteSession: the session's contract over a service, whose model is elsewhere. Knows the service's words, and no model.

Everything that follows from an answer without a model is computed here, from the same record that a session in the kernel has;
what needs the model is an experiment by its name, and is done there.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from PIL import Image

from .answer import Answer
from .connection import AnswerGone, Connection
from .edits.handle import Handle
from .edits.looks import AttentionHook, HiddenHook
from .edits.making import made
from .edits.patch import check_state, in_words
from .edits.where import Shape, resolve
from .engine.inputs import Inputs
from .engine.question import Question, Spec
from .engine.record import Record
from .engine.replay import Replay
from .engine.request import Request
from .errors import CaptureError, NotHere, OptionError, ServiceError, VilaLabError
from .experiments import ExperimentName
from .hooks import Tape
from .hooks.edits import Edit
from .options import nearest
from .parcels import known_of, pack, unpack
from .picture import Picture
from .progress import progress
from .prompt import Prompt
from .remote_answering import RemoteAnswering
from .studies import Studies
from .wire import png_of

if TYPE_CHECKING:
    import pandas as pd

URL, TOKEN = "VILA_LAB_URL", "VILA_LAB_TOKEN"
AT_ONCE = 8  # questions of `ask_many` that are under way together
ENCODED = 32  # pictures that are kept as they are sent
ELSEWHERE = "the model is on a server, and what is asked of it here cannot travel"


def connect(url: str | None = None, token: str | None = None, *, wait: float = 0.0) -> RemoteSession:
    """A session whose model is kept by ``vila-lab serve``, here or on another machine.

    Parameters
    ----------
    url
        Where it listens: "http://127.0.0.1:8000"; by default what ``VILA_LAB_URL`` says.
    token
        What it asks for; by default what ``VILA_LAB_TOKEN`` says.
    wait
        Seconds that a server which was just started has to get ready.

    Returns
    -------
    RemoteSession
        With the contract of `Session`.

    Raises
    ------
    ServiceError
        If nobody is there, or does not know the token.
    OptionError
        If the address is none.

    Examples
    --------
    >>> import vila_lab
    >>> vila_lab.connect("no address")
    Traceback (most recent call last):
        ...
    vila_lab.errors.OptionError: 'no address' is no address of a server; write http://host:port
    """
    address = url if url is not None else os.environ.get(URL)
    if not address:
        raise OptionError(
            f"connect needs the address of a server, or {URL} in the environment: connect('http://127.0.0.1:8000')"
        )
    connection = Connection(address, token if token is not None else os.environ.get(TOKEN))
    try:
        connection.wait(wait)
        return RemoteSession(connection)
    except BaseException:
        connection.close()
        raise


@dataclass(frozen=True, eq=False)
class SentEdit:
    """An edit as it is sent: the method that makes it, and what was typed there.

    Attributes
    ----------
    label : str
    layers : tuple of int
        Where it acts.
    told : dict
    """

    label: str
    layers: tuple[int, ...]
    told: Mapping[str, Any]

    @property
    def is_edit(self) -> bool:
        return True

    def resolve(self, question: Question) -> list[Edit]:
        raise NotHere(f"{ELSEWHERE}: {self.label}")

    def changes_nothing(self, question: Question) -> bool:
        return False


class RemoteSession(Studies):
    """A session whose model is on a server.

    Made by `vila_lab.connect`. It answers, attributes, edits and compares as a `Session` does, and its answers are the same to the
    bit. Python functions do not travel: `on_attention` and `on_hidden` say so.

    Attributes
    ----------
    name : str
        What the server has loaded.
    url : str
        Where it listens.
    head_sets : dict
        As in `Session`; what is added here is known here.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        told = self._described()
        self.name = str(told["name"])
        self._heads = {name: [(a, b) for a, b in pairs] for name, pairs in told["head_sets"].items()}
        self._there = dict(self._heads)  # the names that the server knows
        self._told = told
        self._ids: weakref.WeakKeyDictionary[Record, str] = weakref.WeakKeyDictionary()
        self._gone: deque[str] = deque()
        self._encoded: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def _described(self) -> dict[str, Any]:
        found: dict[str, Any] = unpack(self._connection.get("/v1/lab"), plain=True)
        return found

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self._connection.url

    @property
    def head_sets(self) -> dict[str, Sequence[tuple[int, int]]]:
        return self._heads  # type: ignore[return-value]

    @property
    def state(self) -> None:
        """A server does not tell whether its weights changed."""
        return None

    @property
    def shape(self) -> Shape:
        return Shape(self._told["layers"], self._told["heads"], self._heads)

    @property
    def first_reading(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._told["first_reading"]
        return found

    def layer_table(self, tower: str) -> pd.DataFrame:
        table: pd.DataFrame = self._told["cross_modal_layers" if tower == "text" else "vision_layers"]
        return table.copy()

    def __repr__(self) -> str:
        return f"RemoteSession({self.name!r} at {self.url}{self._acting()})"

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("model", "tokenizer", "family", "engine", "device"):
            raise NotHere(f"{ELSEWHERE}: lab.{name} is there where vila_lab.load() was called")
        raise AttributeError(f"a RemoteSession has no {name!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the server let go of the answers that it keeps for this session, and end the connection."""
        for name in [*self._ids.values(), *self._gone]:
            try:
                self._connection.delete(f"/v1/answers/{name}")
            except ServiceError:  # it does not keep it any more, or is gone itself
                continue
        self._connection.close()

    # ---- asking ----------------------------------------------------------------------------------------------------

    def options_of(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        known = self._told["options"]
        for name in options:
            if name not in known:
                raise OptionError(
                    f"{self.name} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}"
                )
        return dict(options)

    def run(self, request: Request) -> Record:
        with progress(None, "", "answering"):
            return self._run(request, self._body(request))

    def _run(self, request: Request, body: dict[str, Any]) -> Record:
        reply = json.loads(self._connection.post("/v1/chat/completions", table=body))
        return self._record(reply["choices"][0]["vila_lab"], request.prompt)

    def run_many(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterable[Record | VilaLabError]:
        bodies = [self._body(request) for request in requests]  # here: other threads have other edits
        pool = ThreadPoolExecutor(min(batch_size or AT_ONCE, AT_ONCE), thread_name_prefix="vila_lab asking")
        try:
            found = [pool.submit(self._run, request, body) for request, body in zip(requests, bodies, strict=True)]
            for each in found:
                yield _settled(each)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, request: Request) -> RemoteAnswering:
        body = self._body(request) | {"stream": True}
        body["vila_lab"]["tokens"] = True
        return RemoteAnswering(self._connection, body, lambda told: self._record(told, request.prompt))

    def answer_of(self, record: Record) -> Answer:
        return Answer(record, self)

    def adopt(self, record: Record) -> Answer:
        self._sent(record)
        return self.answer_of(record)

    def _body(self, request: Request) -> dict[str, Any]:
        """A request in the service's words."""
        prompt, sampling, form = request.prompt, asdict(request.sampling), request.form
        replies = [list(turn.ids) or None for turn in prompt.history if turn.role == "assistant"]
        told = {
            "record": True,
            "do_sample": sampling.pop("do_sample"),
            "alternatives": request.logprobs,
            "edits": [_told(spec) for spec in (*self._program.specs, *request.edits)],
            "goes_on": prompt.goes_on,
            "replies": replies or None,
            "release": self._released(),
        }
        body: dict[str, Any] = {
            "model": self.name,
            "messages": self._messages(prompt),
            "max_tokens": request.max_new_tokens,
            "stop": list(request.stop) or None,
            "vila_lab": told,
            **{name: value for name, value in sampling.items() if value is not None},
            **(request.options or {}),
        }
        if form is not None:
            schema = {"type": "json_schema", "json_schema": {"schema": json.loads(form.schema or "{}")}}
            body["response_format"] = list(form.choices) or schema
        return body

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        turns = [(turn.role, turn.parts) for turn in prompt.history]
        return [
            {"role": role, "content": [self._part(part) for part in parts]}
            for role, parts in [*turns, ("user", prompt.parts)]
        ]

    def _part(self, part: str | Picture) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        with self._lock:
            url = self._encoded.pop(part.digest, None)
        if url is None:
            url = f"data:image/png;base64,{base64.b64encode(png_of(part.image, level=1)).decode()}"
        with self._lock:
            self._encoded[part.digest] = url  # used last stands last
            while len(self._encoded) > ENCODED:
                self._encoded.popitem(last=False)
        return {"type": "image_url", "image_url": {"url": url}}

    def _released(self) -> list[str]:
        """Answers that nobody here holds any more."""
        found: list[str] = []
        with suppress(IndexError):  # another thread may take the last
            while self._gone:
                found.append(self._gone.popleft())
        return found

    # ---- what an answer asks of its model --------------------------------------------------------------------------

    def _record(self, told: Mapping[str, Any], prompt: Prompt) -> Record:
        """The record of an answer, as the server tells it."""
        record = Record.from_bytes(base64.b64decode(told["record"]), prompt.images)
        pictures = enumerate(prompt.pictures, 1)
        read = [f"picture {k}: {note}" for k, picture in pictures for note in picture.notes]
        record.notes = (*read, *record.notes)
        record.frames = tuple(picture.frame for picture in prompt.pictures)
        if any(picture.notes for picture in prompt.pictures):
            record.asked["pictures"] = [list(picture.notes) for picture in prompt.pictures]
        self._known(record, str(told["answer"]))
        record.kept.source = partial(_tape, self._connection, str(told["answer"]), record.images)
        return record

    def _known(self, record: Record, name: str) -> None:
        record.head_sets = self._heads
        self._ids[record] = name
        weakref.finalize(record, self._gone.append, name).atexit = False

    def _id_of(self, record: Record) -> str:
        """The name by which the server knows an answer; it is sent if it does not."""
        return self._ids.get(record) or self._sent(record)

    def _sent(self, record: Record) -> str:
        try:
            data = record.to_bytes()
        except AnswerGone:  # queries and keys were there alone
            record.kept.source = None
            data = record.to_bytes()
        name = str(json.loads(self._connection.post("/v1/answers", data))["id"])
        self._known(record, name)
        return name

    def experiment(self, record: Record, name: ExperimentName | str, **options: Any) -> Any:
        """Run an experiment of `vila_lab.experiments` on an answer's record, on the server.

        Parameters
        ----------
        record
            Of an answer that this session gave.
        name, options
            As `Answer.experiment` takes them.

        Raises
        ------
        OptionError
            If the name or an option is unknown, cannot travel, or the answer was given under edits.
        ServiceError
            If the server is gone.
        """
        try:
            return self._experiment(record, name, options)
        except AnswerGone:
            self._ids.pop(record, None)
            for each in options.values():
                if isinstance(each, Record):
                    self._ids.pop(each, None)
        return self._experiment(record, name, options)

    def _experiment(self, record: Record, name: str, options: Mapping[str, Any]) -> Any:
        given = {key: self._heads_there(value) if key == "heads" else value for key, value in options.items()}
        if isinstance(given.get("from_record"), Record):
            given["from_answer"] = self._id_of(given.pop("from_record"))
        path = f"/v1/answers/{self._id_of(record)}/experiments/{name}"
        with self._connection.events(path, pack(given)) as events:
            found = unpack(_last(events), known_of(record))
        if isinstance(found, dict) and found.keys() == {"result", "after"}:
            self._known(found["result"].after, found["after"])
            return found["result"]
        return found

    def _heads_there(self, heads: Any) -> Any:
        """Heads as the server knows them: a name that was made here is there no name."""
        is_mine = isinstance(heads, str) and heads in self._heads and self._heads[heads] != self._there.get(heads)
        return [list(pair) for pair in self._heads[heads]] if is_mine else heads

    def replay(self, record: Record) -> Replay:
        raise NotHere(f"{ELSEWHERE}: answer.replay. answer.experiment(name) does what the server can do with it")

    def inputs(self, record: Record) -> Inputs:
        return Inputs()

    # ---- looking and changing --------------------------------------------------------------------------------------

    def _edit(self, name: str, **typed: Any) -> Handle:
        spec = self._patch(**typed) if name == "patch" else self._sent_edit(name, typed)
        return self._program.add(spec)

    def _sent_edit(self, name: str, typed: Mapping[str, Any]) -> SentEdit:
        spec: Any = made(name, self.shape, typed)
        told = {key: _plain(self._heads_there(value) if key == "heads" else value) for key, value in typed.items()}
        return SentEdit(spec.label, tuple(spec.where), {"edit": name, **told})

    def _patch(self, from_answer: Answer, positions: Any, layers: Any, state: str) -> SentEdit:
        chosen = tuple(resolve(self.shape, layers))
        label = in_words(check_state(state), positions, chosen, from_answer.text)
        told = {"positions": _plain(positions), "layers": list(chosen), "state": state}
        return SentEdit(label, chosen, {"edit": "patch", "from_answer": self._id_of(from_answer.record), **told})

    def _hook(self, hook: AttentionHook | HiddenHook) -> Handle:
        raise NotHere(
            "a Python function cannot travel to a server, so no hook looks there: answer.attention(layer, head) has the same weights, or "
            "load the model here"
        )


def _told(spec: Spec) -> Mapping[str, Any]:
    if not isinstance(spec, SentEdit):
        raise CaptureError(f"{ELSEWHERE}: {spec.label}")
    return spec.told


def _settled(future: Future[Record]) -> Record | VilaLabError:
    try:
        return future.result()
    except VilaLabError as error:
        return error


def _last(events: Iterable[Mapping[str, Any]]) -> bytes:
    """The result at the end of events that tell how much is done."""
    waiting = iter(events)
    event: Mapping[str, Any] | None = next(waiting, None)
    while event is not None and "parcel" not in event:
        total, unit, done = event["progress"]["total"], event["progress"]["unit"], 0
        with progress(total, unit) as bar:
            while event is not None and event.get("progress", {}).get("unit") == unit:
                bar.update(event["progress"]["done"] - done)
                done = event["progress"]["done"]
                event = next(waiting, None)
    if event is None:
        raise ServiceError("the server ended before the experiment did: try again")
    return base64.b64decode(event["parcel"])


def _tape(connection: Connection, name: str, images: Sequence[Image.Image]) -> Tape:
    """An answer's queries and keys."""
    return Record.from_bytes(connection.get(f"/v1/answers/{name}", pictures=False), images).tape()


def _plain(value: Any) -> Any:
    """Numbers of numpy and tuples as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, list | tuple | range) else value
