"""The site as it is built: no warning, no broken link, every public name, and pages that need no network and any screen."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import vila_lab
from benchmarks import attribution, peers, verdict
from vila_lab.attribution.registry import NAMES

ROOT = Path(__file__).parents[2]
BUILD = ["-m", "sphinx", "-W", "-n", "-E", "-q", "--keep-going", str(ROOT / "docs")]
SHOWN = ("index", "methods", "reference/answers", "guides/your-pictures", "notebooks/01_first_look")
# Every rule of WCAG 2.1 A and AA; axe itself may not fetch style sheets.
AXE = """async () => (await axe.run(document, { preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] }))
  .violations.map(({ id, impact, nodes }) => [id, impact, nodes.length, nodes[0].html.slice(0, 300), nodes[0].failureSummary])"""


@dataclass
class Page(HTMLParser):
    """What a page can be pointed at, points at, and loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and "href" in found and found.get("rel") != "canonical":
            self.loaded.append(found["href"])
        elif "src" in found:
            self.loaded.append(found["src"])


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site's folder, and what was said while it was made."""
    pytest.importorskip("myst_nb", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    quiet = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *BUILD, str(folder)], cwd=ROOT, env=quiet, capture_output=True, text=True)
    return folder, done.stdout + done.stderr + f"exit {done.returncode}"


@pytest.fixture(scope="module")
def site(built: tuple[Path, str]) -> Path:
    return built[0]


@pytest.fixture(scope="module")
def entries(site: Path) -> set[str]:
    """Every name that the reference has an entry for."""
    head = 4  # lines before the compressed ones
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", head)
    lines = zlib.decompress(packed).decode().splitlines()
    return {name for name, kind, *_ in (line.split() for line in lines) if kind.startswith("py:")}


def test_it_is_built_without_a_warning(built: tuple[Path, str]) -> None:
    assert built[1] == "exit 0"


def test_every_link_and_anchor_within_the_site_holds(site: Path) -> None:
    pages = {path: read(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            there = urlsplit(link)
            if there.scheme:
                continue
            target = (path.parent / unquote(there.path)).resolve() if there.path else path
            known = pages[target].ids if target in pages else set()
            if not target.is_file() or (there.fragment and unquote(there.fragment) not in known):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 30
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = {(path.name, each) for path in site.rglob("*.html") for each in read(path).loaded}
    assert len(loaded) > 30
    assert [each for each in loaded if urlsplit(each[1]).scheme not in ("", "data")] == []


def public_names() -> Iterator[str]:
    for name in vila_lab.__all__:
        yield f"vila_lab.{name}"
        it: Any = getattr(vila_lab, name)
        as_parameters = set(
            re.findall(r"^(\w+) :", (inspect.getdoc(it) or "").partition("Parameters")[2], flags=re.MULTILINE)
        )
        for base in it.__mro__ if isinstance(it, type) else ():
            if base.__module__.startswith("vila_lab"):
                yield from (
                    f"vila_lab.{name}.{member}" for member in set(vars(base)) - as_parameters if member[0] != "_"
                )


def test_every_public_name_has_an_entry(entries: set[str]) -> None:
    names = set(public_names())
    assert {"vila_lab.Answer.attribute", "vila_lab.Answer.ledger", "vila_lab.Token.logprob"} <= names | entries
    assert len(names) > 100
    assert sorted(names - entries) == []


def test_what_public_functions_give_has_an_entry(entries: set[str]) -> None:
    """Whatever class of ours stands behind an arrow of an entry has an entry; the engine room is for who works on it."""
    engine_room = {"Record", "Request", "Replay", "Inputs", "Answering", "RemoteAnswering", "Family", "Spec", "Shape"}
    engine_room |= {"Outcome", "UnderWay"}
    lines = (ROOT / "docs" / "api.txt").read_text(encoding="utf-8").splitlines()
    classes = dict(re.findall(r"^class ([\w.]+)\(([^)]*)\)", "\n".join(lines), flags=re.MULTILINE))
    shown = {name for name in classes if name in entries}
    bases = {each for name in shown for each in classes[name].split(", ")} | {
        "Asking",
        "Interventions",
    }  # Session's too
    homes = {name.rpartition(".")[2]: name for name in classes}
    given = set()
    for line in lines:
        name, _, returned = line.partition(" -> ")
        name = name.partition("(")[0]
        owner = name.rpartition(".")[0]
        if name in entries or owner in shown or owner.rpartition(".")[2] in bases:
            given |= {word for word in re.findall(r"\w+", returned) if word in homes}
    assert {"Evidence", "Attribution", "Stream", "Handle"} <= given
    assert sorted(each for each in given - engine_room if homes[each] not in shown) == []


def test_every_method_is_told_and_every_measurement_shown(site: Path) -> None:
    text = (site / "methods.html").read_text(encoding="utf-8")
    ids = read(site / "methods.html").ids
    assert [name for name in NAMES if name.replace("_", "-") not in ids] == []
    for benchmark, rows in ((attribution, "methods"), (verdict, "kinds")):
        measured = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))[rows]
        assert [label for label in measured if f"<p>{label}</p>" not in text] == []


