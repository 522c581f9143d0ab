"""The service through OpenAI's own client: its answers are the kernel's, and what it refuses it refuses in its client's words."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import vila_lab
from vila_lab.errors import PictureError
from vila_lab.prompt import Prompt
from vila_lab.serve import app as serving
from vila_lab.serve.completions import Pieces
from vila_lab.serve.reading import Bounds, prompt_of
from vila_lab.session import Session

from .conftest import OTHER, TOKEN

BOUNDS = Bounds(4096)
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"enum": [{"brand": "Google"}, {"brand": "Microsoft"}]}},
}


@pytest.fixture(scope="module")
def address(another_server) -> Iterator[str]:
    before = set(threading.enumerate())
    with another_server() as (found, _):
        yield found
    assert not [each for each in set(threading.enumerate()) - before if each.name == "vila_lab worker"]


@pytest.fixture
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)


@pytest.fixture
def http(address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as found:
        yield found


def picture(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


@pytest.fixture
def asked(demo) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [picture(demo / "g.png"), picture(demo / "m.png"), text("What is in image 2?")]}
    ]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def streamed(client: openai.OpenAI, **options: Any) -> list[Any]:
    return list(client.chat.completions.create(model="any", stream=True, **options))


# -- answers -----------------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_kernels(client, lab, demo, asked):
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])
    found = client.chat.completions.create(model="any", messages=asked, logprobs=True, top_logprobs=5)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (answer.text, "stop")
    assert [token.logprob for token in choice.logprobs.content] == [token.logprob for token in answer.tokens]
    assert [t.logprob for t in choice.logprobs.content[0].top_logprobs] == [x[2] for x in answer.tokens[0].alternatives]
    assert found.usage.prompt_tokens == answer.token_map.prompt_length
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    again = client.chat.completions.create(model="any", messages=asked)
    assert again.usage.prompt_tokens_details.cached_tokens > 0.5 * again.usage.prompt_tokens


@pytest.mark.parametrize(
    "options", [{}, {"stop": "soft"}, {"stop": ["never", "."]}, {"max_tokens": 1}, {"response_format": FORM}]
)
def test_a_stream_is_the_whole_in_pieces(client, asked, options):
    whole = client.chat.completions.create(model="any", messages=asked, **options)
    chunks = streamed(client, messages=asked, stream_options={"include_usage": True}, **options)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_order_history_and_the_system_are_kept(client, lab, demo):
    """Pictures in two turns, the first sent again, as clients do; all that the reference's server drops."""
    chat = lab.chat("Be brief.")
    first = chat.ask(["Look:", demo / "g.png", "What is in image 1?"]).text
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("Look:"), picture(demo / "g.png"), text("What is in image 1?")]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": [picture(demo / "m.png"), text("What is in image 2?")]},
    ]
    found = client.chat.completions.create(model="any", messages=turns, extra_body={"conv_mode": "auto"})
    answer = chat.ask([demo / "m.png", "What is in image 2?"])
    assert found.choices[0].message.content == answer.text
    assert found.usage.prompt_tokens == answer.token_map.prompt_length


def test_several_answers_are_those_of_the_seeds(client, lab, demo, asked):
    found = client.chat.completions.create(model="any", messages=asked, n=3, seed=5, temperature=3, max_tokens=6)
    options: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 6}
    parts = [demo / "g.png", demo / "m.png", "What is in image 2?"]
    assert [c.message.content for c in found.choices] == [lab.ask(parts, seed=5 + k, **options).text for k in range(3)]
    chunks = streamed(client, messages=asked, n=2, seed=5, temperature=3, max_tokens=6)
    for number in range(2):
        mine = [c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == number]
        assert "".join(mine) == found.choices[number].message.content


