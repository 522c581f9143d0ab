"""The methods in their own words, and what the benchmarks found. Knows `vila_lab.methods` and the committed results."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import vila_lab
from benchmarks.checkpoints import results_of


class Methods(SphinxDirective):
    """A heading and a few lines for each method there is."""

    def run(self) -> list[nodes.Node]:
        told = [
            f"### `{name}`\n\n{row.measures}\n\n"
            f"- **Scores:** {'signed' if row.signed else 'unsigned'}{', takes a contrast' if row.contrast else ''}\n"
            f"- **Cost:** {row.cost}\n- **Source:** {row.source}\n"
            for name, row in vila_lab.methods().iterrows()
        ]
        return self.parse_text_to_nodes("\n".join(told), allow_section_headings=True)


class Measured(SphinxDirective):
    """What a benchmark found when it was last run, as it prints it: its name, and the checkpoint's where it is not the embedded one."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        benchmark = import_module(f"benchmarks.{self.arguments[0]}")
        results = results_of(benchmark.RESULTS, *(self.arguments[1:] or [None]))
        self.env.note_dependency(str(results))
        told = self.parse_text_to_nodes(benchmark.printed(json.loads(results.read_text(encoding="utf-8"))))
        for node in told:
            for table in node.findall(nodes.table):
                table["classes"].append("numbers")
        return told


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("methods", Methods)
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
