"""How a question was asked, as plain data that stays with its answer, and as a request again. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .form import Form
from .request import Request
from .sampling import Sampling

if TYPE_CHECKING:
    from .record import Record


def how_asked(request: Request, sampling: Sampling) -> dict[str, Any]:
    """What a request says beside its prompt and its edits, without what is as usual; the seed is the one that was drawn.

    >>> from vila_lab.prompt import Prompt
    >>> how_asked(Request(Prompt.of("Hello"), max_new_tokens=3), Sampling())
    {'max_new_tokens': 3}
    """
    notes = [list(picture.notes) for picture in request.prompt.pictures]
    found = {
        "sampling": _unusual(sampling),
        "options": _unusual(request.options),
        "max_new_tokens": _plain(request.max_new_tokens),
        "stop": list(request.stop) or None,
        "logprobs": None if request.logprobs == Request.logprobs else _plain(request.logprobs),
        "form": None if request.form is None else asdict(request.form),
        "pictures": notes if any(notes) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _unusual(options: Any) -> dict[str, Any] | None:
    """The options that are not at their defaults; None where all are."""
    if is_dataclass(options):
        usual = {each.name: each.default for each in fields(options)}
        options = {name: value for name, value in vars(options).items() if value != usual[name]}
    return {name: _plain(value) for name, value in (options or {}).items()} or None


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, which a file can hold."""
    return value.item() if hasattr(value, "item") else value


def asked_again(
    record: Record, model: str, options_of: Callable[[Mapping[str, Any]], Any]
) -> tuple[Request, list[str]]:
    """The request that a record answers, for a model of any family; and what cannot be repeated there, as notes.

    Parameters
    ----------
    model
        The name of the one that is asked.
    options_of
        Its family's options, checked.

    Raises
    ------
    OptionError
        If what the record says of it makes no sense.
    """
    told = record.asked
    options, notes = {}, []
    for name, value in told.get("options", {}).items():
        try:
            options_of({name: value})
        except OptionError:
            notes.append(f"asked again without {name}={value!r}, which this model's family does not have")
        else:
            options[name] = value
    if record.edits:
        notes.append(f"asked again without what edited the answer before: {'; '.join(record.edits)}")
    prompt = record.prompt
    if model != record.model:  # the tokens of what was said before are the other model's own
        prompt = replace(prompt, history=tuple(replace(turn, ids=()) for turn in prompt.history))
    form, sampling = told.get("form"), told.get("sampling", {})
    request = Request(
        prompt,
        options_of(options),
        Sampling(**{each.name: sampling[each.name] for each in fields(Sampling) if each.name in sampling}),
        max_new_tokens=told.get("max_new_tokens"),
        stop=tuple(told.get("stop", ())),
        logprobs=told.get("logprobs", Request.logprobs),
        form=None if form is None else Form(str(form.get("schema", "")), tuple(map(str, form.get("choices", ())))),
    )
    return request, notes
