"""The viewer in a real JupyterLab: a notebook runs, its output answers pointer and keys, the widget tells Python.

Screenshots land in tests/view/screenshots.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SHOTS = Path(__file__).parent / "screenshots"
FIRST = ROOT / "notebooks" / "01_first_look.ipynb"
SCRATCH = [
    "import vila_lab\nfolder = vila_lab.demo_images()\n"
    "answer = vila_lab.load().ask([folder / 'g.png', folder / 'm.png', 'What is in image 2?'])\n"
    "widget = answer.explore(); widget",
    "print('token', widget.selected_token, 'layer', widget.layer, 'head', widget.head, 'region', widget.selected_region)",
]


IDLE = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(cells: list[str]) -> str:
    made = [
        {"cell_type": "code", "id": f"c{k}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for k, source in enumerate(cells)
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": KERNEL, "cells": made})


def without_outputs(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["metadata"] |= KERNEL  # or the lab asks which one
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(content)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab of its own."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--ServerApp.root_dir={work}",
    ]
    command += [
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.expose_app_in_browser=True",
    ]
    command += ["--LabApp.news_url=", f"--LabApp.workspaces_dir={home / 'spaces'}"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | own | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
        )
        try:
            wait_for(address + "/api")
            yield address, work
        finally:
            server.terminate()
            server.wait(20)


def wait_for(address: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


@pytest.fixture
def in_lab(browser, lab):
    """Opener of a notebook's text in the lab, run or as it is; fails the test on an error in the page's own script."""
    address, work = lab
    contexts, errors = [], []

    def opener(text, name, *, run=True, width=1400):
        (work / name).write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 1000})
        contexts.append(context)
        sheet = context.new_page()
        sheet.on("pageerror", lambda error: errors.append(str(error)))
        sheet.goto(f"{address}/lab/tree/{name}?reset")
        sheet.wait_for_selector(".jp-Notebook")
        sheet.wait_for_function(IDLE, timeout=90_000)  # run before that, the lab asks which kernel to take
        if run:
            sheet.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
        return sheet

    yield opener
    for context in contexts:
        context.close()
    assert [error for error in errors if "ResizeObserver" not in error] == []


def shoot(sheet, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    sheet.screenshot(path=SHOTS / f"{name}.png")


def test_the_first_notebook_runs_and_its_viewer_lives(in_lab, lab):
    sheet = in_lab(without_outputs(FIRST), "first.ipynb")
    view = sheet.locator(".vila-view[data-alive]").first
    view.wait_for(timeout=120_000, state="attached")
    chip = view.locator(".chip").first
    chip.scroll_into_view_if_needed()
    before = view.locator("figcaption b").first.inner_text()
    chip.hover()
    assert "Token 1 of" in view.locator(".read-head b").inner_text()
    assert view.locator("figcaption b").first.inner_text() != before
    chip.click()
    sheet.keyboard.press("ArrowRight")
    assert "Token 2 of" in view.locator(".read-head b").inner_text()
    sheet.keyboard.press("Enter")
    assert view.locator(".chip.pinned").count() == 2
    view.get_by_label("Layer", exact=True).fill("2")
    view.locator("footer", has_text="layer 1 ").wait_for()
    shoot(sheet, "lab_first_light")
    sheet.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    sheet.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    sheet.wait_for_timeout(500)
    shoot(sheet, "lab_first_dark")
    sheet.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    sheet.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    sheet.wait_for_timeout(1500)
    saved = (lab[1] / "first.ipynb").read_text(encoding="utf-8")
    assert "data-alive" in saved
    assert "application/vnd.jupyter.widget-view+json" not in saved
    sheet.close()

    again = in_lab(saved, "again.ipynb", run=False)  # trusted, as its signature is known; the kernel is a new one
    revived = again.locator(".vila-view[data-alive]").first
    revived.wait_for(timeout=60_000, state="attached")
    revived.locator(".chip").first.hover()
    assert "Token 1 of" in revived.locator(".read-head b").inner_text()
    shoot(again, "lab_reopened")
    again.close()

    strange = saved.replace("First look", "Last look", 1)  # not trusted: scripts are stripped, the picture stays
    assert strange != saved
    sheet = in_lab(strange, "strange.ipynb", run=False)
    picture = sheet.locator("img[alt*='图像']").first
    picture.wait_for(timeout=30_000, state="attached")
    picture.scroll_into_view_if_needed()
    assert picture.bounding_box()["height"] > 100
    assert sheet.locator(".chip").count() == 0
    shoot(sheet, "lab_untrusted")


def test_the_widget_tells_python_what_was_chosen(in_lab):
    sheet = in_lab(notebook(SCRATCH[:1]), "scratch.ipynb")
    view = sheet.locator(".jp-OutputArea-output .view")
    view.wait_for(timeout=120_000)
    view.locator(".chip").first.click()
    view.get_by_label("Heads").select_option("head 2")
    view.locator("footer", has_text="head 2 only").wait_for(timeout=20_000)
    view.get_by_label("Layer", exact=True).fill("4")
    view.locator("footer", has_text="layer 3 of 0 to 5").wait_for(timeout=20_000)
    stack = view.locator(".stack").first
    stack.focus()
    sheet.keyboard.press("Enter")
    shoot(sheet, "lab_explore")
    sheet.evaluate("() => jupyterapp.commands.execute('notebook:insert-cell-below')")
    cell = sheet.locator(".jp-CodeCell").last
    cell.locator(".cm-content").fill(SCRATCH[1])
    sheet.evaluate("() => { jupyterapp.commands.execute('notebook:run-cell'); }")
    said = sheet.locator(".jp-OutputArea-output", has_text="token 0 layer 3 head 2 region [0, 0")
    said.wait_for(timeout=20_000)
    cell.locator(".cm-content").fill("widget.selected_token = 1; widget.head = None; widget.layer = 0")
    sheet.evaluate("() => { jupyterapp.commands.execute('notebook:run-cell'); }")
    view.locator("footer", has_text="layer 0 of 0 to 5, mean over its heads").wait_for(timeout=20_000)
    assert "Token 2 of" in view.locator(".read-head b").inner_text()


SLOW = (
    "import time\nfrom vila_lab.families.base import Family\nfamily = vila_lab.load().family\nplain = family.decode_copies\n"
    "family.decode_copies = lambda *given, **options: (time.sleep(0.4), plain(*given, **options))[1]"
)


def test_a_method_is_computed_from_the_picker_with_progress_and_can_be_cancelled(in_lab):
    sheet = in_lab(
        notebook([SCRATCH[0].rpartition("\n")[0] + "\n" + SLOW, SCRATCH[0].rpartition("\n")[2]]), "compute.ipynb"
    )
    view = sheet.locator(".jp-OutputArea-output .view")
    view.wait_for(timeout=120_000)
    picker = view.get_by_label("Method")
    assert "occlusion (compute)" in picker.locator("option").all_inner_texts()
    picker.select_option("occlusion")
    news = view.locator("output", has_text="Computing occlusion … ")
    news.get_by_text(re.compile(r"\d+ of \d+ ")).wait_for(timeout=30_000)
    shoot(sheet, "lab_computing")
    view.get_by_role("button", name="Cancel").click()
    view.locator("output", has_text="Computing").wait_for(state="detached", timeout=5_000)
    assert picker.input_value() == "attention"
    picker.select_option("leave_one_out")
    view.locator("footer", has_text="leave_one_out, log-probability").wait_for(timeout=60_000)
    assert "leave_one_out" in picker.locator("option").all_inner_texts()
    shoot(sheet, "lab_computed")
    sheet.evaluate("() => jupyterapp.commands.execute('notebook:insert-cell-below')")
    cell = sheet.locator(".jp-CodeCell").last
    cell.locator(".cm-content").fill("print([found.method for found in answer.attributions])")
    sheet.evaluate("() => { jupyterapp.commands.execute('notebook:run-cell'); }")
    sheet.locator(".jp-OutputArea-output", has_text="['leave_one_out']").wait_for(timeout=20_000)


def test_the_widget_lives_again_after_a_reload_and_stays_a_view_without_its_kernel(in_lab, lab):
    sheet = in_lab(notebook(SCRATCH[:1]), "explored.ipynb")
    view = sheet.locator(".jp-OutputArea-output .view")
    view.wait_for(timeout=120_000)
    view.get_by_label("Heads").select_option("head 2")
    view.locator("footer", has_text="head 2 only").wait_for(timeout=20_000)
    sheet.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    sheet.wait_for_timeout(1500)
    saved = (lab[1] / "explored.ipynb").read_text(encoding="utf-8")
    assert "widget-view+json" not in saved
    assert "image/png" in saved
    sheet.reload()
    sheet.wait_for_selector(".jp-Notebook")
    view.locator("footer", has_text="head 2 only").wait_for(timeout=60_000)  # what the model knows, not what was saved
    sheet.close()

    again = in_lab(saved, "explored_again.ipynb", run=False)
    revived = again.locator(".jp-OutputArea-output .view")
    revived.wait_for(timeout=60_000)
    revived.locator(".chip").first.click()
    assert "Token 1 of" in revived.locator(".read-head b").inner_text()
    revived.get_by_label("Layer", exact=True).fill("2")
    revived.locator("footer", has_text="layer 1 of 0 to 5").wait_for(timeout=10_000)
    assert again.get_by_text("Error displaying widget").count() == 0
    shoot(again, "lab_explore_reopened")
    again.close()

    strange = saved.replace('"id": "c0"', '"id": "c1"', 1)  # not trusted: scripts are stripped, the picture stays
    assert strange != saved
    sheet = in_lab(strange, "explored_strange.ipynb", run=False)
    picture = sheet.locator(".jp-OutputArea-output img")
    picture.wait_for(timeout=30_000)
    assert picture.bounding_box()["height"] > 100
    shoot(sheet, "lab_explore_untrusted")


def test_a_stream_grows_in_its_cell_and_becomes_the_viewer(in_lab, lab):
    """Slowed down by a hook, so that the page sees it between two tokens."""
    cells = [
        "import time\nimport vila_lab\nfolder, lab = vila_lab.demo_images(), vila_lab.load()\n"
        "slow = lab.on_hidden(lambda event: time.sleep(1.5), layers=5)\n"
        "lab.stream([folder / 'g.png', folder / 'm.png', 'What is in image 2?'])",
    ]
    sheet = in_lab(notebook(cells), "stream.ipynb")
    sheet.locator(".jp-OutputArea-output", has_text="Microsoft▌").wait_for(timeout=120_000)
    shoot(sheet, "lab_stream_growing")
    view = sheet.locator(".vila-view[data-alive]")
    view.wait_for(timeout=60_000, state="attached")
    assert sheet.locator(".jp-OutputArea-output").count() == 1
    view.locator(".chip").first.hover()
    assert "Token 1 of" in view.locator(".read-head b").inner_text()
    shoot(sheet, "lab_stream")


def test_a_chat_shows_every_answer_alive_and_grows_with_the_next(in_lab, lab):
    cells = [
        "import vila_lab\nfolder, chat = vila_lab.demo_images(), vila_lab.load().chat()\n"
        "answer = chat.ask([folder / 'g.png', folder / 'm.png', 'What is in image 1?'])\n"
        "answer = chat.ask('What is in image 2?')\n"
        "chat",
        "chat.ask('What is in image 1?').text",
    ]
    sheet = in_lab(notebook(cells), "chat.ipynb")
    views = sheet.locator(".vila-view[data-alive]")
    views.nth(1).wait_for(timeout=120_000, state="attached")
    assert views.count() == 2
    assert sheet.locator(".jp-OutputArea-output h4").all_inner_texts()[-1].startswith("2. What is in image 2?")
    views.nth(1).locator(".chip").first.hover()
    assert "Token 1 of" in views.nth(1).locator(".read-head b").inner_text()
    assert "Token" not in views.nth(0).locator(".read-head b").inner_text()
    shoot(sheet, "lab_chat")
    sheet.locator(".jp-OutputArea-output", has_text="'Google.'").wait_for(timeout=60_000)


def test_progress_is_seen_while_it_lasts_and_leaves_no_room(in_lab):
    slow = (
        "import os, time\nos.environ.pop('TQDM_DISABLE', None)\nfrom vila_lab.progress import progress\n"
        "with progress(9, 'variants') as count:\n    count.update(4)\n    time.sleep(6)\nprint('at its end')"
    )
    sheet = in_lab(notebook([slow, "print('below')"]), "progress.ipynb")
    outputs = sheet.locator(".jp-OutputArea-output")
    sheet.locator(".jp-OutputArea-output", has_text="4/9").wait_for(timeout=60_000)
    shoot(sheet, "lab_progress")
    outputs.filter(has_text="at its end").wait_for(timeout=60_000)
    outputs.filter(has_text="below").wait_for(timeout=60_000)
    shoot(sheet, "lab_progress_done")
    assert outputs.filter(has_text="4/9").count() == 0
    assert sheet.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    area, end = (
        sheet.locator(".jp-OutputArea").first.bounding_box(),
        outputs.filter(has_text="at its end").bounding_box(),
    )
    assert area["height"] - end["height"] < 8, "what is left of it takes room"
