"""A sweep's report as one offline page and as a notebook. Knows reports and html, no model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, get_args

from ..errors import CaptureError
from ..options import check_range
from ..view.display import Display
from ..view.html import call, identity_of, viewer_source, whole_page
from ..view.payload import to_json
from .opened import Sweep
from .report import DRAWN, Figure, Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["notebook", "page", "write_report"]

PAGE, NOTEBOOK = "report.html", "report.ipynb"
STYLE = (
    "main { max-width: 62rem; margin: 0 auto; padding: 1rem; } h1, h2, h3 { line-height: 1.2; } main > img { background: #fff; width: min(100%, 32rem); } "
    ".wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; } "
    "th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8886; } tbody th { text-align: left; } "
    "@media (max-width: 30rem) { th, td { padding: .25rem .3rem; font-size: .85em; } }"
)
PERCENT = ("share", "low", "high", "even", "confidence", "from", "to")
NOTES = {
    "accuracy": "Of the answers that could be judged; low and high are a 95 % interval (Wilson).",
    "on the right picture": "How often a method names the picture that the answer should rest on, where that is known.",
    "which place is named": "How often each method puts the picture at a place first; even is what no preference would be.",
    "agreement": "How often two methods put the same picture first.",
    "calibration": "Whether answers are right as often as the model is sure.",
    "verdicts": "What answers rest on, by evidence().",
    "cost": "Seconds of asking and of methods, on the machine that ran it.",
    "errors": "Why questions have no answer, or which method failed on one.",
}
SPLIT = "Of the answers that could be judged, split by this column."


def write_report(sweep: Sweep, *, run: str | None = None, worst: int = 6) -> list[str]:
    """Write ``report.html`` and ``report.ipynb`` into a sweep's folder; returns where they are.

    Parameters
    ----------
    run
        Which of its runs; by default the last.
    worst
        Answers to show whole.

    Raises
    ------
    OptionError
        If there is nothing to report.
    FileAccessError
        If they cannot be written.
    """
    check_range("worst", worst, least=0)
    report = Report(sweep, run)
    for name, text in ((PAGE, page(report, worst)), (NOTEBOOK, notebook(report))):
        sweep.store.put(name, text.encode())
    return [sweep.store.path(PAGE), sweep.store.path(NOTEBOOK)]


def page(report: Report, worst: int = 6) -> str:
    """A page that works offline: tables, figures, and the worst answers as live viewers."""
    plan = report.manifest["plan"]
    title = f"A sweep of {len(report.frame):,} questions"
    told = (
        f"From {report.manifest['questions']}, to {plan['model']}; {report.failed} failed; methods: {', '.join(plan['methods'])}. "
        f"Begun {report.manifest['started']}, reported {time.strftime('%Y-%m-%d')}."
    )
    parts = [f"<h1>{escape(title)}</h1><p>{escape(told)}</p>"]
    for name, table in report.tables.items():
        parts.append(f"<h2>{escape(name.capitalize())}</h2><p>{escape(NOTES.get(name, SPLIT))}</p>")
        parts += [_figure(report.plot(kind), name) for kind, drawn in DRAWN.items() if drawn == name]
        label = escape(name, quote=True)
        parts.append(f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{_html(table)}</div>')
    shown, script = _answers(report, worst)
    return whole_page(title, f"<main>{''.join(parts)}{shown}</main>", script, STYLE)


def _answers(report: Report, count: int) -> tuple[str, str]:
    """The worst answers, and the script that brings them to life."""
    shown, calls = [], []
    rows = report.frame.set_index("key")
    for key in report.worst(count):
        row = rows.loc[key]
        expected = f", expected {row['expected']}" if row["expected"] else ""
        name = row["row"] if row["id"] is None else row["id"]
        heading = f"{name}: {row['answer']}{expected}"
        try:
            display: Display | None = report.sweep[key].display()
        except CaptureError:  # no answers were kept
            display = None
        shown.append(f"<h3>{escape(heading)}</h3>{display.body if display else ''}")
        if display:
            payload = to_json(display.payload)
            calls.append(call("mount", identity_of(payload), payload))
    if not shown:
        return "", ""
    head = "Wrong, and sure of it" if report.knows_wrong else "Least sure"
    return f"<h2>{head}</h2>{''.join(shown)}", f"\n{viewer_source()}\n{''.join(calls)}" if calls else ""


def notebook(report: Report) -> str:
    """A notebook that opens the sweep beside it, and makes the same tables and figures again."""
    told = f"{len(report.frame)} questions to {report.manifest['plan']['model']}. No model is needed to look at them."
    opening = ['sweep = vila_lab.open_sweep(".")', f"report = Report(sweep, {report.run!r})", "sweep"]
    cells = [
        _words("# A sweep, looked at", told),
        _code("import vila_lab", "from vila_lab.sweeps.report import Report", "", *opening),
        _code("report.frame.head()"),
    ]
    for name in report.tables:
        cells += [_words(f"## {name.capitalize()}", NOTES.get(name, SPLIT)), _code(f"report.tables[{name!r}]")]
    cells += [_code(f"report.plot({kind!r})") for kind in get_args(Figure) if DRAWN[kind] in report.tables]
    for key in report.worst(1):
        words = _words("## One answer", "As it was kept; `answer.bind(lab)` gives it a model, to ask on.")
        cells += [words, _code(f"answer = sweep[{key[:16]!r}]", "answer")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    made = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _figure(ax: Axes, name: str) -> str:
    buffer = io.BytesIO()
    figure: Any = ax.figure
    figure.savefig(buffer, format="png", dpi=200)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(name, quote=True)}, as in the table below" src="data:image/png;base64,{data}">'


def _html(table: pd.DataFrame) -> str:
    import pandas as pd

    formats = {name: "{:.1%}".format for name in PERCENT if name in table}
    numbered = isinstance(table.index, pd.RangeIndex)  # which says nothing
    shown: str = table.to_html(
        escape=True, formatters=formats, float_format="{:.3g}".format, na_rep="", border=0, index=not numbered
    )
    return shown.replace(' style="text-align: right;"', "")  # the page's own style says it, and allows no other


def _words(*paragraphs: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": _id(paragraphs), "metadata": {}, "source": "\n\n".join(paragraphs)}


def _code(*lines: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": _id(lines),
        "metadata": {},
        "execution_count": None,
        "outputs": [],
    }
    return cell | {"source": "\n".join(lines)}


def _id(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
