"""What the runs of each row say, held against each other, and as tables of Markdown. Knows no tool by name but vila_lab."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.beside import attention, attribution
from benchmarks.reporting import table

Row = dict[str, Any]
Found = dict[str, Row]  # of each row its runs, version, and why it failed


# ---- rows ------------------------------------------------------------------------------------------------------------


def attention_rows(found: Found) -> dict[str, Row]:
    """Each row held against the plain run, and against what transformers itself returns."""
    rows: dict[str, Row] = {}
    for name, row in found.items():
        rows[name] = head_of(row, attention.WAYS[name].gives)
        if "failed" in row:
            continue
        one, plain = row["runs"][0], found[attention.PLAIN]["runs"][0]
        rows[name] |= cost_of(found, name, attention.PLAIN) | {"kept": one["kept"]}
        if one["shares"] is None:
            continue
        shares = np.array(one["shares"])
        same_words = one["ids"] == plain["ids"] and len(shares) == len(one["ids"])
        rows[name] |= {
            "under sdpa": row["tried"].get("sdpa", "no: its own" if one["replaced"] else "yes"),
            "columns": shares.shape[1],
            "while generating": "yes" if same_words else "no: other words",
        }
        if reference := found[attention.REFERENCE]["runs"]:
            rows[name]["difference"] = largest(shares - np.array(reference[0]["shares"])[:, : shares.shape[1]])
    return rows


def attribution_rows(found: Found) -> dict[str, Row]:
    """Each row held against the plain forward, and against captum's own loop."""
    rows: dict[str, Row] = {}
    for name, row in found.items():
        way = attribution.WAYS[name]
        rows[name] = head_of(row, way.gives)
        if "failed" in row:
            continue
        rows[name] |= cost_of(found, name, attribution.PLAIN)
        if name == attribution.PLAIN:
            continue
        scores = np.array(row["runs"][0]["scores"])
        rows[name] |= {"columns": len(scores), "largest score": largest(scores)}
        if reference := found[way.reference]["runs"]:
            rows[name]["difference"] = largest(scores - np.array(reference[0]["scores"]))
    return rows


def head_of(row: Row, gives: str) -> Row:
    head = {"version": row["version"], "gives": gives}
    return head | ({"failed": row["failed"]} if "failed" in row else {})


def cost_of(found: Found, name: str, plain: str) -> Row:
    """Medians over rounds, and medians of the ratios to the plain run of the same round."""
    runs = found[name]["runs"]
    cost: Row = {"rounds": len(runs)}
    for what, ratio in (("seconds", "time"), ("peak", "memory")):
        pairs = [(run[what], other[what]) for run, other in zip(runs, found[plain]["runs"], strict=False)]
        cost[what] = statistics.median(mine for mine, _ in pairs)
        if all(other for _, other in pairs):  # a small model may grow nothing
            cost[ratio] = statistics.median(mine / other for mine, other in pairs)
    return cost


def largest(values: ArrayLike) -> float:
    return float(np.abs(values).max())


def setting(found: Found) -> Row:
    """What all rows were asked."""
    run = next(row["runs"][0] for row in found.values() if row["runs"])
    return {"positions": run["positions"], "pictures": run["pictures"], "tokens": run["tokens"]}


# ---- tables ----------------------------------------------------------------------------------------------------------


def printed(report: Row) -> str:
    """The tables of a run, one below the other."""
    told = []
    for subject, part in report.get("attention", {}).items():
        told.append(f"Attention of each new token to each picture: {told_of(subject, part)}.")
        told.append(table([attention_cells(name, row, part) for name, row in part["rows"].items()]))
    for subject, part in report.get("attribution", {}).items():
        told.append(f"A score for each picture: {told_of(subject, part)}; times and memory are in one plain forward.")
        told.append(table([attribution_cells(name, row, part) for name, row in part["rows"].items()]))
    for subject, part in report.get("pages", {}).items():
        told.append(f"A page that shows the attention of an answer: {subject}.")
        told.append(table([page_cells(name, row, part["sizes"]) for name, row in part["rows"].items()]))
    return "\n\n".join(told)


def told_of(subject: str, part: Row) -> str:
    return f"{subject}, {part['pictures']} pictures in {part['positions']:,} positions, {part['tokens']} tokens"


def named(name: str, row: Row) -> str:
    """With its version, which vila_lab's own rows need not say."""
    return name if name.startswith("vila_lab") or row["version"] is None else f"{name} ({row['version']})"


def told_first(row: Row) -> str:
    """What a row gives, or the first sentence of what happened."""
    return re.split(r"[.;] ", row.get("failed", row["gives"]))[0].replace("|", "/").replace("<", "")


def attention_cells(name: str, row: Row, part: Row) -> Row:
    return {
        "way": named(name, row),
        "time": number(row.get("time")),
        "peak memory": number(row.get("memory")),
        "MB kept": number(row.get("kept"), 1e6),
        "under sdpa": told_shortly(row.get("under sdpa", "-")),
        "several pictures": several(row, part),
        "while generating": row.get("while generating", "-"),
        "largest difference": far(row),
        "gives, or what happened": told_first(row),
    }


def attribution_cells(name: str, row: Row, part: Row) -> Row:
    return {
        "way": named(name, row),
        "time": number(row.get("time")),
        "peak memory": number(row.get("memory")),
        "several pictures": several(row, part),
        "largest score": number(row.get("largest score")),
        "largest difference": far(row),
        "gives, or what happened": told_first(row),
    }


def page_cells(name: str, row: Row, sizes: list[int]) -> Row:
    each = {size: row.get(str(size), {}) for size in sizes}
    return {
        "page": named(name, row),
        **{f"MB, {size} tokens": number(found.get("bytes"), 1e6) for size, found in each.items()},
        **{f"seconds, {size} tokens": number(found.get("seconds")) for size, found in each.items()},
        "shows, or what happened": told_first(row),
    }


def told_shortly(word: str) -> str:
    """An error is a no; what it was stands in the results."""
    return word if word.startswith(("yes", "no", "-")) else "no"


def several(row: Row, part: Row) -> str:
    """Whether there is a number for each picture, and about what it should be: orders that are drawn may be off by less than half."""
    if "columns" not in row:
        return "-"
    if row["columns"] != part["pictures"]:
        return f"no: {row['columns']} of {part['pictures']}"
    if row.get("largest score") == 0:
        return "no: all 0"
    return "no: other numbers" if 2 * row.get("difference", 0) > row.get("largest score", math.inf) else "yes"


def number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.2f}"


def far(row: Row) -> str:
    return f"{row['difference']:.1e}" if "difference" in row else "-"
