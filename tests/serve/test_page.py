"""The service's page in a real chromium, end to end: what is asked there is answered as in the kernel, and nobody else is asked."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import vila_lab
from vila_lab.serve.page import FOLDER, POLICY

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-the-tests"
QUESTION = "What is in image 2?"
MANY = "What is in each image?"
SHOTS = Path(__file__).parent / "screenshots"
REFUSED = "Failed to load resource"  # what chromium's console says of a request that was refused, as some here are meant to be
RUN = """async () => (await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
  .violations.map(({ id, impact, nodes }) => [id, impact, nodes.slice(0, 3).map(({ html, failureSummary }) => [html.slice(0, 300), failureSummary])])"""


@pytest.fixture(scope="module")
def served(another_server: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    with another_server() as found:
        yield found


@pytest.fixture
def address(served: tuple[str, Any]) -> str:
    return served[0]


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opener of the page; fails the test on any request to somebody else, and on any error that a script made."""
    heard: list[str] = []
    contexts: list[Any] = []

    def opener(path: str = f"/#token={TOKEN}", *, width: int = 1280, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        contexts.append(context)
        context.on("request", lambda request: heard.append(request.url) if _is_foreign(request.url, address) else None)
        context.on("console", lambda message: heard.append(message.text) if _is_news(message) else None)
        context.on("weberror", lambda error: heard.append(str(error.error)))
        sheet = context.new_page()
        sheet.set_default_timeout(15_000)
        sheet.goto(address + path)
        if "token=" in path:
            sheet.wait_for_selector("#ask-room", state="visible")
        return sheet

    yield opener
    for context in contexts:
        context.close()
    assert heard == []


def _is_foreign(url: str, address: str) -> bool:
    return not url.startswith((f"{address}/", "data:", "blob:"))


def _is_news(message: Any) -> bool:
    return REFUSED not in message.text and "willReadFrequently" not in message.text


def until(sheet: Any, condition: str) -> None:
    """Wait for it; the page's policy forbids the browser's own way, which makes code of words."""
    for _ in range(300):
        if sheet.evaluate(condition):
            return
        time.sleep(0.05)
    raise AssertionError(condition)


def choose(sheet: Any, *paths: Path) -> None:
    before = sheet.locator("#tray .card").count()
    sheet.locator("input[type=file]").set_input_files(list(paths))
    until(sheet, f"document.querySelectorAll('#tray .card').length === {before + len(paths)}")


def ask(sheet: Any, question: str) -> Any:
    """Ask, and wait for all of the answer's part of the page."""
    number = sheet.locator(".turn").count() + 1
    sheet.get_by_label("Question", exact=True).fill(question)
    sheet.get_by_role("button", name="Ask", exact=True).click()
    turn = sheet.locator(f".turn:nth-child({number})")
    turn.locator(".closer").wait_for()
    return turn


def compared(turn: Any) -> Any:
    """The comparison asked for last, once it is there."""
    result = turn.locator(".result").first
    result.locator(".said:not([aria-busy])").wait_for()
    return result


def trouble(sheet: Any, words: str = "") -> str:
    """What the page says that went wrong."""
    until(
        sheet,
        f"document.querySelector('#error').textContent.includes('{words}') && !document.querySelector('#trouble').hidden",
    )
    return str(sheet.locator("#error").inner_text())


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[int]]:
    """Slows the model down so that it can be watched; returns how many steps it took."""

    def slow(seconds: float) -> list[int]:
        family, steps = vila_lab.load().family, [0]
        for name in ("decode", "decode_copies"):
            run = getattr(family, name)

            def later(*given: Any, run: Any = run, **named: Any) -> Any:
                steps[0] += 1
                time.sleep(seconds)
                return run(*given, **named)

            monkeypatch.setattr(family, name, later)
        return steps

    return slow


# -- what is loaded ------------------------------------------------------------------------------------------------------------


def test_the_page_loads_without_a_token_under_its_policy(address):
    with httpx.Client(base_url=address) as http:
        for path in (
            "/",
            "/docs",
            *(f"/page/{each.name}" for each in FOLDER.iterdir()),
            "/page/viewer.js",
            "/page/demo/g.png",
        ):
            found = http.get(path)
            assert (path, found.status_code) == (path, 200)
            assert found.headers["content-security-policy"] == POLICY
        assert http.get("/page/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
        for path in (
            "/page/app.py",
            "/page/..%2fapp.py",
            "/page/demo/..%2f..%2fapp.py",
            "/page/demo/boxes.json",
            "/page/",
        ):
            assert http.get(path).json()["error"]["code"] == 404
        for path in ("/v1/methods", "/v1/answers", "/page"):
            assert http.get(path).status_code == 401


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_modules_make_no_markup_of_words_and_name_no_other_server(path):
    source = path.read_text(encoding="utf-8")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "://",
        "localStorage",
        "cookie",
    ):
        assert word not in source
    assert set(re.findall(r'from "(.*?)"', source)) <= {f"/page/{each.name}" for each in FOLDER.iterdir()} | {
        "/page/viewer.js"
    }


# -- who sits here ---------------------------------------------------------------------------------------------------------------


def test_the_address_signs_in_and_forgets_the_token(open_page, address):
    sheet = open_page()
    assert sheet.url == f"{address}/"
    assert sheet.evaluate("[history.length, localStorage.length, document.cookie]")[1:] == [0, ""]
    sheet.reload()
    sheet.wait_for_selector("#ask-room", state="visible")
    assert not sheet.locator("#door").is_visible()
    sheet.get_by_role("button", name="Sign out").click()
    sheet.wait_for_selector("#door", state="visible")
    assert sheet.evaluate("sessionStorage.length") == 0


def test_the_field_signs_in_and_says_what_is_wrong(open_page):
    sheet = open_page("/")
    for wrong in ("a-token-of-nobody", "a token – not plain"):
        sheet.get_by_label("Token", exact=True).fill(wrong)
        sheet.keyboard.press("Enter")
        assert "does not know this token" in trouble(sheet)
        sheet.get_by_role("button", name="Dismiss").click()
    sheet.get_by_label("Token", exact=True).fill(TOKEN)
    sheet.get_by_role("button", name="Sign in").click()
    sheet.wait_for_selector("#ask-room", state="visible")
    assert sheet.locator("#trouble").is_hidden()
    assert sheet.evaluate("document.activeElement.id") == "question"


# -- a question --------------------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_kernels_and_its_words_can_be_hovered(open_page, lab, demo):
    sheet = open_page()
    choose(sheet, demo / "g.png", demo / "m.png")
    turn = ask(sheet, QUESTION)
    answer = lab.ask([demo / "g.png", demo / "m.png", QUESTION])
    assert turn.locator(".said").inner_text() == answer.text == "Microsoft."
    assert turn.locator("bdi").all_inner_texts() == ["Microsoft", "."]
    turn.locator(".chip").first.hover()
    share = 100 * answer.ledger().iloc[0]["image_2"]
    shown = turn.locator("figure").nth(1).locator("figcaption b").inner_text()
    assert float(shown.split()[0]) == pytest.approx(share, abs=0.06)
    turn.get_by_label("Heads").select_option("head 1")
    until(
        sheet,
        "document.querySelector('.vila-view').shadowRoot.querySelector('footer').innerText.includes('head 1 only')",
    )
    assert sheet.locator("[role=status]").first.inner_text() == "Answer: Microsoft."
    assert sheet.get_by_label("Question", exact=True).input_value() == ""


def test_pictures_are_asked_about_as_they_stand(open_page, demo, lab):
    """Moved by keys and by dragging, and taken away."""
    sheet = open_page()
    choose(sheet, demo / "g.png", demo / "m.png")
    choose(sheet, demo / "a.png")
    names = lambda: [each.get_attribute("alt") for each in sheet.locator("#tray img").all()]  # noqa: E731
    assert names() == ["g.png", "m.png", "a.png"]
    sheet.get_by_label("Move picture 1 to the back").focus()
    sheet.keyboard.press("Enter")
    sheet.keyboard.press("Enter")
    assert names() == ["m.png", "a.png", "g.png"]
    assert sheet.locator("[role=status]").first.inner_text() == "g.png is now picture 3 of 3."
    sheet.keyboard.press("Enter")  # no further, and the focus is still there
    assert sheet.evaluate("document.activeElement.getAttribute('aria-label')") == "Move picture 3 to the back"
    sheet.locator("#tray .card").nth(2).drag_to(sheet.locator("#tray .card").nth(0))
    assert names() == ["g.png", "m.png", "a.png"]
    sheet.get_by_label("Remove picture 2").click()
    assert names() == ["g.png", "a.png"]
    sheet.get_by_label("Move picture 2 to the front").click()
    turn = ask(sheet, QUESTION)
    assert turn.locator(".said").inner_text() == lab.ask([demo / "a.png", demo / "g.png", QUESTION]).text == "Google."


def test_pictures_are_dropped_and_pasted(open_page, demo):
    sheet = open_page()
    data = "[...atob(data)].map((c) => c.charCodeAt(0))"
    give = f"""([data, kind]) => {{
      const given = new DataTransfer();
      given.items.add(new File([new Uint8Array({data})], kind + '.png', {{ type: 'image/png' }}));
      const event = kind === 'paste' ? new ClipboardEvent('paste', {{ clipboardData: given, bubbles: true, cancelable: true }})
        : new DragEvent(kind, {{ dataTransfer: given, bubbles: true, cancelable: true }});
      document.querySelector('#question').dispatchEvent(event);
      return event.defaultPrevented;
    }}"""
    picture = base64.b64encode((demo / "m.png").read_bytes()).decode()
    for number, kind in enumerate(("paste", "drop"), 1):
        assert sheet.evaluate(give, [picture, kind])
        until(sheet, f"document.querySelectorAll('#tray .card').length === {number}")
    assert ask(sheet, QUESTION).locator(".said").inner_text() == "Microsoft."


def test_pictures_are_sent_byte_for_byte_and_seen_as_the_reader_sees_them(open_page, demo, tmp_path):
    """A photograph that is turned by its EXIF data is turned by a browser, and so for the model."""
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(demo / "wide_train.png") as image:
        image.convert("RGB").save(photo, exif=exif)
        size = image.size
    sheet = open_page()
    choose(sheet, photo)
    wide, high = sheet.locator("#tray img").evaluate("img => [img.naturalWidth, img.naturalHeight]")
    assert (high, wide) == size
    with sheet.expect_request("**/v1/chat/completions") as sent:
        turn = ask(sheet, "What is in image 1?")
    part = sent.value.post_data_json["messages"][0]["content"][0]
    assert base64.b64decode(part["image_url"]["url"].partition(",")[2]) == photo.read_bytes()
    shape = turn.locator(".stack").evaluate("stack => stack.style.aspectRatio")
    assert float(shape.split("/")[0]) == pytest.approx(wide / high, rel=0.01)


def test_an_answer_grows_and_can_be_stopped(open_page, demo, lab, slowly):
    whole = lab.ask([demo / "g.png", demo / "m.png", MANY]).text
    sheet = open_page()
    choose(sheet, demo / "g.png", demo / "m.png")
    slowly(0.25)
    sheet.get_by_label("Question", exact=True).fill(MANY)
    sheet.keyboard.press("Control+Enter")
    said = sheet.locator(".turn .said")
    assert sheet.locator(".turn .waiting").is_visible()
    lengths = []
    for _ in range(2):
        until(sheet, f"document.querySelector('.turn .said').textContent.length > {len(said.inner_text())}")
        lengths.append(len(said.inner_text()))
    assert 0 < lengths[0] < lengths[1] < len(whole)
    assert said.get_attribute("aria-busy") == "true"
    sheet.get_by_role("button", name="Stop").click()
    sheet.locator(".turn .closer").wait_for()
    assert whole.startswith(said.inner_text())
    assert len(said.inner_text()) < len(whole)
    assert sheet.locator(".chip").count() > 0


def test_a_question_that_still_waits_is_taken_back(open_page, demo, slowly):
    sheet = open_page()
    choose(sheet, demo / "g.png")
    slowly(1.0)
    sheet.get_by_label("Question", exact=True).fill(QUESTION)
    sheet.get_by_role("button", name="Ask", exact=True).click()
    sheet.get_by_role("button", name="Stop").click()
    sheet.wait_for_selector(".turn", state="detached")
    assert sheet.get_by_label("Question", exact=True).input_value() == QUESTION
    assert sheet.locator("#tray .card").count() == 1
    assert sheet.locator("#trouble").is_hidden()


def test_a_conversation_goes_on_and_begins_anew(open_page, served, demo, lab):
    sheet, kept = open_page(), served[1].state.kept
    before = len(kept.of("one"))
    chat = lab.chat()
    choose(sheet, demo / "g.png", demo / "m.png")
    first = ask(sheet, "What is in image 1?")
    assert first.locator(".said").inner_text() == chat.ask([demo / "g.png", demo / "m.png", "What is in image 1?"]).text
    assert "2 pictures" in sheet.locator("#hint").inner_text()
    choose(sheet, demo / "a.png")
    second = ask(sheet, "What is in image 3?")
    assert second.locator(".said").inner_text() == chat.ask([demo / "a.png", "What is in image 3?"]).text == "Apple."
    assert second.locator("figure").count() == 3
    assert not first.locator(".vila-view").is_visible()
    assert first.locator(".short").inner_text() == "Google."
    first.locator("summary").click()
    assert first.locator(".chip").first.is_visible()
    assert len(kept.of("one")) == before + 2
    sheet.get_by_role("button", name="Same pictures, new conversation").click()
    assert (sheet.locator(".turn").count(), sheet.locator("#tray .card").count()) == (0, 3)
    for _ in range(50):
        if len(kept.of("one")) == before:
            break
        time.sleep(0.05)
    assert len(kept.of("one")) == before
    assert ask(sheet, "What is in image 3?").locator(".said").inner_text() == "Apple."
    sheet.get_by_role("button", name="New conversation", exact=True).click()
    assert (sheet.locator(".turn").count(), sheet.locator("#tray .card").count()) == (0, 0)


# -- looking closer ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(open_page, demo) -> tuple[Any, Any]:
    """The page and the part of an answer on it."""
    sheet = open_page()
    choose(sheet, demo / "g.png", demo / "m.png")
    return sheet, ask(sheet, QUESTION)


def test_a_method_is_computed_with_progress_and_drawn(asked, lab, demo, slowly):
    sheet, turn = asked
    slowly(0.2)
    turn.locator(".tool").get_by_label("Method").select_option("leave_one_out")
    turn.locator(".chip").first.click()
    word = turn.locator(".tool select").nth(1)
    assert word.evaluate("one => one.selectedOptions[0].textContent") == "word 1: Microsoft"
    turn.get_by_role("button", name="Compute").click()
    turn.get_by_role("progressbar").wait_for()
    until(sheet, "document.querySelector('progress').value > 0")
    until(
        sheet,
        "document.querySelector('.vila-view').shadowRoot.querySelector('footer').innerText.includes('leave_one_out')",
    )
    found = lab.ask([demo / "g.png", demo / "m.png", QUESTION]).attribute("leave_one_out", token=0)
    turn.locator(".chip").first.hover()
    shown = turn.locator("figcaption b").all_inner_texts()
    assert [float(one) for one in shown] == pytest.approx(list(found.total()[["image_1", "image_2"]]), abs=0.005)
    assert turn.get_by_role("progressbar").count() == 0


def test_a_computation_is_cancelled(asked, served, slowly):
    sheet, turn = asked
    steps = slowly(0.1)
    turn.locator(".tool").get_by_label("Method").select_option("occlusion")
    turn.get_by_role("button", name="Compute").click()
    until(sheet, "document.querySelector('progress').value > 0")
    turn.get_by_role("button", name="Cancel").click()
    turn.get_by_role("progressbar").wait_for(state="hidden")
    for _ in range(60):
        if not served[1].state.worker.running:
            break
        time.sleep(0.05)
    seen = steps[0]
    time.sleep(0.4)
    assert steps[0] == seen
    assert sheet.locator("#trouble").is_hidden()
    assert sheet.evaluate("document.activeElement.textContent") == "Compute"


def test_a_picture_is_left_out_with_one_click(asked, lab, demo):
    _, turn = asked
    turn.get_by_role("button", name="Without picture 2").click()
    result = compared(turn)
    with lab.knockout("image_2 -> *"):
        other = lab.ask([demo / "g.png", demo / "m.png", QUESTION]).text
    assert result.locator(".said").inner_text() == f"The answer changes: “Microsoft.” becomes “{other}”"
    assert result.locator(".columns h3").all_inner_texts()[0] == "as asked"
    assert result.locator(".edits").inner_text().startswith("Edited while answering: knock-out of image_2")
    assert [each.inner_text() for each in result.locator("bdi").all()] == [
        "Microsoft",
        ".",
        *re.findall(r"\w+|\.", other),
    ]
    turn.get_by_role("button", name="Without picture 1").click()
    assert "stays the same" in compared(turn).locator(".said").inner_text()
    assert turn.locator(".result").count() == 2
    turn.locator(".result").first.get_by_role("button", name="Close").click()
    assert turn.locator(".result").count() == 1


def test_another_order_is_asked_for_and_compared(asked, lab, demo):
    _, turn = asked
    other = lab.ask([demo / "m.png", demo / "g.png", QUESTION]).text
    words = f"The answer changes: “Microsoft.” becomes “{other}”"
    assert turn.get_by_role("button", name="Ask in this order").get_attribute("aria-disabled") == "true"
    turn.locator(".small-tray").get_by_label("Move picture 1 to the back").click()
    turn.get_by_role("button", name="Ask in this order").click()
    assert compared(turn).locator(".said").inner_text() == words
    turn.get_by_role("button", name="Swap them").click()
    turn.locator(".result").nth(1).wait_for()
    assert compared(turn).locator(".said").inner_text() == words


def test_a_connection_is_cut(asked, lab, demo):
    _, turn = asked
    turn.get_by_label("From").select_option("image_2")
    turn.locator(".tool select").last.select_option("answer")
    turn.get_by_role("button", name="Cut and ask again").click()
    with lab.knockout("image_2 -> answer"):
        other = lab.ask([demo / "g.png", demo / "m.png", QUESTION]).text
    assert f"“{other}”" in compared(turn).locator(".said").inner_text()
    turn.get_by_label("From").select_option("question")
    turn.locator(".tool select").last.select_option("question")
    turn.get_by_role("button", name="Cut and ask again").click()
    turn.locator(".result").nth(1).wait_for()
    with lab.knockout("question -> question"):
        other = lab.ask([demo / "g.png", demo / "m.png", QUESTION]).text
    assert f"“{other}”" in compared(turn).locator(".said").inner_text()


def test_an_answer_is_saved_as_a_file_and_as_a_page(asked, tmp_path):
    sheet, turn = asked
    for name, label in (("answer-1.vila", "Save as .vila"), ("answer-1.html", "Save as a web page")):
        with sheet.expect_download() as download:
            turn.get_by_role("button", name=label).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert vila_lab.open(tmp_path / "answer-1.vila").text == "Microsoft."
    assert (tmp_path / "answer-1.html").read_text(encoding="utf-8").startswith("<!doctype html>")


# -- what goes wrong -------------------------------------------------------------------------------------------------------------------


def test_what_is_refused_is_one_sentence_and_the_question_comes_back(open_page, demo, tmp_path):
    sheet = open_page()
    sheet.get_by_role("button", name="Ask", exact=True).click()
    assert trouble(sheet) == "There is no question yet: write one, then ask."
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no picture")
    choose(sheet, demo / "g.png", bad)
    sheet.get_by_label("Question", exact=True).fill("<b onclick=alert(1)>What is in image 1?</b>")
    sheet.get_by_role("button", name="Ask", exact=True).click()
    assert trouble(sheet, "icture 2 of 2").endswith(".")
    assert sheet.locator(".turn").count() == 0
    assert sheet.locator("#tray .card").count() == 2
    sheet.get_by_label("Remove picture 2").click()
    turn = ask(sheet, "<b onclick=alert(1)>What is in image 1?</b>")
    assert turn.locator("h3").first.inner_text().endswith("<b onclick=alert(1)>What is in image 1?</b>")
    assert sheet.locator("b[onclick], img[onerror]").count() == 0
    assert sheet.locator("#trouble").is_hidden()


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ({"status": 429, "json": {"error": {"message": "too many questions wait already; ask again later"}}, "headers": {"Retry-After": "7"}},
         "Too many questions wait already; ask again later. Try again in 7 s."),
        ({"status": 502, "body": "<html>"}, "The server answered with status 502."),
        ({"status": 200, "content_type": "text/event-stream", "body": 'data: {"error": {"message": "the server is shutting down", "code": 503}}\n\n'},
         "The server is shutting down."),
        ({"status": 200, "content_type": "text/event-stream", "body": 'data: {"choices": [{"delta": {"content": "Mic"}}]}\n\n'},
         "The connection broke off before the answer was complete; ask again."),
        (None, "The server cannot be reached."),
    ],
    ids=["too many", "a proxy", "in the middle", "broken off", "gone"],
)  # fmt: skip
def test_the_page_outlives_what_the_server_does(open_page, demo, answered, words):
    sheet = open_page()
    choose(sheet, demo / "m.png")
    sheet.route(
        "**/v1/chat/completions", lambda route: route.abort() if answered is None else route.fulfill(**answered)
    )
    sheet.get_by_label("Question", exact=True).fill("What is in image 1?")
    sheet.get_by_role("button", name="Ask", exact=True).click()
    assert trouble(sheet).startswith(words)
    assert sheet.get_by_label("Question", exact=True).input_value() == "What is in image 1?"
    sheet.unroute("**/v1/chat/completions")
    sheet.get_by_role("button", name="Ask", exact=True).click()
    sheet.locator(".turn .closer").wait_for()
    assert sheet.locator(".turn .said").inner_text() == "Microsoft."


