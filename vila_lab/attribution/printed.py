"""A table whose texts are printed whole: a line for each cell in a terminal, wrapped cells in a notebook. Knows tables alone."""

from __future__ import annotations

import textwrap
from functools import cache
from typing import Any

WIDTH = 100  # characters of a line


@cache
def printed_table() -> Any:
    """The class, made when it is needed: pandas takes a while to import."""
    import pandas as pd

    class PrintedTable(pd.DataFrame):  # type: ignore[misc]  # pandas ships no annotations
        """A `pandas.DataFrame` in which no text is cut; what is taken from it is a plain one."""

        @property
        def _constructor(self) -> Any:
            return pd.DataFrame

        def __repr__(self) -> str:
            rows = []
            for name, row in self.iterrows():
                lines = [_line(column, value) for column, value in row.items()]
                rows.append("\n".join([str(name), *lines]))
            return "\n\n".join(rows)

        def _repr_html_(self) -> str:
            with pd.option_context("display.max_colwidth", None):
                return str(self.to_html(notebook=True, max_rows=None, max_cols=None))

        def __reduce__(self) -> tuple[Any, ...]:
            return pd.DataFrame, (pd.DataFrame(self),)

    return PrintedTable


def _line(column: Any, value: Any) -> str:
    """A cell under its row's name, wrapped."""
    shown = ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return textwrap.fill(f"{column}: {shown}", WIDTH, initial_indent="    ", subsequent_indent="        ")
