"""Tab completion in IPython of the names that vila_lab's calls take: methods, kinds of figures. Knows signatures, and no model.

IPython is never imported: where nobody runs it there is nothing to complete.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

__all__ = ["names_at", "offer"]

NAME = "vila_lab names"
CALL = re.compile(r"""([A-Za-z_][\w.]*)\(([^()]*?)(?:(\w+)\s*=\s*)?\[?\s*(["'])(\w*)$""")


def offer() -> None:
    """Have the IPython that runs here, if one does, complete names; once."""
    ipython = sys.modules.get("IPython")
    shell: Any = None if ipython is None else ipython.get_ipython()
    completer = getattr(shell, "Completer", None)
    if completer is None or any(getattr(each, "matcher_identifier", "") == NAME for each in completer.custom_matchers):
        return
    completer.custom_matchers.append(_matcher(lambda: shell.user_ns))


def names_at(text: str, known: Mapping[str, Any]) -> list[str]:
    """What may stand in the quotes that a text ends in.

    Parameters
    ----------
    text
        A line of code up to the cursor.
    known
        What its names stand for.

    Examples
    --------
    >>> import vila_lab
    >>> names_at('Answer.attribute(answer, "leave', {"Answer": vila_lab.Answer})
    ['leave_one_out']
    """
    found = CALL.search(text)
    if found is None:
        return []
    path, before, keyword, _, begun = found.groups()
    function, skipped = _function(path.split("."), known)
    if function is None:
        return []
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    place = before.count(",")
    chosen = [each for each in parameters if each.name == keyword] if keyword else parameters[place : place + 1]
    return [name for each in chosen for name in _literals(each.annotation, function) if name.startswith(begun)]


def _function(path: list[str], known: Mapping[str, Any]) -> tuple[Callable[..., Any] | None, int]:
    """The function of vila_lab that a dotted name means, and how many of its arguments are bound; nothing is computed for it."""
    owner, name = known.get(path[0]), path[0]
    bound = 0
    for name in path[1:]:
        held, owner = owner, inspect.getattr_static(owner, name, None)
        bound = int(inspect.isfunction(owner) and not inspect.isclass(held) and not inspect.ismodule(held))
        if owner is None and inspect.ismodule(held):
            owner = getattr(held, name, None)  # one that is looked up on its first use
    is_ours = inspect.isfunction(owner) and owner.__module__.startswith(f"{__package__}.")
    return (owner, bound) if is_ours else (None, 0)


def _literals(annotation: Any, function: Callable[..., Any]) -> list[str]:
    """The fixed names in an annotation, which is a text, such as "Sequence[MethodName | str]"."""
    spaces = inspect.unwrap(function).__globals__
    found = [spaces.get(part) for part in re.findall(r"\w+", str(annotation))]
    return [name for each in found if get_origin(each) is Literal for name in get_args(each) if isinstance(name, str)]


def _matcher(known: Callable[[], Mapping[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A matcher as IPython has them since 8.6."""
    from IPython.core.completer import SimpleCompletion

    def match(context: Any) -> dict[str, Any]:
        names = names_at(context.full_text[: context.cursor_position], known())
        begun = re.search(r"\w*$", context.token)
        return {
            "completions": [SimpleCompletion(text=name, type="param") for name in names],
            "matched_fragment": begun[0] if begun else "",
            "suppress": bool(names),
        }

    match.matcher_identifier = NAME  # type: ignore[attr-defined]
    match.matcher_api_version = 2  # type: ignore[attr-defined]
    match.matcher_priority = 100  # type: ignore[attr-defined]
    return match