def test_a_token_that_is_no_longer_known_leads_to_the_door_and_back(asked):
    sheet, turn = asked
    sheet.evaluate("sessionStorage.setItem('vila_lab token', 'a-token-of-yesterday')")
    turn.get_by_role("button", name="Without picture 2").click()
    assert "does not know this token" in trouble(sheet)
    sheet.get_by_label("Token", exact=True).fill(TOKEN)
    sheet.keyboard.press("Enter")
    sheet.wait_for_selector("#ask-room", state="visible")
    assert turn.locator(".said").inner_text() == "Microsoft."
    turn.get_by_role("button", name="Without picture 2").click()
    assert "becomes" in compared(turn).locator(".said").inner_text()


def test_an_answer_that_is_gone_leaves_the_rest(asked, served):
    sheet, turn = asked
    kept = served[1].state.kept
    kept.drop("one", [each["id"] for each in kept.of("one")])
    turn.get_by_role("button", name="Compute").click()
    assert trouble(sheet).startswith("There is no answer of that id")
    sheet.get_by_role("button", name="Dismiss").click()
    assert ask(sheet, "What is in image 1?").locator(".said").inner_text() == "Google."


def test_pictures_that_are_too_large_are_told_before_they_are_sent(open_page, address, demo):
    sheet = open_page("/")

    def smaller(route: Any) -> None:
        found = route.fetch()
        route.fulfill(response=found, body=re.sub(r'data-largest="\d+"', 'data-largest="1100000"', found.text()))

    sheet.route(f"{address}/?smaller", smaller)
    sheet.route("**/v1/chat/completions", lambda route: pytest.fail("it was sent"))
    sheet.goto(f"{address}/?smaller#token={TOKEN}")
    sheet.wait_for_selector("#ask-room", state="visible")
    choose(sheet, demo / "cat_and_dog.png", demo / "wide_train.png")
    sheet.get_by_label("Question", exact=True).fill(QUESTION)
    sheet.get_by_role("button", name="Ask", exact=True).click()
    assert trouble(sheet).endswith("a question may have 1 MiB. Remove some, or choose smaller files.")
    assert sheet.locator("#tray .card").count() == 2


