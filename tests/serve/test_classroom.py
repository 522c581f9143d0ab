"""Class mode: who has the code joins and nobody else, everybody sees their own, and the teacher sees all; in chromium too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from vila_lab.serve.classroom import ALPHABET, LENGTH, Classroom, clean_name, new_code
from vila_lab.serve.failures import Busy, Refused
from vila_lab.serve.tokens import OWNER, Owner, Owners
from vila_lab.teaching import Quiz
from vila_lab.teaching.quiz import COURSE

TEACHER = "a-token-of-the-teacher"
SHOTS = Path(__file__).parent / "screenshots"
RUN = """async () => (await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
  .violations.map(({ id, impact, nodes }) => [id, impact, nodes.slice(0, 3).map(({ html, failureSummary }) => [html.slice(0, 300), failureSummary])])"""


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def owners() -> Owners:
    return Owners([Owner(OWNER, TEACHER)])


# -- a class by itself -----------------------------------------------------------------------------------------------------------


def test_codes_are_of_plain_characters_and_differ():
    codes = {new_code() for _ in range(200)}
    assert len(codes) == 200
    assert all(len(code) == LENGTH and set(code) <= set(ALPHABET) for code in codes)
    assert not set("0O1IL") & set(ALPHABET)


def test_who_has_the_code_gets_a_token_of_their_own(owners):
    room = Classroom(owners, questions_per_hour=7)
    typed = f" {room.code[:4].lower()}-{room.code[4:]} "
    found = [room.join(typed, name) for name in ("Ana", " ana", "Ben", "owner", "Ana")]
    assert [each.name for each in found] == ["Ana", "ana 2", "Ben", "owner 2", "Ana 3"]
    assert [owners.of(each.token) for each in found] == [each.name for each in found]
    assert {owners.quota(each.name) for each in found} == {7}
    assert [each["name"] for each in room.overview()] == [each.name for each in found]


@pytest.mark.parametrize("name", ["", "   ", "\n\u200b", "x" * 41])
def test_a_name_that_is_none_is_refused(owners, name):
    room = Classroom(owners)
    with pytest.raises(Refused, match="1 to 40 characters"):
        room.join(room.code, name)
    assert owners.names() == (OWNER,)


def test_names_are_shown_on_one_line():
    assert clean_name("  Ana\tMaria\u202e\n Lopez ") == "Ana Maria Lopez"
    assert clean_name("小明") == "小明"


def test_codes_cannot_be_found_by_trying(owners, clock):
    """After twenty wrong ones nobody's is looked at, not even the right one, until a minute is over."""
    room = Classroom(owners, clock=clock)
    for number in range(20):
        clock.now += 1
        with pytest.raises(Refused, match="not the code") as caught:
            room.join(f"WRONG{number}", "Eve")
        assert caught.value.status == 403
    for code in ("WRONG", room.code):
        with pytest.raises(Busy, match="try again in 41 s") as caught:
            room.join(code, "Eve")
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "41"})
    clock.now += 41
    assert room.join(room.code, "Ana").name == "Ana"


def test_a_class_is_full_at_last(owners):
    room = Classroom(owners, students=3)
    for number in range(3):
        room.join(room.code, f"student {number}")
    with pytest.raises(Refused, match="the class is full: 3 have joined"):
        room.join(room.code, "Late")


def test_all_of_a_class_can_join_at_once(owners):
    room = Classroom(owners)
    threads = [threading.Thread(target=room.join, args=(room.code, "Ana")) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owners.names()) == sorted([OWNER, "Ana", *(f"Ana {number}" for number in range(2, 41))])


