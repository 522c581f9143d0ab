"""A plugin of pytest: exempt tests must fail, and the last line that is printed counts."""

from __future__ import annotations

import unittest
from importlib.metadata import version

import pytest
from exemptions import EXEMPTIONS
from packaging.specifiers import SpecifierSet

outcomes: dict[str, str] = {}
WORST = ("failed", "exempt", "skipped", "passed")


def applying() -> dict[str, str]:
    """Exempt test to reason, of those that hold for the installed version."""
    installed = version("transformers")
    return {each.test: each.reason for each in EXEMPTIONS if SpecifierSet(each.versions).contains(installed)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    exempt = applying()
    found = {item.nodeid.partition("::")[2]: item for item in items}
    whole = not config.getoption("keyword") and "::" not in " ".join(config.args)
    if whole and (unknown := sorted(exempt.keys() - found.keys())):
        raise pytest.UsageError(f"exempt, but there is no such test: {', '.join(unknown)}")
    for name, reason in exempt.items():
        if name in found:
            must_fail(found[name], reason)


def must_fail(item: pytest.Item, reason: str) -> None:
    """Run a test by itself, with its sub-tests, and turn its result round."""

    def runtest() -> None:
        assert isinstance(item, pytest.Function)
        assert item.cls is not None
        result = unittest.TestResult()
        item.cls(item.name).run(result)
        if result.wasSuccessful():
            pytest.fail(
                f"is {'skipped' if result.skipped else 'passed'} although exempt ({reason}): strike it off the list"
            )
        pytest.xfail(reason)

    item.runtest = runtest  # type: ignore[method-assign]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    kind = "exempt" if hasattr(report, "wasxfail") else report.outcome
    outcomes[report.nodeid] = min(kind, outcomes.get(report.nodeid, "passed"), key=WORST.index)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of xdist, which reports to the one that prints
        return
    counts = {kind: list(outcomes.values()).count(kind) for kind in WORST}
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    print(f"{counts['passed']} passed, {counts['exempt']} exempt, {counts['skipped']} skipped by themselves{failed}")