# -- for everybody -----------------------------------------------------------------------------------------------------------------------


def test_all_of_it_can_be_done_with_the_keys_alone(open_page):
    sheet = open_page("/")
    focused = "(document.activeElement.shadowRoot?.activeElement ?? document.activeElement)"

    def tab_to(words: str, back: bool = False) -> None:
        for _ in range(60):
            sheet.keyboard.press("Shift+Tab" if back else "Tab")
            said = sheet.evaluate(f"{focused}.getAttribute('aria-label') ?? {focused}.textContent")
            if words in said:
                assert sheet.evaluate(f"{focused}.matches(':focus-visible')")
                return
        raise AssertionError(f"no key leads to {words}")

    tab_to("To the question")
    sheet.keyboard.press("Enter")
    assert sheet.locator("#door").is_visible()  # nobody is in yet
    sheet.get_by_label("Token", exact=True).focus()
    sheet.keyboard.type(TOKEN)
    sheet.keyboard.press("Enter")
    sheet.wait_for_selector("#ask-room", state="visible")
    tab_to("Use four example pictures", back=True)
    sheet.keyboard.press("Enter")
    sheet.wait_for_selector("#tray .card:nth-child(4)")
    until(sheet, "document.activeElement.id === 'question'")
    sheet.keyboard.press("Control+Enter")
    sheet.locator(".turn .closer").wait_for()
    assert sheet.evaluate("document.activeElement.id") == "question"
    sheet.locator(".skip").focus()
    sheet.keyboard.press("Enter")
    until(sheet, "document.activeElement.id === 'question'")
    tab_to("Without picture 2", back=True)
    sheet.keyboard.press("Enter")
    compared(sheet.locator(".turn"))
    assert sheet.evaluate("document.activeElement.textContent") == "Without picture 2"  # the result's heading
    assert sheet.evaluate("document.activeElement.tagName") == "H5"
    tab_to("Close")
    sheet.keyboard.press("Enter")
    assert sheet.locator(".result").count() == 0


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, axe, width, scheme):
    """In no state of the page, and nothing is wider than the screen."""
    sheet = open_page("/", width=width, scheme=scheme, bypass_csp=True, reduced_motion="reduce")

    def check(state: str) -> None:
        sheet.evaluate(axe)
        assert (state, sheet.evaluate(RUN)) == (state, [])
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width

    check("door")
    sheet.get_by_label("Token", exact=True).fill(TOKEN)
    sheet.keyboard.press("Enter")
    sheet.wait_for_selector("#ask-room", state="visible")
    check("empty")
    sheet.get_by_role("button", name="Use four example pictures").click()
    sheet.wait_for_selector("#tray .card:nth-child(4)")
    check("ready")
    turn = ask(sheet, QUESTION)
    turn.get_by_role("button", name="Compute").click()
    until(
        sheet,
        "document.querySelector('.vila-view').shadowRoot.querySelector('footer').innerText.includes('leave_one_out')",
    )
    check("answered")
    turn.get_by_role("button", name="Without picture 2").click()
    compared(turn)
    check("compared")
    sheet.get_by_label("Question", exact=True).fill("")
    sheet.get_by_role("button", name="Ask", exact=True).click()
    trouble(sheet)
    check("trouble")
    sheet.goto(sheet.url.split("#")[0] + "docs")
    sheet.wait_for_selector(".route")
    check("docs")