def test_the_last_question_is_noted_and_the_teachers_is_not(owners, lab, demo):
    room = Classroom(owners, now=lambda: 12.5)
    room.join(room.code, "Ana")
    with lab.knockout("image_1 -> *"):
        edited = lab.ask([demo / "g.png", "What is in image 1?"])
    for answer in (lab.ask([demo / "m.png", "x" * 400]), edited):
        room.heard("Ana", answer)
        room.heard(OWNER, answer)
    (ana,) = room.overview()
    assert (ana["questions"], ana["last_question"], ana["last_answer"]) == (2, "What is in image 1?", edited.text)
    assert ana["edits"] == list(edited.record.edits) != []
    assert ana["asked_at"] == 12.5
    room.heard("Ana", lab.ask([demo / "m.png", "x" * 400]))
    assert room.overview()[0]["last_question"] == "x" * 299 + "…"


# -- over the wire -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(another_server: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    with another_server(classroom=True) as (address, app):
        app.state.owners.add(Owner(OWNER, TEACHER))
        yield address, app


@pytest.fixture
def address(served: tuple[str, Any]) -> str:
    return served[0]


@pytest.fixture
def code(served: tuple[str, Any]) -> str:
    return str(served[1].state.classroom.code)


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as found:
        yield found


def header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def joined(http: httpx.Client, code: str, name: str) -> dict[str, Any]:
    found = http.post("/class/join", json={"code": code, "name": name})
    assert found.status_code == 200
    told: dict[str, Any] = found.json()
    return told


def ask(http: httpx.Client, token: str, question: str) -> httpx.Response:
    body = {"model": "any", "messages": [{"role": "user", "content": question}]}
    return http.post("/v1/chat/completions", json=body, headers=header(token))


def test_students_join_ask_and_are_seen_by_the_teacher_alone(http, code):
    ana, ben = joined(http, code, "Wire Ana"), joined(http, code, "Wire Ben")
    assert ana["questions_per_hour"] == 120
    assert ana["token"] != ben["token"]
    said = ask(http, ana["token"], "Hello?").json()["choices"][0]["message"]["content"]
    assert http.get("/class/me", headers=header(ana["token"])).json() == {"name": "Wire Ana", "is_teacher": False}
    assert http.get("/class/me", headers=header(TEACHER)).json() == {"name": "owner", "is_teacher": True}
    for token in (ana["token"], ben["token"]):
        refused = http.get("/class/overview", headers=header(token))
        assert (refused.status_code, "teacher" in refused.json()["error"]["message"]) == (403, True)
    assert http.get("/class/overview").status_code == 401
    seen = http.get("/class/overview", headers=header(TEACHER)).json()
    rows = {each["name"]: each for each in seen["students"]}
    assert seen["code"] == code
    assert (rows["Wire Ana"]["questions"], rows["Wire Ana"]["last_question"], rows["Wire Ana"]["last_answer"]) == (
        1,
        "Hello?",
        said,
    )
    assert abs(rows["Wire Ana"]["asked_at"] - time.time()) < 60
    assert rows["Wire Ben"]["questions"] == 0
    assert http.get("/v1/answers", headers=header(ben["token"])).json()["data"] == []


def test_a_streamed_question_counts_once_and_one_that_is_refused_does_not(http, code):
    ana = joined(http, code, "Stream Ana")
    messages = [{"role": "user", "content": "Hello?"}]
    for body in (
        {"messages": messages, "stream": True},
        {"messages": messages, "n": 2, "temperature": 1, "seed": 1},
        {"messages": []},
    ):
        http.post("/v1/chat/completions", json=body, headers=header(ana["token"]))
    rows = {each["name"]: each for each in http.get("/class/overview", headers=header(TEACHER)).json()["students"]}
    assert rows["Stream Ana"]["questions"] == 3  # of n answers each


@pytest.mark.parametrize(
    "body",
    [{}, {"code": 1, "name": "x"}, {"code": "x" * 101, "name": "x"}, {"code": "x", "name": "x", "more": 1}, [], "x"],
)
def test_what_is_no_joining_is_refused_in_a_sentence(http, body):
    found = http.post("/class/join", json=body)
    assert found.status_code == 400
    assert found.json()["error"]["message"]


