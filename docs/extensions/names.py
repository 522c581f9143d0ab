"""Names in docstrings and signatures, as links to their entries where there are any. Knows names, and not what they mean."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

LISTED = re.compile(r"^(\w+)(?: :.*)?$")  # the first line of an attribute in a class's docstring

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


def leave_properties_to_themselves(app: Sphinx, what: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """An attribute that is a property has an entry of its own, and is left out of its class's list."""
    if what != "class":
        return
    kept, leaves_out = [], False
    for line in lines:
        if line and not line[0].isspace():
            listed = LISTED.match(line)
            leaves_out = listed is not None and isinstance(getattr(it, listed[1], None), property)
        if not leaves_out:
            kept.append(line)
    lines[:] = kept


def shorten_arrays(
    app: Sphinx, what: str, name: str, it: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """numpy's alias is spelt out when an annotation is evaluated."""
    short, back = (part and ARRAY.sub(r"NDArray[\1]", part) for part in (signature, returned))
    return short, back


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", link)
    app.connect("doctree-read", take_words_as_words)
    app.connect("autodoc-process-docstring", leave_properties_to_themselves, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten_arrays)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