def test_many_clients_at_once_get_their_own_answers(address, lab, demo):
    marks = ["g", "m", "a", "n"]
    expected = {mark: lab.ask([demo / f"{mark}.png", "What is this?"]).text for mark in marks}
    got: dict[int, str] = {}

    def one(number: int) -> None:
        own = openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN if number % 2 else OTHER, max_retries=0)
        content = [picture(demo / f"{marks[number % 4]}.png"), text("What is this?")]
        found = own.chat.completions.create(model="any", messages=[{"role": "user", "content": content}])
        got[number] = found.choices[0].message.content

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: expected[marks[number % 4]] for number in range(16)}


# -- clients that go away ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_model(address, lab, asked, stream, monkeypatch):
    """Slowed down so that it can be seen."""
    steps, run = [0], lab.family.decode_copies

    def slow(*given: Any) -> Any:
        steps[0] += 1
        time.sleep(0.05)
        return run(*given)

    monkeypatch.setattr(lab.family, "decode_copies", slow)
    body = {"model": "any", "messages": asked, "stream": stream, "max_tokens": 400, "temperature": 50, "seed": 1}
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}) as own:
        if stream:
            with own.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                own.post("/v1/chat/completions", json=body, timeout=0.6)
    time.sleep(1)
    seen = steps[0]
    time.sleep(0.5)
    assert steps[0] == seen < 60
    assert not lab.engine.lock.locked()


# -- pictures of other servers ---------------------------------------------------------------------------------------------------


def test_addresses_are_fetched_where_that_is_allowed(demo):
    """In the thread that reads pictures; its failure names the picture."""
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        if "lost" in url:
            raise PictureError("the server of a picture answers with status 404")
        return (demo / "g.png").read_bytes()

    def content(*urls: str) -> list[dict[str, Any]]:
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return [{"role": "user", "content": [*shown, text("What is this?")]}]

    prompt = prompt_of(content("https://a.example/a.png", "HTTP://a.example/b.png"), BOUNDS, fetch)
    assert asked == ["https://a.example/a.png", "HTTP://a.example/b.png"]
    assert prompt.pictures[0].digest == Prompt.of([demo / "g.png"]).pictures[0].digest
    with pytest.raises(PictureError, match="picture 2 of 2: the server of a picture answers with status 404"):
        prompt_of(content("https://a.example/a.png", "https://a.example/lost.png"), BOUNDS, fetch)
    for url in ("https://a.example/a.png", "file:///a.png", "a.png"):
        with pytest.raises(PictureError, match="picture 1 of 1: it is no data: address"):
            prompt_of(content(url), BOUNDS)
    with pytest.raises(PictureError, match="no data: address"):
        prompt_of(content("file:///a.png"), BOUNDS, fetch)


# -- what is refused -------------------------------------------------------------------------------------------------------------


def test_what_is_refused_says_why_in_openais_form(client, http, asked, demo):
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    good = picture(demo / "g.png")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"messages": [{"role": "user", "content": [good, bad, good]}]}, "picture 2 of 3"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]}, "no data: address"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, "no data:"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "'input_audio'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": ""}]}, "nothing to ask"),
        ({"messages": []}, "messages"), ({"messages": asked, "n": 100}, "n:"), ({"messages": asked, "temperature": -1}, "temperature"),
        ({"messages": asked, "extra_body": {"conv_mode": "nope"}}, "'nope' is unknown"),
        ({"messages": asked, "extra_body": {"colour": "red"}}, "colour is not known"),
        ({"messages": asked, "response_format": {"type": "xml"}}, "'xml'"),
        ({"messages": asked, "max_tokens": 10**6}, "positions"), ({"messages": [{"role": "user", "content": "word " * 9000}]}, "positions"),
        ({"messages": [{"role": "user", "content": [good] * 300}]}, "300 pictures"),
    ]  # fmt: skip
    for body, words in refused:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="any", stream=stream, **body)
            told: Any = caught.value.body
            assert set(told) >= {"message", "type", "code"}
            assert words in told["message"]
    assert client.chat.completions.create(model="any", messages=asked).choices[0].message.content == "Microsoft."
    assert http.post("/v1/chat/completions", content=b"{").status_code == 400
    assert http.get("/nowhere").json()["error"]["code"] == 404
    assert http.get("/v1/chat/completions").json()["error"]["code"] == 405


