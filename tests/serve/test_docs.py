"""The papers about serving agree with the program: every flag they name is there, every flag there is named, and limits are those."""

from __future__ import annotations

import configparser
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from vila_lab.cli import main
from vila_lab.serve import doors, kept, ray_app, running, settings, tokens, worker

DOCS = Path(__file__).parents[2] / "docs"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
SERVING, CONTAINER, UNIT = (
    (DOCS / name).read_text("utf-8") for name in ("serving.md", "Containerfile", "vila-lab.service")
)


@pytest.fixture
def flags(capsys) -> set[str]:
    """What `vila-lab serve` knows."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    return set(FLAG.findall(capsys.readouterr().out))


def commands(text: str) -> list[str]:
    """Lines that start the service, and words in code that begin with two dashes."""
    lines = [line for line in text.splitlines() if "vila-lab serve" in line]
    return [*lines, *re.findall(r"`(--[^`]+)`", text)]


def exec_start() -> str:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(UNIT)
    return unit["Service"]["ExecStart"]


def entry_point() -> list[str]:
    (line,) = re.findall(r"^ENTRYPOINT (\[.+\])$", CONTAINER, re.MULTILINE)
    return [word.strip(' "') for word in line.strip("[]").split(",")]


def test_every_flag_that_is_named_is_there(flags):
    named = set(FLAG.findall("\n".join(commands(SERVING))))
    assert len(named) > 8
    assert named <= flags
    assert {word for word in shlex.split(exec_start()) if word.startswith("--")} <= flags
    assert {word for word in entry_point() if word.startswith("--")} <= flags


def test_every_flag_that_opens_something_is_named(flags):
    closed = {"--help", "--model-path", "--device", "--dtype", "--port"}
    assert flags - closed <= set(FLAG.findall(SERVING))


@pytest.mark.parametrize("words", [shlex.split(exec_start())[1:], entry_point()[1:]], ids=["unit", "container"])
def test_the_commands_are_understood(words, capsys, monkeypatch, tmp_path):
    """As they stand, but for the file of tokens, which systemd lays elsewhere."""
    path = tmp_path / "tokens.toml"
    path.write_text('[ana]\ntoken = "a-token-of-anas"\n')
    path.chmod(0o600)
    monkeypatch.setenv(settings.TOKEN, "a-token-of-the-tests")
    assert main([word.replace("%d/tokens.toml", str(path)) for word in words] + ["--check"]) == 0
    said = capsys.readouterr().err
    assert (":8000: open to" in said) == ("8000" in words)
    assert ("token of ana" in said) == ("--tokens" in words)


def test_the_check_in_the_text_is_what_it_says(capsys, monkeypatch, tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text('[ana]\ntoken = "a-token-of-anas"\nquestions_per_hour = 200\n')
    path.chmod(0o600)
    monkeypatch.delenv(settings.TOKEN, raising=False)
    assert main(["serve", "--tokens", str(path), "--check"]) == 0
    assert capsys.readouterr().err in SERVING


def test_the_limits_are_those():
    for words in (
        f"{doors.LARGEST // 2**20} MiB, within {doors.BODY_SECONDS:.0f} s", f"{worker.WAITING}, of one client {worker.WAITING_EACH}",
        f"`--time-limit`, {settings.TIME_LIMIT:.0f} s", f"{kept.MOST_BYTES // 2**30} GiB, of one client {kept.MOST_EACH}",
    ):  # fmt: skip
        assert f"| {words}" in SERVING
    assert (running.LAST, running.GRACE, kept.SECONDS) == (14, 10, 3600)
    assert "After fourteen seconds" in SERVING
    assert "has ten seconds" in SERVING
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0]) > running.LAST


def test_the_tokens_in_the_text_are_a_file(tmp_path):
    (example,) = re.findall(r"```toml\n  (.+?)```", SERVING, re.DOTALL)
    path = tmp_path / "tokens.toml"
    path.write_text(textwrap.dedent(f"  {example}"))
    path.chmod(0o600)
    found = tokens.read_owners(path, pytest.fail)
    assert [(owner.name, owner.questions_per_hour) for owner in found] == [("ana", 200), ("monday-group", None)]


def test_ray_is_started_with_options_that_it_has():
    (line,) = re.findall(r"^serve run vila_lab\.serve\.ray_app:build (.+)$", SERVING, re.MULTILINE)
    assert {word.partition("=")[0] for word in line.split()} <= set(ray_app.OPTIONS)
    assert f"{ray_app.HEADER_KEY}=authorization" in SERVING


def test_the_container_installs_what_the_tests_ran_with():
    """And everything that the build copies is there."""
    root = DOCS.parent
    make = (root / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^TORCH := (\S+)", make, re.MULTILINE) == re.findall(
        r"^ARG TORCH=(\S+)", CONTAINER, re.MULTILINE
    )
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", CONTAINER, re.MULTILINE) for word in line.split()]
    assert "vila_lab" in copied
    assert all((root / name).exists() for name in copied)
    assert re.search(r"^USER [1-9]", CONTAINER, re.MULTILINE)
    assert "/readyz" in CONTAINER
