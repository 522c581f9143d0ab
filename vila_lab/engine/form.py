"""Form: what an answer has to look like, JSON of a schema or one of some choices. Knows no model and no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError

WAYS = (
    'response_format is {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": ...}}, a pydantic class or a list '
    "of texts"
)


@dataclass(frozen=True)
class Form:
    """What an answer has to look like.

    Attributes
    ----------
    schema : str
        A JSON schema as JSON; empty where there are choices.
    choices : tuple of str
        The answer is one of them.
    """

    schema: str = ""
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, response_format: Any) -> Form | None:
        """The form that is asked for; None for plain text.

        Parameters
        ----------
        response_format
            As OpenAI's chat completions take it, or a pydantic class, or a list of texts to choose from.

        Raises
        ------
        OptionError
            If it is none of these.

        Examples
        --------
        >>> Form.of(["yes", "no"])
        Form(schema='', choices=('yes', 'no'))
        >>> Form.of({"type": "json_object"}).schema
        '{"type": "object"}'
        """
        if response_format is None:
            return None
        if hasattr(response_format, "model_json_schema"):
            return cls(_as_json(response_format.model_json_schema()))
        if isinstance(response_format, Mapping):
            return _of_mapping(response_format)
        if isinstance(response_format, Sequence) and not isinstance(response_format, str | bytes):
            return cls(choices=_choices(response_format))
        raise OptionError(f"{WAYS}, not {response_format!r}")


def _of_mapping(given: Mapping[str, Any]) -> Form | None:
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Form('{"type": "object"}')
    if kind == "json_schema":
        inner = given.get("json_schema", given)
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if isinstance(schema, Mapping | bool):
            return Form(_as_json(schema))
        raise OptionError('response_format has the type "json_schema" and no schema: {"json_schema": {"schema": ...}}')
    raise OptionError(f"{WAYS}, and this has the type {kind!r}")


def _as_json(schema: Any) -> str:
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"the schema of response_format is no JSON ({error})") from error


def _choices(given: Sequence[Any]) -> tuple[str, ...]:
    if not given or not all(isinstance(each, str) and each.strip() for each in given):
        raise OptionError("the choices of response_format are texts, at least one and none of them empty")
    if any(0xD800 <= ord(character) <= 0xDFFF for each in given for character in each):
        raise OptionError(
            "a choice of response_format holds half a character (a lone surrogate); decode the text again"
        )
    if len(set(given)) < len(given):
        raise OptionError("the choices of response_format hold one text twice")
    return tuple(given)
