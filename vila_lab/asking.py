"""Asking: the part of a session that asks questions, one, several, or as they come. Knows whoever runs a request, and no model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, Unpack, get_args, overload

from .answer import Answer
from .answers import Answers, OnError, answered
from .chat import Chat
from .engine.inputs import Inputs
from .engine.record import Record
from .engine.repeating import asked_again
from .engine.replay import Replay
from .engine.request import Request, limits_of
from .engine.sampling import Sampling
from .errors import OptionError, VilaLabError
from .families.options import FamilyOptions
from .inputs.decoding import Colour, HowRead
from .interrupts import keeps_gradients
from .interventions import Interventions
from .options import check_range, check_types, nearest
from .prompt import Prompt
from .stream import Stream, UnderWay

Tiling: TypeAlias = Literal["reference", "first"]
TILINGS: tuple[str, ...] = get_args(Tiling)


class Asking(Interventions):
    """What a reader asks of a session, wherever its model runs.

    Attributes
    ----------
    name : str
        What was loaded: "embedded", a hub id or a folder.
    """

    name: str

    # ---- what is left to where the model runs ----------------------------------------------------------------------

    @property
    def first_reading(self) -> Mapping[str, Any]:
        """Options under which a picture that a chat began with is read as it was when it was alone."""
        raise NotImplementedError

    def options_of(self, options: Mapping[str, Any]) -> Any:
        """The options of the model's family, checked where that can be done."""
        raise NotImplementedError

    def run(self, request: Request) -> Record:
        """Answer a request under the hooks and edits that act here, and under its own."""
        raise NotImplementedError

    def run_many(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterable[Record | VilaLabError]:
        """`run` of each, in order, or why there is no record of it."""
        raise NotImplementedError

    def begin(self, request: Request) -> UnderWay:
        """`run`, a token at a time."""
        raise NotImplementedError

    @property
    def state(self) -> Any:
        """Tells the model before from after a change of its weights; None where that cannot be known."""
        raise NotImplementedError

    def experiment(self, record: Record, name: str, **options: Any) -> Any:
        """Run an experiment of `vila_lab.experiments` on an answer's record."""
        raise NotImplementedError

    def replay(self, record: Record) -> Replay:
        """An answer's question, ready to be run again; only where the model is in this process."""
        raise NotImplementedError

    def inputs(self, record: Record) -> Inputs:
        """What is kept of an answer's question for its next experiment."""
        raise NotImplementedError

    def adopt(self, record: Record) -> Answer:
        """An answer of this session's model from a record of it; see `Answer.bind`.

        Raises
        ------
        OptionError
            If the model would cut or write the record's prompt otherwise, or reads other words from its tokens.
        """
        raise NotImplementedError

    def answer_of(self, record: Record) -> Answer:
        """An answer that asks its questions of this session, from a record that was made here."""
        raise NotImplementedError

    def shared(self, prompt: Prompt) -> Prompt:
        """The prompt, with the pictures of those before it that are the same."""
        return prompt

    # ---- asking ----------------------------------------------------------------------------------------------------

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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
    ) -> Answer | list[Answer]:
        """Ask about pictures, and keep what is needed to see where the answer came from.

        Parameters
        ----------
        prompt
            A question, a list of texts and pictures in order, or a list of messages as chat services take them. Paths, PIL
            images, arrays, tensors, bytes, open files and addresses are pictures; so is a string that names a file or
            looks as if it should; a `vila_lab.Video`, or a video's name, is so many pictures. Every other string is text, and
            every `vila_lab.Text`. See `vila_lab.Prompt.of`.
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
        background
            The colour behind what is transparent in a picture: "white", "#ffffff" or (255, 255, 255). By default there is none, as in
            the reference: what shows is the colour that the file has there.
        options
            Those of the model's family: the ones below, and what a family from elsewhere takes.

        Other Parameters
        ----------------
        conv_mode : {"auto", "vicuna_v1", "v1", "llama_3", "hermes-2", "plain"}
            All families; other ones than NVILA take "auto" alone. The conversation template, by default the checkpoint's own.
        tile_all_images : bool
            NVILA alone. Cut every picture into tiles where the model does so for a single one; the reference does not.
        tile_first : bool
            NVILA alone. Cut the first picture so, and no other: a conversation that began with one picture goes on as it was.
        image_aspect_ratio : {"resize", "pad", "dynamic"}
            NVILA alone. How a picture is cut, by default in the checkpoint's own way.
        generation_config : {"greedy", "checkpoint"}
            All families but NVILA. "checkpoint" lets the penalties of its generation_config.json change the scores, and its
            temperature, top_p and top_k hold where ``do_sample=True`` leaves them open.
        picture_order : {"given", "template"}
            All families but NVILA. "template" leaves pictures where the chat template writes them, which in some families is
            before all words.

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
        request = self._request(prompt, images, sampling, limits, HowRead(apply_exif, background), options)
        if n is None:
            return self.answer_of(self.run(request))
        check_types(Asking.ask, {"n": n})
        check_range("n", n, least=1)
        if n > 1 and not do_sample:
            raise OptionError("n answers without sampling are n times the same one: add do_sample=True")
        return self._several([replace(request, sampling=sampling.other(number)) for number in range(n)])

    @keeps_gradients
    def ask_again(self, answer: Answer) -> Answer:
        """Ask an answer's question again here: of another session's answer, or of one from a file.

        Its conversation, pictures, options, limits, form and seed are repeated. Edits are not: an answer knows them in words only;
        those that act here do. Notes say what could not be repeated, such as an option that this model's family does not have.

        Parameters
        ----------
        answer
            Of any session, or from `vila_lab.open`.

        Returns
        -------
        Answer

        Raises
        ------
        ContextTooLong
            If this model's context does not hold the question.
        OptionError
            If it is no answer.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> lab.ask_again(answer).text == answer.text
        True
        """
        if not isinstance(answer, Answer):
            raise OptionError(f"ask_again takes an answer, not {answer!r}; lab.ask takes a question")
        request, notes = asked_again(answer.record, self.name, self.options_of)
        record = self.run(replace(request, prompt=self.shared(request.prompt)))
        record.notes = (*record.notes, *notes)
        return self.answer_of(record)

    def _several(self, requests: Sequence[Request]) -> list[Answer]:
        found = []
        for record in self.run_many(requests):
            if isinstance(record, VilaLabError):
                raise record
            found.append(self.answer_of(record))
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
        background: Colour | None = None,
        **options: Unpack[FamilyOptions],
    ) -> Stream:
        """Ask, and get the answer as it comes: iterate over its tokens, or let a notebook show it growing.

        Parameters
        ----------
        prompt, images, max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, background, options
            As in `ask`.

        Other Parameters
        ----------------
        conv_mode, tile_all_images, tile_first, image_aspect_ratio, generation_config, picture_order
            As in `ask`.

        Returns
        -------
        Stream
            Its ``answer`` is what `ask` gives, or as much of it as was said when the stream was closed or interrupted.

        Raises
        ------
        VilaLabError
            As `ask`, before anything is computed.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> stream = lab.stream(question)
        >>> [token.text for token in stream][0], stream.answer.text
        ('Microsoft', 'Microsoft.')
        """
        sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
        limits = limits_of(max_new_tokens, stop, logprobs, response_format)
        request = self._request(prompt, images, sampling, limits, HowRead(apply_exif, background), options)
        return Stream(self.begin(request), self.answer_of)

    def ask_many(
        self,
        prompts: Iterable[Any],
        *,
        batch_size: int | str = "auto",
        errors: OnError = "raise",
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
        max_new_tokens, do_sample, temperature, top_p, top_k, min_p, seed, stop, logprobs, response_format, apply_exif, background, options
            As in `ask`, for every question.

        Other Parameters
        ----------------
        conv_mode, tile_all_images, tile_first, image_aspect_ratio, generation_config, picture_order
            As in `ask`.

        Returns
        -------
        Answers
            In order; each is what `ask` gives, to the rounding of a batch.

        Raises
        ------
        VilaLabError
            As `ask`; the message begins "question 3 of 100".

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> [answer.text for answer in lab.ask_many([question, "Hello"], max_new_tokens=3)][0]
        'Microsoft.'
        """
        check_types(Asking.ask_many, {"batch_size": batch_size})
        if isinstance(batch_size, str) and batch_size != "auto":
            raise OptionError(f'batch_size is a number or "auto", not {batch_size!r}')
        check_range("batch_size", None if isinstance(batch_size, str) else batch_size, least=1)
        sampling = Sampling(do_sample, temperature, top_p, top_k, seed, min_p)
        limits = limits_of(max_new_tokens, stop, logprobs, response_format)
        size = None if isinstance(batch_size, str) else batch_size
        return answered(
            prompts,
            lambda prompt: self._request(prompt, None, sampling, limits, HowRead(apply_exif, background), options),
            lambda requests: self.run_many(requests, size),
            self.answer_of,
            errors,
        )

    def chat(self, system: str | None = None, *, tiling: Tiling = "reference") -> Chat:
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

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> chat = lab.chat()
        >>> chat.ask(question).text, chat.ask("What is in image 1?").text
        ('Microsoft.', 'Google.')
        """
        if tiling not in TILINGS:
            raise OptionError(
                f"tiling {tiling!r} is unknown{nearest(tiling, TILINGS)}; choose one of {', '.join(TILINGS)}"
            )
        return Chat(self, system, first_reading=self.first_reading if tiling == "first" else {})

    def _chosen(self, options: Mapping[str, Any]) -> Any:
        """The options of the model's family; of an unknown one the message proposes an option of `ask` too."""
        try:
            return self.options_of(options)
        except OptionError:
            for name in options:
                if near := nearest(name, inspect.signature(Asking.ask).parameters):
                    raise OptionError(f"there is no option {name!r}{near}") from None
            raise

    def _request(
        self,
        prompt: Any,
        images: Any,
        sampling: Sampling,
        limits: dict[str, Any],
        how: HowRead,
        options: Mapping[str, Any],
    ) -> Request:
        chosen = self._chosen(options)
        parts = self.shared(Prompt.of(prompt, images=images, apply_exif=how.apply_exif, background=how.background))
        return Request(parts, chosen, sampling, **limits)