def test_every_tool_beside_this_one_is_a_row(site: Path) -> None:
    text = (site / "peers.html").read_text(encoding="utf-8")
    report = json.loads(peers.RESULTS.read_text(encoding="utf-8"))
    names = [
        name
        for part in ("attention", "attribution", "pages")
        for found in report[part].values()
        for name in found["rows"]
    ]
    assert len(names) > 40
    assert [name for name in names if f"<p>{name.replace(chr(39), '’')}" not in text] == []


@pytest.fixture
def open_page(browser: Any, site: Path) -> Iterator[Any]:
    """Opener of a page from its file, without a network; fails the test on any request, console message or error."""
    heard: list[str] = []
    contexts = []

    def opener(name: str, *, width: int = 1200, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        contexts.append(context)
        sheet = context.new_page()
        sheet.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
        sheet.on("console", lambda message: heard.append(f"{name}: {message.text}"))
        sheet.on("pageerror", lambda error: heard.append(f"{name}: {error}"))
        sheet.goto((site / f"{name}.html").as_uri())
        return sheet

    yield opener
    for context in contexts:
        context.close()
    assert heard == []


@pytest.mark.browser
def test_every_page_is_readable_on_a_telephone(open_page: Any, site: Path) -> None:
    """No page is wider than the screen, and none asks for anything or complains."""
    sheet, wide = open_page("index", width=375), []
    for path in sorted(site.rglob("*.html")):
        sheet.goto(path.as_uri())
        if sheet.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(str(path.relative_to(site)))
    assert wide == []


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "notebooks/01_first_look"])
def test_answers_are_alive(open_page: Any, name: str) -> None:
    sheet = open_page(name)
    chip = sheet.locator(".vila-view .chip").first
    chip.click()
    assert chip.get_attribute("aria-selected") == "true"
    assert sheet.locator(".vila-view .pictures").first.is_visible()


@pytest.mark.browser
def test_the_first_answer_has_the_causal_check_beside_it(open_page: Any) -> None:
    sheet = open_page("index")
    sheet.get_by_label("Method").select_option("leave_one_out")
    assert "leave_one_out" in sheet.locator(".vila-view footer").inner_text()


@pytest.mark.browser
def test_an_answer_follows_the_sites_own_switch(open_page: Any) -> None:
    sheet = open_page("index")
    sheet.locator(".vila-view .view").wait_for()
    ground = "getComputedStyle(document.querySelector('.vila-view').shadowRoot.querySelector('.view')).backgroundColor"
    assert sheet.evaluate(ground) == sheet.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sheet.evaluate(ground)
    sheet.evaluate("document.body.dataset.theme = 'dark'")
    assert sheet.evaluate(ground) == sheet.evaluate("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SHOWN)
def test_pages_are_accessible(open_page: Any, axe: str, name: str, scheme: str) -> None:
    sheet = open_page(name, scheme=scheme)
    sheet.evaluate(axe)
    assert sheet.evaluate(AXE) == []
