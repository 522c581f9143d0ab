"""Progress: after a second, one line, of the innermost that counts; gone when the work is done, however it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager

import nbformat
import pytest
from nbclient import NotebookClient
from tqdm.utils import disp_len
from transformers.utils import logging

import vila_lab
from tests.conftest import GOLDENS
from vila_lab import progress
from vila_lab.upstream import loading_heard


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Bars show, also where the tests themselves are run without them."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


class Shown:
    """Takes the place of a terminal, and keeps what it was told."""

    def __init__(self):
        self.lines = []

    def show(self, line):
        self.lines.append(line)

    def clear(self):
        self.lines.append("")


@pytest.fixture
def screen(monkeypatch):
    screen = Shown()
    monkeypatch.setattr(progress, "place", lambda: screen)
    return screen


@pytest.mark.parametrize(("seconds", "is_shown"), [(0.9, False), (1.1, True)])
def test_long_is_one_second(monkeypatch, screen, seconds, is_shown):
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with progress.progress(2, "variants") as count:
        now[0] += seconds
        count.update()
    assert any("1/2" in line for line in screen.lines) == is_shown


def test_it_is_shown_while_nothing_is_counted(screen):
    """Which is what loading a model, or one long forward, looks like; this one waits its second."""
    started = time.monotonic()
    with progress.progress(None, "", "loading a model"):
        wait_for(lambda: screen.lines)
        assert time.monotonic() - started >= progress.PATIENCE
    assert screen.lines[0] == "loading a model: 1 s"
    assert screen.lines[-1] == ""


def test_what_is_counted_inside_is_shown_in_the_same_line(screen, at_once):
    with progress.progress(None, "", "evidence"):
        with progress.progress(4, "variants") as count:
            count.update(2)
        with progress.progress(3, "steps") as count:
            count.update(1)
    assert any("2/4" in line for line in screen.lines)
    assert any("1/3" in line for line in screen.lines)
    assert screen.lines.count("") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_goes_when_the_work_is_cut_off(screen, at_once, error):
    threads = threading.active_count()

    def work():
        with progress.progress(2, "variants") as count:
            count.update()
            wait_for(lambda: screen.lines)
            raise error

    with pytest.raises(error):
        work()
    assert screen.lines[-1] == ""
    wait_for(lambda: threading.active_count() == threads)
    with progress.progress(2, "others"):
        pass
    assert any("others" in line for line in screen.lines)


@contextmanager
def terminal(monkeypatch):
    """Inside, stderr is a terminal of 40 columns; behind, what was written to it."""
    keyboard, screen = os.openpty()
    termios.tcsetwinsize(screen, (24, 40))
    os.set_blocking(keyboard, False)
    with os.fdopen(screen, "w", encoding="utf-8") as stderr, os.fdopen(keyboard, "rb") as read:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stderr)
            yield (written := [])
        written.append(read.read(65536).decode())


@pytest.mark.parametrize(
    "doing", ["", "loading a-model-with-a-name-that-is-longer-than-the-line", "读取一个名字比一行还要长得多的模型" * 2]
)
def test_a_terminal_is_left_as_it_was(monkeypatch, at_once, doing):
    """Every line stays in its row, and the last one is blank."""
    with terminal(monkeypatch) as written, progress.progress(None if doing else 2, "variants", doing) as count:
        count.update(0 if doing else 1)
    (said,) = written
    assert doing[:10] in said
    lines = said.split("\r")
    assert "".join(lines[1:-2]).strip()
    assert (lines[-2].strip(), lines[-1]) == ("", "")
    assert "\n" not in said
    assert max(map(disp_len, lines)) < 40


def test_a_log_is_told_once(capsys, at_once):
    """Of whatever counts inside, too, and nothing that only a terminal understands."""
    with progress.progress(None, "", "evidence"):
        for _ in range(3):
            with progress.progress(4, "variants") as count:
                count.update(4)
    assert re.fullmatch(r"100%.*4/4.*\n", capsys.readouterr().err)


def test_a_log_is_told_nothing_of_what_is_quick(capsys):
    with progress.progress(2, "variants") as count:
        count.update(2)
    assert capsys.readouterr() == ("", "")


def test_a_script_ends_without_a_leftover():
    """In a terminal nothing is seen of it at the end; in a pipe one line, whole."""
    code = "import time\nfrom vila_lab.progress import progress\nwith progress(None, '', 'drawing'):\n    time.sleep(1.5)\nprint('done')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (piped.stderr, piped.stdout) == ("drawing: 1 s\n", "done\n")
    keyboard, screen = os.openpty()
    os.set_blocking(keyboard, False)
    with os.fdopen(screen), os.fdopen(keyboard, "rb") as read:
        subprocess.run([sys.executable, "-c", code], stdout=screen, stderr=screen, check=True)
        said = read.read(65536).decode()
    assert re.fullmatch(r"(\rdrawing: [12] s *)+\r *\rdone\r\n", said)


def test_it_is_kept_away(capsys, at_once, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with progress.progress(2, "variants") as count:
        count.update()
    assert capsys.readouterr() == ("", "")


def test_bars_of_transformers_and_the_hub_are_heard_and_not_shown(capsys, screen, at_once):
    with progress.progress(None, "tensors", "loading") as count, loading_heard(count.listener()):
        with logging.tqdm(range(7), desc="Loading weights") as theirs:
            assert list(theirs) == list(range(7))
        assert "7/7" in count.line()
        with count.listener()(total=2000, unit="B", unit_scale=True, name="hub") as theirs:
            theirs.update(1000)
            assert "1.00k/2.00k" in count.line()
        with count.listener()(total=3, desc="Fetching 3 files") as theirs:
            theirs.update()
            assert "1.00k/2.00k" in count.line()
    assert capsys.readouterr() == ("", "")
    assert screen.lines
    other = logging.set_tqdm_hook(None)
    assert other is None


@pytest.mark.parametrize("work", ["load", "ask", "evidence", "display", "to_html", "save", "open"])
def test_whatever_can_take_long_shows_itself(lab, demo, screen, at_once, tmp_path, work):
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])
    saved = answer.save(tmp_path / "a.vila")
    screen.lines.clear()
    {
        "load": lambda: vila_lab.load(GOLDENS / "checkpoints" / "nvila-resize", dtype="bfloat16"),
        "ask": lambda: lab.ask([demo / "g.png", "What is in image 1?"]),
        "evidence": answer.evidence,
        "display": answer.display,
        "to_html": lambda: answer.to_html(tmp_path / "a.html"),
        "save": lambda: answer.save(tmp_path / "b.vila"),
        "open": lambda: vila_lab.open(saved),
    }[work]()
    assert screen.lines
    assert screen.lines.count("") == 1


def test_in_a_notebook_it_leaves_nothing_that_is_seen():
    """No stderr, no widget: an output that has become empty, which a page gives no room."""
    code = (
        "import time\nfrom vila_lab.progress import progress\n"
        "with progress(3, 'variants') as count:\n    time.sleep(1.6)\n    count.update()\nprint('done')"
    )
    seen = []
    client = NotebookClient(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]),
        timeout=120,
        kernel_name="python3",
        on_cell_executed=lambda **_: None,
    )
    process = client.process_message

    def watched(message, *arguments):
        seen.append((message["msg_type"], message["content"].get("data")))
        return process(message, *arguments)

    client.process_message = watched
    client.execute()
    outputs = client.nb.cells[0].outputs
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert [output.data for output in outputs if output.output_type == "display_data"] == [{}]
    assert outputs[-1].text == "done\n"
    assert "widgets" not in client.nb.metadata
    lines = [data["text/plain"] for kind, data in seen if kind in ("display_data", "update_display_data") and data]
    assert any("0/3" in line for line in lines)
