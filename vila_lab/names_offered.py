"""Tab completion in IPython of the names that vila_lab's calls take: methods, kinds of figures, options of families.

Knows signatures, and no model. IPython is never imported: where nobody runs it there is nothing to complete.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["names_at", "offer", "options_at"]

NAME = "vila_lab names"
BEGUN = r"([\w-]*)$"
OPEN = r"([A-Za-z_][\w.]*)\(((?:[^()]|\([^()]*\))*?)"  # a call that is not closed, and what was given already
IN_QUOTES = re.compile(OPEN + """["']""" + BEGUN)
AT_OPTION = re.compile(OPEN + BEGUN)
STRING = re.compile(r"""(["']).*?(?:\1|$)""", re.DOTALL)  # the last one may be open
LONGEST = 2_000  # characters of a call that are looked at: every key that is pressed asks
KEYWORD = re.compile(r"\s*(\w+)\s*=(?!=)")
ITEM = re.compile(
    r"\s*(?:(\w+)\s*=)?\s*(?:\[\s*(?:''\s*,\s*)*)?"
)  # an argument before its string, or before one in its list


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
        Code up to the cursor.
    known
        What its names stand for.

    Examples
    --------
    >>> import vila_lab
    >>> names_at('Answer.attribute(answer, "leave', {"Answer": vila_lab.Answer})
    ['leave_one_out']
    """
    found = IN_QUOTES.search(text[-LONGEST:])
    if found is None:
        return []
    path, before, begun = found.groups()
    *complete, last = _arguments(before)
    item = ITEM.fullmatch(last)
    function, bound = _function(path.split("."), known)
    if item is None or function is None:
        return []
    place = bound + len(complete)
    positional = [each.name for each in _parameters(function) if each.kind is each.POSITIONAL_OR_KEYWORD]
    name = item[1] or "".join(positional[place : place + 1])
    kinds = {each.name: each.annotation for each in _parameters(function)} | _unpacked(function)
    return [each for each in _literals(kinds.get(name), function) if each.startswith(begun)]


def options_at(text: str, known: Mapping[str, Any]) -> list[str]:
    """The options which may be given where a text ends that stand in no signature by name, but in what it unpacks.

    Parameters
    ----------
    text, known
        As in `names_at`.

    Examples
    --------
    >>> import vila_lab
    >>> options_at("chat.ask(question, tile", {"chat": vila_lab.Chat()})
    ['tile_all_images', 'tile_first']
    """
    found = AT_OPTION.search(text[-LONGEST:])
    if found is None:
        return []
    path, before, begun = found.groups()
    *complete, last = _arguments(before)
    function, _ = _function(path.split("."), known)
    if last.strip() or function is None:
        return []
    given = [named[1] for named in map(KEYWORD.match, complete) if named]
    return [name for name in _unpacked(function) if name.startswith(begun) and name not in given]


def _arguments(given: str) -> list[str]:
    """What was given to a call, argument by argument, with '' for each string; the last one is not complete."""
    found, depth = [""], 0
    for sign in STRING.sub("''", given):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            found.append("")
        else:
            found[-1] += sign
    return found


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


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [*inspect.signature(function).parameters.values()]


def _unpacked(function: Callable[..., Any]) -> dict[str, Any]:
    """The options behind its ``**options: Unpack[...]``, by name with their types."""
    for each in _parameters(function):
        if found := re.fullmatch(r"Unpack\[(\w+)\]", str(each.annotation)):
            return get_type_hints(inspect.unwrap(function).__globals__[found[1]])
    return {}


def _literals(annotation: Any, function: Callable[..., Any]) -> list[str]:
    """The fixed names in an annotation, which is a type, or a text such as "Sequence[MethodName | str]"."""
    spaces = inspect.unwrap(function).__globals__
    words = [spaces.get(part) for part in re.findall(r"\w+", annotation)] if isinstance(annotation, str) else []
    found = [*words, annotation, *get_args(annotation)]
    return [name for each in found if get_origin(each) is Literal for name in get_args(each) if isinstance(name, str)]


def _matcher(known: Callable[[], Mapping[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A matcher as IPython has them since 8.6."""
    from IPython.core.completer import SimpleCompletion

    def match(context: Any) -> dict[str, Any]:
        above = context.full_text.split("\n")[: context.cursor_line]
        text = "\n".join([*above, context.text_until_cursor])
        names = names_at(text, known())
        options = [f"{name}=" for name in options_at(text, known())]
        begun = re.search(BEGUN, text)
        return {
            "completions": [SimpleCompletion(text=name, type="param") for name in [*names, *options]],
            "matched_fragment": begun[0] if begun else "",
            "suppress": bool(names),
        }

    match.matcher_identifier = NAME  # type: ignore[attr-defined]
    match.matcher_api_version = 2  # type: ignore[attr-defined]
    match.matcher_priority = 100  # type: ignore[attr-defined]
    return match
