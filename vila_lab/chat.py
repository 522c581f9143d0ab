"""Chat: questions that go on from each other, and their answers. Knows a lab and answers, no model.

What was said before is read off the last answer, so the answers are all that a chat is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

from torch import Tensor

from .answer import Answer, open_answer
from .engine.lock import ModelLock
from .engine.record import Record
from .engine.record_bytes import packed
from .errors import CaptureError, OptionError, PromptError
from .families.options import FamilyOptions
from .inputs.decoding import Colour, HowRead
from .names_offered import offer
from .options import given
from .prompt import Prompt, Turn
from .stream import Stream
from .tokenmap import TokenMap
from .view import AnswerView, view_of
from .view.conversation import mimebundle, page_text
from .wire import key_of, reading, str_of, to_bytes
from .writing import write_file

KEY = "vila_lab_chat"
APART = "this answer is no part of the chat: another question was answered in between"


class Asked(Protocol):
    """Whoever answers: a session, or what stands for one elsewhere."""

    def ask(self, *question: Any, **options: Any) -> Answer: ...
    def stream(self, *question: Any, **options: Any) -> Stream: ...
    def adopt(self, record: Record) -> Answer: ...


class Chat:
    """A conversation about pictures.

    Made by `Session.chat`. A later question sees all that was shown and said before; earlier answers stand in its prompt with
    their own tokens, and what was computed of the conversation is not computed again.

    Attributes
    ----------
    answers : list of Answer
        In order. The map of each spans the conversation up to there: pictures are numbered through, and ``turn_k`` are
        the positions of a turn.
    system : str or None
        What the system says instead of what the model's template has it say.

    Examples
    --------
    >>> import vila_lab
    >>> folder, chat = vila_lab.demo_images(), vila_lab.load().chat()
    >>> chat.ask([folder / "g.png", folder / "m.png", "What is in image 1?"]).text, chat.ask("What is in image 2?").text
    ('Google.', 'Microsoft.')
    >>> chat.answers[1].token_map.n_turns
    2
    """

    def __init__(
        self,
        lab: Asked | None = None,
        system: str | None = None,
        *,
        first_reading: Mapping[str, Any] | None = None,
        answers: Iterable[Answer] = (),
    ) -> None:
        if system is not None and not isinstance(system, str):
            raise OptionError(f"system is a text, not {system!r}")
        self.answers: list[Answer] = list(answers)
        self.system = system
        self._lab = lab
        self._first_reading = dict(first_reading or {})
        self._turn = ModelLock()

    def __repr__(self) -> str:
        return f"Chat({len(self.answers)} turns, {len(self.answers[-1].images) if self.answers else 0} pictures)"

    # ---- asking ----------------------------------------------------------------------------------------------------

    def ask(
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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
    ) -> Answer:
        """Ask the next question; another thread's waits for the answer.

        Parameters
        ----------
        prompt
            A question, or a list of texts and pictures in order, as `Session.ask` takes them; of messages only one.
        images
            Pictures to put before the text; then ``prompt`` is text only.
        max_new_tokens
            Longest answer; by default 256 or what the context still holds.
        do_sample, temperature, top_p, top_k, min_p, seed
            Sampling instead of the reference's greedy decoding, with random numbers of the answer's own.
        stop
            Texts that end the answer, and are no part of it.
        logprobs
            Alternatives to keep of every token; by default 5.
        response_format
            What the answer has to look like: a form of JSON, or a list of texts of which it is one. See `Session.ask`.
        apply_exif
            Turn pictures as their EXIF data says; the reference ignores it.
        background
            The colour behind what is transparent in a picture: "white", "#ffffff" or (255, 255, 255); by default there is none.
        options
            Those of the model's family.

        Other Parameters
        ----------------
        conv_mode, tile_all_images, tile_first, image_aspect_ratio, generation_config, picture_order
            As `Session.ask` takes them, which says to which families each belongs.

        Returns
        -------
        Answer
            The last of `answers` from now on. Its notes say where a picture is read otherwise than before.

        Raises
        ------
        VilaLabError
            As `Session.ask`; the chat is then as before.

        Examples
        --------
        >>> import vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.text, len(chat.answers)
        ('Google.', 1)
        """
        limits = given(max_new_tokens=max_new_tokens, stop=stop, logprobs=logprobs, response_format=response_format)
        sampling = given(do_sample=do_sample, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
        with self._turn:
            asked = self._next(prompt, images, HowRead(apply_exif, background))
            answer = self._asked().ask(asked, **limits, **sampling, **self._options(asked, options))
            self._add(answer)
        return answer

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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
    ) -> Stream:
        """Ask the next question, and get the answer as it comes; it is one of `answers` once the stream has ended.

        Parameters
        ----------
        prompt, images, max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, background, options
            As in `ask`.

        Other Parameters
        ----------------
        conv_mode, tile_all_images, tile_first, image_aspect_ratio, generation_config, picture_order
            As in `ask`.

        Examples
        --------
        >>> import vila_lab
        >>> chat = vila_lab.load().chat()
        >>> for token in chat.stream([vila_lab.demo_images() / "g.png", "What is in image 1?"]):
        ...     said = token.text
        >>> chat.answers[0].text
        'Google.'
        """
        limits = given(max_new_tokens=max_new_tokens, stop=stop, logprobs=logprobs, response_format=response_format)
        sampling = given(do_sample=do_sample, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
        asked = self._next(prompt, images, HowRead(apply_exif, background))
        before = len(self.answers)

        def add(answer: Answer) -> None:
            with self._turn:
                if len(self.answers) == before:
                    self._add(answer)
                else:
                    answer.record.notes += (APART,)

        return self._asked().stream(asked, **limits, **sampling, **self._options(asked, options)).then(add)

    def fork(self) -> Chat:
        """Another chat that has the same past.

        Examples
        --------
        >>> import vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> other = chat.fork()
        >>> other.ask("What is in image 1?").token_map.n_turns, len(chat.answers)
        (2, 1)
        """
        return Chat(self._lab, self.system, first_reading=self._first_reading, answers=self.answers)

    def undo(self) -> Answer:
        """Take the last turn back; returns its answer.

        Raises
        ------
        OptionError
            If nothing was asked yet.

        Examples
        --------
        >>> import vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> chat.undo().text, len(chat.answers)
        ('Google.', 0)
        """
        with self._turn:
            if not self.answers:
                raise OptionError("there is nothing to undo: nothing was asked in this chat yet")
            return self.answers.pop()

    def bind(self, lab: Asked) -> Chat:
        """The same chat with a model, so that it can go on: one from a file.

        Raises
        ------
        OptionError
            If another model gave an answer.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     opened = vila_lab.open(chat.save(f"{folder}/chat.vila"))
        >>> opened.bind(vila_lab.load()).ask("What is in image 1?").token_map.n_turns
        2
        """
        answers = [lab.adopt(answer.record) for answer in self.answers]
        return Chat(lab, self.system, first_reading=self._first_reading, answers=answers)

    def _asked(self) -> Asked:
        if self._lab is None:
            raise CaptureError("this chat has no model (it was read from a file): chat.bind(lab) gives it one")
        return self._lab

    def _next(self, prompt: Any, images: Any, how: HowRead) -> Prompt:
        """The next question with all that was said before it."""
        question = Prompt.of(prompt, images=images, apply_exif=how.apply_exif, background=how.background)
        if question.history:
            raise PromptError("a chat has its own history; ask it one message, or give the whole list to lab.ask")
        return Prompt(question.parts, self._history(), goes_on=True)

    def _history(self) -> tuple[Turn, ...]:
        if not self.answers:
            return () if self.system is None else (Turn("system", (self.system,)),)
        last = self.answers[-1].record
        ids = tuple(token.id for token in last.tokens if not token.stop)
        return *last.prompt.history, Turn("user", last.prompt.parts), Turn("assistant", (last.text,), ids)

    def _options(self, asked: Prompt, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Those chosen, and those under which a picture that the chat began with is read as it was when it was alone."""
        if "n" in chosen:
            raise OptionError("a chat goes on from one answer, and has no option 'n'; lab.ask takes it")
        alone = next((len(answer.images) for answer in self.answers if answer.images), 0) == 1
        return {**(self._first_reading if alone and len(asked.pictures) > 1 else {}), **chosen}

    def _add(self, answer: Answer) -> None:
        if self.answers:
            answer.record.notes += tuple(_read_otherwise(self.answers[-1].token_map, answer.token_map))
        self.answers.append(answer)

    # ---- showing and keeping -----------------------------------------------------------------------------------------

    def _views(self) -> list[AnswerView]:
        return [view_of(answer.record, attributions=answer.attributions) for answer in self.answers]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return mimebundle(self._views(), self.system)

    def to_html(self, path: str | Path) -> Path:
        """Write the conversation as one self-contained page that works offline.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     chat.to_html(f"{folder}/chat.html").stat().st_size > 10_000
        True
        """
        return write_file(path, lambda: page_text(self._views(), self.system))

    def save(self, path: str | Path) -> Path:
        """Write the whole conversation to one file, as `Answer.save` writes an answer; `vila_lab.open` reads it back.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> chat = vila_lab.load().chat()
        >>> answer = chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vila_lab.open(chat.save(f"{folder}/chat.vila"))
        Chat(1 turns, 1 pictures)
        """
        return write_file(path, lambda: to_bytes(KEY, *self._packed()))

    def _packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header and the tensors of a saved conversation."""
        headers: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        same: dict[str, str] = {}
        seen: dict[str, str] = {}  # every answer has the pictures that were shown before it: each is written once
        for number, answer in enumerate(self.answers):
            header, mine = packed(answer.record)
            headers.append(header)
            for name, tensor in mine.items():
                full = f"{number}.{name}"
                content = hashlib.sha256(tensor.numpy().tobytes()).hexdigest() if name.startswith("image.") else full
                first = seen.setdefault(content, full)
                if first == full:
                    tensors[full] = tensor
                else:
                    same[full] = first
        header = {"system": self.system, "answers": headers, "same": same, "first_reading": self._first_reading}
        return header, tensors


def _read_otherwise(before: TokenMap, now: TokenMap) -> Iterable[str]:
    """Which pictures have other positions than in the turn before."""
    for picture in range(before.n_pictures):
        was, tokens = (len(each.positions(f"image_{picture + 1}")) for each in (before, now))
        if was != tokens:
            yield (
                f"picture {picture + 1} is read in {tokens} visual tokens from this turn on, and was in {was} before: the model's "
                "reference cuts a picture into tiles only while it is alone; lab.chat(tiling='first') keeps the first reading"
            )


def open_saved(path: str | Path) -> Answer | Chat:
    """Read an answer that `Answer.save` wrote, or a conversation that `Chat.save` wrote; no model is needed to look at it.

    Raises
    ------
    FileError
        If the file is neither, is damaged, or was made by a newer version. Fields that are not known are passed over.
    SavedFileNotFound, FileAccessError
        If there is no such file, or it cannot be read.

    Examples
    --------
    >>> import tempfile, vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vila_lab.open(answer.save(f"{folder}/answer.vila")).text
    'Google.'
    """
    offer()
    return _open_chat(path) if key_of(path, (KEY,)) else open_answer(path)


def _open_chat(path: str | Path) -> Chat:
    with reading(path, KEY, "chat") as (header, tensors):
        tensors |= {str_of(name): tensors[other] for name, other in header["same"].items()}
        answers = []
        for number, answer in enumerate(header["answers"]):
            mine = {name.partition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{number}.")}
            answers.append(Answer(Record.restored({**answer, "unchecked": header["unchecked"]}, mine)))
        system = header["system"]
        return Chat(
            None, None if system is None else str_of(system), first_reading=header["first_reading"], answers=answers
        )