def test_docs_list_every_route_that_is_described(open_page, address):
    described = httpx.get(f"{address}/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, ways in described["paths"].items() for method in ways}
    sheet = open_page("/docs")
    sheet.wait_for_selector(".route")
    assert set(sheet.locator(".route h2").all_inner_texts()) == routes
    ask_route = sheet.locator(".route").filter(has=sheet.get_by_role("heading", name="POST /v1/chat/completions"))
    text = ask_route.inner_text()
    assert all(
        words in text
        for words in ("max_completion_tokens", "Body, application/json, vila_lab", "What acts on the model meanwhile")
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_screenshots_are_left_to_look_at(open_page, slowly, monkeypatch, width, scheme):
    """In tests/serve/screenshots."""
    SHOTS.mkdir(exist_ok=True)
    sheet = open_page("/", width=width, scheme=scheme, reduced_motion="reduce")

    def shoot(name: str) -> None:
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
        sheet.screenshot(path=SHOTS / f"{name}_{width}_{scheme}.png", full_page=True)

    shoot("door")
    sheet.goto(f"{sheet.url}#token={TOKEN}")
    sheet.wait_for_selector("#ask-room", state="visible")
    sheet.get_by_role("button", name="Use four example pictures").click()
    sheet.wait_for_selector("#tray .card:nth-child(4)")
    shoot("ready")
    slowly(0.2)
    sheet.get_by_label("Question", exact=True).fill(MANY)
    sheet.keyboard.press("Control+Enter")
    until(sheet, "document.querySelector('.turn .said').textContent.length > 12")
    shoot("growing")
    monkeypatch.undo()
    turn = sheet.locator(".turn")
    turn.locator(".closer").wait_for()
    shoot("answered")
    slowly(0.2)
    turn.get_by_role("button", name="Compute").click()
    until(sheet, "document.querySelector('progress').value > 0")
    shoot("computing")
    monkeypatch.undo()
    turn.get_by_role("progressbar").wait_for(state="hidden")
    turn.get_by_role("button", name="Without picture 2").click()
    compared(turn)
    shoot("compared")
    ask(sheet, "What is in image 1?")
    shoot("conversation")
