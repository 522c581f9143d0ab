"""Names in docstrings and signatures, as links to their entries where there are any. Knows names, and not what they mean."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

LISTED = re.compile(r"^(\w+(?:, \w+)*)(?: :.*)?$")  # the first line of attributes in a class's docstring

ARRAY = re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(.*?)\]\]")


def _is_a_name(word: str) -> bool:
    """Whether it can only be a name of ours; "picture" and "text" are words of every sentence."""
    return word[:1].isupper() or "." in word


def _found(env: BuildEnvironment, name: str) -> list[Any]:
    """Entries by the name a reader uses: ``load`` for vila_lab.load, ``Answer.plot`` whatever its module."""
    python = env.domains.python_domain
    exact: list[Any] = python.find_obj(env, None, None, f"vila_lab.{name}", None, 0)
    if exact or not _is_a_name(name):
        return exact
    return list(python.find_obj(env, None, None, name, None, 1))


def link(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> nodes.Element | None:
    """What a name becomes that Sphinx finds no entry for; None is a warning, and only for a link asked for by its role."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].removesuffix("()")
    entries = {entry.node_id: entry for _, entry in _found(env, name)}
    if len(entries) == 1:
        entry = next(iter(entries.values()))
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, name)
    asked_for = "refwarn" in node and node["reftype"] != "obj"  # a role other than that of single backticks
    return None if asked_for else text


def take_words_as_words(app: Sphinx, page: nodes.document) -> None:
    """Sphinx looks for every word of a type among all entries that end so."""
    for node in page.findall(pending_xref):
        if node.get("refspecific") and not _is_a_name(node["reftarget"]):
            del node["refspecific"]


def listed(docstring: list[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The lines of a docstring, each attribute of its list with the names it is for; () with all other lines."""
    names: tuple[str, ...] = ()
    within, block = False, list[str]()
    for line, below in zip(docstring, [*docstring[1:], ""], strict=True):
        head = LISTED.match(line)
        if head or (line and not line[0].isspace()):
            yield names, block
            block = []
            within = line == "Attributes" or (within and not below.startswith("---"))
            names = tuple(head[1].split(", ")) if head and within and not line.startswith(("Attributes", "-")) else ()
        block.append(line)
    yield names, block


def list_attributes(app: Sphinx, what: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Each attribute gets an entry: of several in one line each, and a property only its own, in its class's words if it has none."""
    if what == "class":
        kept = []
        for names, (head, *body) in filter(lambda found: found[1], listed(lines)):
            fields = [each for each in names if not isinstance(getattr(it, each, None), property)]
            for each in fields if names else [head]:
                kept += [each + head[len(", ".join(names)) :] if names else head, *body]
        lines[:] = kept
    if what == "property" and not lines:
        owner = vars(sys.modules[it.fget.__module__])[it.fget.__qualname__.partition(".")[0]]
        told = dict(
            (each, body) for names, body in listed((inspect.getdoc(owner) or "").splitlines()) for each in names
        )
        last = name.rpartition(".")[2]
        body = told[last][1:] if last in told else []
        lines[:] = [*inspect.cleandoc("\n".join(["", *body])).splitlines(), ""]


def keep_properties(app: Sphinx, what: str, name: str, it: Any, skip: bool, options: Any) -> bool | None:
    """Also those that only their class has words for."""
    return False if isinstance(it, property) and not name.startswith("_") else None


def shorten_arrays(
    app: Sphinx, what: str, name: str, it: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """numpy's alias is spelt out when an annotation is evaluated."""
    short, back = (part and ARRAY.sub(r"NDArray[\1]", part) for part in (signature, returned))
    return short, back


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", link)
    app.connect("doctree-read", take_words_as_words)
    app.connect("autodoc-process-docstring", list_attributes, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", keep_properties)
    app.connect("autodoc-process-signature", shorten_arrays)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