def test_exercises_reveal_what_the_model_does_and_count_once(http, code, lab, demo):
    ana, ben = (joined(http, code, f"Quiz {name}") for name in ("Ana", "Ben"))
    listed = http.get("/class/exercises", headers=header(ana["token"])).json()["exercises"]
    assert [each["question"] for each in listed] == [question for _, question in COURSE]
    assert all(each["done"] is None for each in listed)
    assert "Microsoft" not in http.get("/class/exercises", headers=header(ana["token"])).text
    right = Quiz.course(lab).solutions()
    for number, row in right.iterrows():
        prediction = {"picture": row["picture"], "survives": bool(row["survives"])}
        found = http.post(f"/class/exercises/{number}", json=prediction, headers=header(ana["token"])).json()
        assert (found["points"], found["answer"]) == (2, row["answer"])
        assert (found["picture"], found["survives"], found["predicted"]) == (
            row["picture"],
            row["survives"],
            prediction,
        )
        assert len(found["pictures"]) == len(COURSE[int(str(number)) - 1][0])
    assert set(right["survives"]) == {True, False}  # there is something to learn
    again = http.post("/class/exercises/1", json={"picture": "image_1", "survives": True}, headers=header(ana["token"]))
    assert (again.status_code, "already" in again.json()["error"]["message"]) == (409, True)
    wrong = http.post(
        "/class/exercises/1", json={"picture": "image_1", "survives": True}, headers=header(ben["token"])
    ).json()
    assert wrong["points"] == 0
    done = http.get("/class/exercises", headers=header(ben["token"])).json()["exercises"]
    assert [each["done"] for each in done] == [wrong, None, None, None, None]
    rows = {each["name"]: each for each in http.get("/class/overview", headers=header(TEACHER)).json()["students"]}
    assert rows["Quiz Ana"]["points"] == {str(number): 2 for number in range(1, 6)}
    assert rows["Quiz Ben"]["points"] == {"1": 0}


@pytest.mark.parametrize(
    ("number", "body", "status"),
    [("0", {"picture": "image_1", "survives": True}, 404), ("99", {"picture": "image_1", "survives": True}, 404),
     ("x", {"picture": "image_1", "survives": True}, 400), ("1", {"picture": "image_5", "survives": True}, 400),
     ("1", {"picture": "image_0", "survives": True}, 400), ("1", {"picture": 1, "survives": True}, 400), ("1", {"picture": "image_1"}, 400)],
)  # fmt: skip
def test_a_prediction_that_is_none_is_refused(http, number, body, status):
    found = http.post(f"/class/exercises/{number}", json=body, headers=header(TEACHER))
    assert (found.status_code, bool(found.json()["error"]["message"])) == (status, True)


def test_without_class_mode_there_is_no_class(another_server):
    with another_server() as (address, app), httpx.Client(base_url=address) as http:
        assert app.state.classroom is None
        assert http.post("/class/join", json={"code": "x", "name": "x"}).status_code == 404
        assert 'data-classroom="no"' in http.get("/").text


# -- on the page -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    contexts: list[Any] = []
    heard: list[str] = []

    def opener(path: str = "/", *, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
        )
        contexts.append(context)
        context.on(
            "request",
            lambda request: heard.append(request.url) if not request.url.startswith((address, "data:")) else None,
        )
        context.on("weberror", lambda error: heard.append(str(error.error)))
        sheet = context.new_page()
        sheet.set_default_timeout(15_000)
        sheet.goto(address + path)
        return sheet

    yield opener
    for context in contexts:
        context.close()
    assert heard == []


def enter(sheet: Any, code: str, name: str) -> None:
    sheet.get_by_label("Code").fill(code)
    sheet.get_by_label("Your name").fill(name)
    sheet.keyboard.press("Enter")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark"), (375, "light"), (1280, "dark")])
