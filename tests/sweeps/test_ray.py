"""Workers of Ray, for real: the answers of the loop, once each, whoever is killed. Skipped, with the reason, where Ray cannot start."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vila_lab
from vila_lab import Session
from vila_lab.errors import OptionError, RayError

pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]

Questions = Callable[[int], list[dict[str, Any]]]
MARK = "VILA_LAB_TEST_OF_RAY"
DRIVER = """
import sys
import vila_lab
from vila_lab.errors import RayError

try:
    vila_lab.sweep(sys.argv[1], sys.argv[2], methods=sys.argv[3], batch_size=2, engine="ray", workers=2)
except RayError as error:
    print(error)
    sys.exit(75)
"""
NOT_STARTED = 75
PATIENCE = 240.0


class Driver:
    """A process that sweeps with two workers of Ray, and its processes, told by a mark in their environment."""

    def __init__(self, table: Path, out: Path, methods: str) -> None:
        self.mark = secrets.token_hex(8)
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(table), str(out), methods],
            env=os.environ | {"TQDM_DISABLE": "1", MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self, name: bytes = b"") -> list[int]:
        """Its processes that live, by what their command begins with."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                command, told = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue
            if (
                folder.name.isdigit()
                and f"{MARK}={self.mark}".encode() in told
                and command.startswith(name)
                and command
            ):
                found.append(int(folder.name))
        return found

    def wait_for_parts(self, count: int) -> bool:
        """Whether so many parts are there, before it ends."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            if len(list(self.out.glob("part-*.parquet"))) >= count:
                return True
            time.sleep(0.01)
        return False

    def end(self) -> tuple[int, str, str]:
        """Its status, and what it printed."""
        said, told = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said, told


@pytest.fixture
def driver(questions: Questions, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts one on so many questions; where Ray does not start once more, and then the test is skipped."""
    started: list[Driver] = []

    def start(count: int, methods: str = "ledger") -> Driver:
        table = tmp_path / "questions.jsonl"
        table.write_text("\n".join(map(json.dumps, questions(count))))
        for _ in range(2):
            found = Driver(table, tmp_path / "out", methods)
            started.append(found)
            if found.wait_for_parts(1) or found.process.poll() == 0:
                return found
            found.process.kill()
            status, said, told = found.end()
            if status not in (NOT_STARTED, -signal.SIGKILL):
                pytest.fail(f"the driver ended with {status}: {said}{told}")
        pytest.skip(f"Ray does not start on this machine: {said.strip() or 'it took longer than four minutes'}")

    yield start
    for each in started:
        for pid in each.pids():
            os.kill(pid, signal.SIGKILL)
        each.process.kill()
        each.process.communicate()


def is_whole(out: Path, count: int) -> None:
    """Every question once, with its right answer."""
    frame = vila_lab.open_sweep(out).frame()
    assert sorted(frame["id"]) == sorted(f"q{k}" for k in range(count))
    assert frame["key"].is_unique
    assert frame["error"].isna().all()
    assert frame["right"].all()


def test_workers_that_are_killed_in_a_batch_are_started_again(driver: Callable[..., Driver]) -> None:
    """Three times, at moments of a seed."""
    draw = random.Random(0)
    running = driver(20, "ledger,evidence")
    killed = 0
    for wanted in (1, 3, 5):
        if not running.wait_for_parts(wanted):
            break
        time.sleep(draw.random())
        workers = running.pids(b"ray::Remote")
        if workers:
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed += 1
    status, said, told = running.end()  # Ray says what died
    assert status == 0, said + told
    assert killed == 3
    assert running.pids() == []
    is_whole(running.out, 20)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_driver_leaves_whole_parts_and_no_process(
    driver: Callable[..., Driver], lab: Session, seed: int
) -> None:
    running = driver(24)
    running.wait_for_parts(random.Random(seed).randint(1, 4))
    running.process.kill()
    running.process.communicate()
    # Ray's own agents learn of it after a minute, which is waited for once.
    name = b"" if seed == 0 else b"ray::Remote"
    end = time.monotonic() + PATIENCE
    while running.pids(name) and time.monotonic() < end:
        time.sleep(0.1)
    assert running.pids(name) == []
    table = running.out.parent / "questions.jsonl"
    vila_lab.sweep(table, running.out, lab=lab, methods="ledger", batch_size=2)
    is_whole(running.out, 24)


def test_a_session_and_ray_do_not_go_together(questions: Questions, lab: Session, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="workers of Ray"):
        vila_lab.sweep(questions(1), tmp_path, lab=lab, engine="ray")


def test_a_cluster_that_is_not_there_is_one_sentence_at_once(questions: Questions, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RayError, match=f"cannot be reached at '{address}' .*does it run there"):
            vila_lab.sweep(questions(1), tmp_path, engine="ray", ray_address=address)


def test_more_gpus_than_there_are_is_one_sentence_and_leaves_nothing(questions: Questions, tmp_path: Path) -> None:
    table = tmp_path / "questions.jsonl"
    table.write_text("\n".join(map(json.dumps, questions(1))))
    asked = [sys.executable, "-m", "vila_lab.cli", "sweep", str(table), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*asked, "--engine", "ray", "--gpus", "99"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if "cannot be started" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 2
    assert "wants 99 GPUs, and Ray finds" in done.stderr
    assert not list((tmp_path / "out").glob("part-*"))
