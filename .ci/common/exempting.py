"""A plugin of pytest: exempt tests must fail, and the last line that is printed counts."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from exemptions import EXEMPTIONS
from packaging.specifiers import SpecifierSet

COUNTS = {"passed": 0, "exempt": 0, "skipped": 0, "failed": 0}


def applying() -> dict[str, str]:
    """Exempt test to reason, of those that hold for the installed version."""
    installed = version("transformers")
    return {each.test: each.reason for each in EXEMPTIONS if SpecifierSet(each.versions).contains(installed)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    exempt = applying()
    names = {item.nodeid.partition("::")[2]: item for item in items}
    whole = not config.getoption("keyword") and "::" not in " ".join(config.args)
    if whole and (unknown := sorted(exempt.keys() - names.keys())):
        raise pytest.UsageError(f"exempt, but there is no such test: {', '.join(unknown)}")
    for name, reason in exempt.items():
        if name in names:
            names[name].add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and not (report.when == "setup" and report.skipped) and not report.failed:
        return
    kind = "exempt" if report.skipped and hasattr(report, "wasxfail") else report.outcome
    COUNTS[kind] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    not_for_it = f", {COUNTS['skipped']} skipped as not for this kind of model"
    failed = f", {COUNTS['failed']} failed" if COUNTS["failed"] else ""
    print(f"{COUNTS['passed']} passed, {COUNTS['exempt']} exempt{not_for_it}{failed}")