def test_a_lesson(open_page, code, axe, width, scheme):
    """A student joins, asks, predicts; the teacher watches. Nothing for axe to find, nothing wider than the screen."""
    name = f"Lesson {width} {scheme}"
    SHOTS.mkdir(exist_ok=True)
    sheet = open_page(width=width, scheme=scheme)

    def check(page: Any, state: str) -> None:
        page.evaluate(axe)
        assert (state, page.evaluate(RUN)) == (state, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SHOTS / f"class_{state}_{width}_{scheme}.png", full_page=True)

    enter(sheet, "not the code", name)
    sheet.wait_for_selector("#trouble", state="visible")
    assert sheet.locator("#error").inner_text().startswith("This is not the code of the class")
    check(sheet, "join")
    enter(sheet, f"{code[:4]} {code[4:].lower()}", name)
    sheet.wait_for_selector("#ask-room", state="visible")
    assert sheet.locator("#name").inner_text() == name
    assert sheet.locator("nav a").all_inner_texts() == ["Ask", "Exercises"]
    sheet.get_by_label("Question", exact=True).fill("Hello?")
    sheet.keyboard.press("Control+Enter")
    sheet.locator(".closer").wait_for()
    said = sheet.locator(".turn .said").inner_text()

    sheet.get_by_role("link", name="Exercises").click()
    first = sheet.locator(".exercise").first
    first.wait_for()
    assert sheet.evaluate("document.activeElement.id") == "exercises-title"
    assert sheet.locator(".score").inner_text() == "0 of 10 points; 0 of 5 exercises done"
    first.get_by_role("button", name="Predict and look").click()  # the browser asks for what is missing
    assert first.locator(".revealed").count() == 0
    first.get_by_label("picture 3", exact=True).check()
    first.get_by_label("the answer changes").check()
    first.get_by_role("button", name="Predict and look").click()
    first.locator(".revealed").wait_for()
    assert (
        "“A train and a house.” Picture 3 counts most: without it the answer is “A pig and a pizza.”"
        in first.inner_text()
    )
    assert "2 of 2 points" in first.inner_text()
    assert sheet.locator(".score").inner_text() == "2 of 10 points; 1 of 5 exercises done"
    sheet.wait_for_load_state("networkidle")
    check(sheet, "exercises")
    sheet.reload()
    sheet.locator(".exercise .revealed").wait_for()
    sheet.get_by_role("link", name="Ask").click()
    sheet.wait_for_selector("#ask-room", state="visible")

    teacher = open_page(f"/#token={TEACHER}", width=width, scheme=scheme)
    teacher.get_by_role("link", name="Your class").click()
    row = teacher.get_by_role("row").filter(has=teacher.get_by_role("rowheader", name=name, exact=True))
    row.wait_for()
    cells = row.get_by_role("cell").all_inner_texts()
    assert [cells[0], cells[1], cells[2], cells[3], cells[5:]] == ["1", "2", "Hello?", said, ["2", "–", "–", "–", "–"]]
    assert teacher.locator(".code").inner_text() == f"{code[:4]} {code[4:]}"
    assert "nothing is written to disk" in teacher.locator("#class").inner_text()
    check(teacher, "overview")
    sheet.get_by_label("Question", exact=True).fill("And now?")
    sheet.keyboard.press("Control+Enter")
    row.get_by_role("cell", name="And now?").wait_for()  # the overview follows


@pytest.mark.browser
def test_a_student_who_asks_for_the_overview_stays_where_they_are(open_page, code):
    sheet = open_page("/#class")
    enter(sheet, code, "Curious")
    sheet.wait_for_selector("#ask-room", state="visible")
    assert not sheet.locator("#class").is_visible()


@pytest.mark.browser
def test_who_leaves_leaves_nothing_to_the_next(open_page, code):
    sheet = open_page()
    enter(sheet, code, "Leaving")
    sheet.wait_for_selector("#ask-room", state="visible")
    sheet.get_by_label("Question", exact=True).fill("A secret")
    sheet.get_by_role("button", name="Sign out").click()
    sheet.wait_for_selector("#join", state="visible")
    assert sheet.evaluate("[sessionStorage.length, document.querySelector('#question').value]") == [0, ""]
    assert sheet.get_by_label("Your name").input_value() == ""