def test_twelve_pictures_are_no_matter(client, demo):
    content = [*[picture(demo / "g.png")] * 12, text("What is in image 12?")]
    assert (
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": content}]).usage.prompt_tokens
        > 400
    )


def test_doors(address, http):
    assert http.get("/v1/models").json()["data"][0]["id"] == "embedded"
    for path, status in (
        ("/v1/models", 401),
        ("/metrics", 401),
        ("/readyz", 200),
        ("/healthz", 200),
        ("/openapi.json", 200),
    ):
        found = httpx.get(f"{address}{path}")
        assert found.status_code == status, path
        assert found.headers["x-content-type-options"] == "nosniff" or status == 401
        if status == 401:
            assert found.json()["error"]["type"] == "authentication_error"
            for token in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
                assert httpx.get(f"{address}{path}", headers={"Authorization": token}).status_code == 401
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        assert http.get("/readyz", headers={"Host": host}).status_code in (400, 421)
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {10**10}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(1000)


def test_figures(client, http, asked):
    client.chat.completions.create(model="any", messages=asked)
    end = time.monotonic() + 10
    while "vila_lab_num_requests_running 0.0" not in (found := http.get("/metrics").text):
        assert time.monotonic() < end  # the answer is sent a moment before its thread is free again
    count = next(line for line in found.splitlines() if line.startswith("vila_lab_time_to_first_token_seconds_count"))
    assert float(count.split()[1]) >= 1


def test_a_failure_inside_tells_nothing(client, lab, asked, monkeypatch, caplog):
    def broken(*given: Any) -> Any:
        raise ZeroDivisionError("/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(lab.family, "decode_copies", broken)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="any", messages=asked, max_tokens=77)  # as nobody asked before
    assert "secret" not in str(caught.value)
    assert client.chat.completions.create(model="any", messages=asked).choices[0].message.content == "Microsoft."


@pytest.mark.parametrize("stop", [None, "END", ["ab", "abc"]])
def test_pieces_make_the_whole(stop):
    for said in ("  Hello END world ", "aab ", "a", "", " EN", "xEEND", "ab"):
        stops = [stop] if isinstance(stop, str) else stop or []
        places = [said.index(each) for each in stops if each in said]
        whole = said[: min(places)].strip() if places else said.strip()
        pieces = Pieces(stop)
        sent = "".join(pieces.add(character) for character in said)
        assert sent + pieces.rest(whole) == whole


# -- a process of its own ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_a_server_ends_when_it_is_told_to(busy, asked):
    environment = {**os.environ, "VILA_LAB_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vila_lab.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        address = lines[1].split()[0]
        wait_for(f"{address}/readyz")
        if busy:
            body = {"messages": asked, "stream": True, "max_tokens": 800, "temperature": 50, "seed": 1}
            with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}) as own:
                own.send(own.build_request("POST", "/v1/chat/completions", json=body), stream=True)
                process.send_signal(signal.SIGTERM)
                process.wait(15)
        else:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        assert "Traceback" not in process.stderr.read()
        assert TOKEN not in "".join(lines)


def wait_for(address: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(address, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            assert time.monotonic() < end
        time.sleep(0.1)


def test_the_command_line_says_what_is_wrong(monkeypatch, capsys):
    from vila_lab.cli import main

    monkeypatch.setenv("VILA_LAB_TOKEN", "short")
    assert main(["serve", "--port", "0"]) == 2
    assert "at least 8 characters" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "vila_lab.serve.running", raising=False)
    assert main(["serve"]) == 2
    assert "vila-lab[serve]" in capsys.readouterr().err
    assert serving.GRACE <= 10
    assert json.dumps(FORM)
    assert isinstance(vila_lab.load(), Session)
