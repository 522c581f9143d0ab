"""Whatever is sent, the service answers as it says it does: drawn requests from its own description, and bodies made to hurt."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image

import vila_lab
from vila_lab.serve.app import create_app

schemathesis = pytest.importorskip("schemathesis", reason="requests are drawn from the description by schemathesis")

CASES = int(os.environ.get("VILA_LAB_FUZZ", "150"))  # of all routes together, at most: some have few different requests
TOKEN = "a-token-of-the-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
HOSTS = ("testserver", "localhost")
ASK = "/v1/chat/completions"
GOOD = [{"role": "user", "content": "Hello"}]
MOST = 2  # tokens of an answer: the model is not what is tested
PLACES = re.compile(r"Traceback|File \"|site-packages|/(home|root|tmp|usr|work|var)/|\.py\b|0x[0-9a-f]{8}")
"""What an error's message holds if it tells of the machine."""

Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    found = create_app(vila_lab.load(), {"one": TOKEN}, HOSTS)
    yield found
    found.state.worker.close(10)


@pytest.fixture(scope="module")
def post(app) -> Iterator[Post]:
    """Send a body, as bytes or as what JSON makes of it; what is told of it is never the machine's."""
    with start_blocking_portal() as portal:

        async def send(path: str, content: bytes) -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
                return await client.post(path, content=content, headers=HEADERS)

        def post(body: Any, path: str = ASK) -> httpx.Response:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return portal.call(send, path, content)

        yield post


# -- drawn from the description ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(app) -> Any:
    async def lasting(scope: Any, receive: Any, send: Any) -> None:
        """The app without its end, which would come with every client."""
        if scope["type"] == "http":
            await app(scope, receive, send)
            return
        while (message := await receive())["type"].startswith("lifespan."):
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    return schemathesis.openapi.from_asgi("/openapi.json", lasting)


@pytest.fixture(scope="module")
def kept(post) -> str:
    """The id of an answer that is kept."""
    return str(post({"messages": GOOD, "max_tokens": MOST, "vila_lab": {}}).json()["id"])


def test_every_route_is_described(app, described):
    written = {found.ok().path for found in described.get_all_operations()}
    routed = set(app.openapi()["paths"])
    assert routed == written >= {ASK, "/v1/models", "/healthz", "/readyz", "/metrics"}


def lightened(case: Any, name: str, is_good: bool) -> None:
    """Little work for the model, and half of the cases about something that there is."""
    if is_good and "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = name
    body = case.body
    if not isinstance(body, dict) or "messages" not in body:
        return
    longest = body.get("max_tokens")
    if longest is None or (isinstance(longest, int) and longest > MOST):
        body["max_tokens"] = MOST
    body.pop("max_completion_tokens", None)
    if is_good:
        body["messages"] = GOOD


CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.response_headers_conformance,
]


def sent(operation: Any, mode: Any, count: int, name: str) -> tuple[list[int], str]:
    """Send drawn requests to a route, in its description's sense or against it; the statuses that came, and what was wrong."""
    statuses: list[int] = []

    @settings(
        max_examples=max(1, count), deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), is_good=st.booleans())
    def send(case: Any, is_good: bool) -> None:
        lightened(case, name, is_good)
        response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    try:
        send()
    except Unsatisfiable:  # whatever is sent there is as described
        assert mode is schemathesis.GenerationMode.NEGATIVE
    except schemathesis.errors.FailureGroup as error:
        return statuses, f"{operation.method} {operation.path}: {error}"
    return statuses, ""


def test_drawn_requests_are_answered_as_described(described, kept, post):
    operations = [found.ok() for found in described.get_all_operations()]
    share = CASES // 2 // max(1, len(operations) - 1)
    statuses: list[int] = []
    wrong: list[str] = []
    for operation in operations:
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.body or operation.path_parameters or operation.query:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        count = CASES // 2 if operation.path == ASK else share
        for mode in modes if operation.method.upper() != "DELETE" else ():
            found, problem = sent(operation, mode, count // len(modes), kept)
            statuses += found
            wrong += [problem] * bool(problem)
    assert not wrong, "\n\n".join(wrong)
    assert {200, 400} <= set(statuses)
    assert_well(post)


# -- made to hurt --------------------------------------------------------------------------------------------------------------


def assert_well(post: Post) -> None:
    """A good question is answered right."""
    found = post({"messages": GOOD, "max_tokens": MOST})
    expected = vila_lab.load().ask("Hello", max_new_tokens=MOST).text
    assert (found.status_code, found.json()["choices"][0]["message"]["content"]) == (200, expected)


def assert_refused(response: httpx.Response, *words: str) -> str:
    """A refusal in OpenAI's form that is short and tells nothing of the machine; returns its message."""
    assert 400 <= response.status_code < 500, response.text[:500]
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["code"] == response.status_code
    assert len(response.content) < 10_000
    assert not PLACES.search(error["message"]), error["message"]
    assert all(word in error["message"] for word in words), error["message"]
    return str(error["message"])


def nested(depth: int, inner: str = "") -> str:
    return "[" * depth + inner + "]" * depth


def written(field: str) -> bytes:
    """A body with another field, which stands as it is written."""
    return (json.dumps({"messages": GOOD, "max_tokens": MOST})[:-1] + f", {field}}}").encode()


def content(part: str) -> bytes:
    return f'{{"messages": [{{"role": "user", "content": [{part}]}}]}}'.encode()


SCHEMA = '"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": %s}}'
HOSTILE = {
    "nothing": b"", "no JSON": b"{", "null": b"null", "a list": b"[]", "a text": b'"x"', "no UTF-8": b"\xff\xfe\x00", "zeros": bytes(1000),
    "deep": nested(100_000).encode(), "deep messages": b'{"messages": %s}' % nested(900).encode(),
    "deep text": content(f'{{"type": "text", "text": {nested(900)}}}'), "deep type": content(f'{{"type": {nested(900)}}}'),
    "deep role": b'{"messages": [{"role": %s, "content": "x"}]}' % nested(900).encode(), "deep option": written(f'"conv_mode": {nested(900)}'),
    "deep schema": written(SCHEMA % ('{"not": ' * 200 + "{}" + "}" * 200)), "deep enum": written(SCHEMA % f'{{"enum": {nested(900)}}}'),
    "schema of nothing": written(SCHEMA % "null"), "schema elsewhere": written(SCHEMA % '{"$ref": "http://127.0.0.1:1/x"}'),
    "endless digits": written('"seed": 1' + "0" * 5000), "many digits": written('"max_completion_tokens": 1' + "0" * 400),
    "NaN": written('"temperature": NaN'), "infinite": written('"temperature": Infinity'), "too large a float": written('"temperature": 1e999'),
    "NaN in a schema": written(SCHEMA % '{"minimum": NaN}'),
    "half a character": b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a role": b'{"messages": [{"role": "\\ud800", "content": "x"}]}',
    "half a type": content('{"type": "\\ud800"}'), "half a name": written('"\\ud800": 1'), "half an option": written('"conv_mode": "\\ud800"'),
    "half a choice": written('"response_format": ["\\ud800"]'), "half a schema": written(SCHEMA % '{"enum": ["\\ud800"]}'),
    "half base64": content('{"type": "image_url", "image_url": {"url": "data:image/png;base64,\\ud800"}}'),
    "half an address": content('{"type": "image_url", "image_url": {"url": "data:image/png,\\ud800"}}'),
    "a null character": b'{"messages": [{"role": "user", "content": "a\\u0000b"}]}',
    "a long role": json.dumps({"messages": [{"role": "a" * 10**7, "content": "x"}]}).encode(),
    "a long type": content(json.dumps({"type": "a" * 10**7})), "a long option": written(f'"conv_mode": "{"a" * 10**7}"'),
    "10^5 messages": json.dumps({"messages": GOOD * 10**5}).encode(), "10^5 parts": content(",".join(['{"type": "text", "text": "a"}'] * 10**5)),
    "10^7 characters": json.dumps({"messages": [{"role": "user", "content": "word " * 2 * 10**6}]}).encode(),
    "no content": b'{"messages": [{"role": "user"}]}', "nothing to ask": b'{"messages": [{"role": "user", "content": []}]}',
    "a number": b'{"messages": [{"role": "user", "content": 1}]}', "a part that is a text": content('"x"'), "a part that is null": content("null"),
    "an address that is a number": content('{"type": "image_url", "image_url": 1}'), "no address": content('{"type": "image_url"}'),
    "an address of nothing": content('{"type": "image_url", "image_url": {"url": "data:nothing"}}'),
    "no base64": content('{"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}}'),
    "an empty stop": written('"stop": [""]'), "17 answers": written('"n": 17'), "an unknown field": written('"colour": "red"'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_refused(name, post):
    assert_refused(post(HOSTILE[name]))
    assert_well(post)


VALUES = [
    None, True, -1, 0, 1.5, 1e-40, 1e308, 10**30, float("nan"), "x", "", "\ud800", [], {}, [[]], [None], ["x"], [-1], {"a": {}}, [{}],
]  # fmt: skip


def assert_answered_or_refused(response: httpx.Response) -> None:
    if response.status_code != 200:
        assert_refused(response)


def test_wrong_types_everywhere(app, post):
    """Each field of the description, and each of what is asked beyond OpenAI's words, with a value of every kind."""
    schemas = app.openapi()["components"]["schemas"]
    for name in schemas["Body"]["properties"]:
        for value in VALUES:
            assert_answered_or_refused(post({"messages": GOOD, "max_tokens": MOST, name: value}))
    for name in schemas["Wanted"]["properties"]:
        for value in VALUES:
            assert_answered_or_refused(post({"messages": GOOD, "max_tokens": MOST, "vila_lab": {name: value}}))
    assert_well(post)


EXPERIMENTS = [
    {"name": "flow", "record": 1}, {"name": "flow", "replay": 1}, {"name": "flow", "self": 1}, {"name": "attribute"}, {"name": "patch_scan"},
    {"name": "patch_scan", "from_record": 1}, {"name": "patch_scan", "from_answer": 1}, {"name": "attribute", "method": ["x"]},
    {"name": "attribute", "method": "shapley", "token": "x"}, {"name": "attribute", "method": "shapley", "token": 10**30},
    {"name": "attribute", "method": "\ud800"}, {"name": "__init__"}, {"name": ["flow"]}, {"name": "flow", "edges": {"a": [1]}}, {},
]  # fmt: skip
EDITS = [
    {"edit": "__class__"}, {"edit": "unload"}, {"edit": "ask"}, {"edit": "on_attention", "function": "x"}, {"edit": ["knockout"]}, {}, {"edit": "patch"},
    {"edit": "knockout", "edge": 1}, {"edit": "knockout", "edge": "text -> answer", "layers": [10**30]}, {"edit": "knockout", "self": 1},
    {"edit": "knockout", "edge": "text -> answer", "layers": "all"}, {"edit": "knockout", "edge": "\ud800 -> answer"},
    {"edit": "scale_heads", "heads": [[0, 0]], "factor": float("nan")}, {"edit": "steer", "source": {"a": 1}}, {"edit": "patch", "from_answer": "x"},
]  # fmt: skip


@pytest.mark.parametrize(
    "asked", [*({"experiments": [each]} for each in EXPERIMENTS), *({"edits": [each]} for each in EDITS)], ids=repr
)
def test_hostile_experiments_and_edits_are_refused(asked, post):
    assert_refused(post({"messages": GOOD, "max_tokens": MOST, "vila_lab": asked}))


@pytest.mark.parametrize("asked", EXPERIMENTS, ids=repr)
def test_hostile_options_of_an_experiment_are_refused(asked, post, kept):
    name = asked.get("name", "flow")
    options = {key: value for key, value in asked.items() if key != "name"} or {"name": "flow"}
    assert_refused(post(options, f"/v1/answers/{kept}/experiments/{name}"))
    assert_refused(post(b'{"a": %s}' % nested(900).encode(), f"/v1/answers/{kept}/experiments/attribute"))


# -- pictures ------------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, rows: int, *more: bytes) -> bytes:
    """A PNG of one bit a pixel with some rows of zeros, and further chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    extra = b"".join(chunk(each[:4], each[4:]) for each in more)
    pixels = zlib.compress(bytes((1 + (width + 7) // 8) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def written_as(kind: str, side: int = 32, **options: Any) -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(found, kind, **options)
    return found.getvalue()


def showing(*pictures: bytes) -> dict[str, Any]:
    urls = [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures]
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": "What is it?"}]}],
        "max_tokens": MOST,
    }


PNG = written_as("PNG")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
BAD = {
    "60000 x 60000": png(60_000, 60_000, 1), "0 x 0": png(0, 0, 0), "nothing": b"", "a text": b"hello", "a head alone": PNG[:30], "half": PNG[: len(PNG) // 2],
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg with a head": b"<?xml version='1.0'?><svg/>",
    "a program": EPS, "a program in a shell": b"\xc5\xd0\xd3\xc6" + struct.pack("<6IH", 32, len(EPS), 0, 0, 0, 0, 0xFFFF) + b"\0\0" + EPS,
    "a text that unpacks to 200 MB": png(8, 8, 8, b"zTXta\0\0" + zlib.compress(bytes(2 * 10**8), 9)), "a video": b"\0\0\0\x20ftypisom" + bytes(100),
    "a page": b"<!doctype html><html/>", "an archive": b"PK\x03\x04" + bytes(100),
}  # fmt: skip
FINE = {
    "gif": written_as("GIF", save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")] * 3), "webp": written_as("WEBP"),
    "1 x 1": png(1, 1, 1), "60000 x 1": png(60_000, 1, 1), "1 x 60000": png(1, 60_000, 60_000), "far more rows": png(8, 8, 10**7),
    "far fewer rows": png(4000, 4000, 1), "no end": PNG[:-12],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_poisoned_picture_is_told_by_its_number(name, post):
    """And the good ones beside it are no help: nothing of the request is answered."""
    assert_refused(post(showing(PNG, BAD[name], PNG)), "picture 2 of 3")
    assert_well(post)


@pytest.mark.parametrize("name", FINE)
def test_odd_pictures_are_read(name, post):
    found = post(showing(FINE[name], PNG))
    assert found.status_code == 200, found.text


def test_pixels_of_a_request_are_bounded_before_they_are_unpacked(post):
    """Each is within what Pillow reads; three of 20 kB would be 1.5 GB."""
    assert_refused(post(showing(*[png(13_000, 13_000, 13_000)] * 3)), "pixels")


def test_how_many_pictures(post):
    small = written_as("PNG", 8)
    assert re.search(r"\d", assert_refused(post(showing(*[small] * 800)), "800 pictures"))
    found = post(showing(*[small] * 12))
    assert found.status_code == 200
    assert found.json()["usage"]["prompt_tokens"] > 400
    assert_well(post)


def tables(place: str) -> dict[str, Any]:
    """Messages that name a file or an address where the service would not look for one."""
    good = {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    named = {name: place for name in ("image", "path", "url", "source", "base64", "data", "image_pil")}
    inside = {"type": "image_url", "image_url": {**named, **good}}
    return {
        "a second key": [{"role": "user", "content": [{"type": "image_url", "image_url": good, "image": place}]}],
        "all keys": [{"role": "user", "content": [{"type": "image_url", **named, "image_url": good}]}],
        "a key inside": [{"role": "user", "content": [inside]}],
        "a table in a table": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": {"url": place}}}]}
        ],
        "a content that is a table": [{"role": "user", "content": {"type": "image", "image": place}}],
        "a content of the other type": [
            {"role": "user", "content": {"type": "image_url", "image_url": {"url": place}}}
        ],
        "no role": [{"type": "image", "image": place}],
        "no role, with a text": [{"type": "image_url", "image_url": place}, {"type": "text", "text": "x"}],
        "a key of a text": [{"role": "user", "content": [{"type": "text", "text": "x", "image": place}]}],
        "another spelling": [{"role": "user", "content": [{"type": "input_image", "image_url": place}]}],
        "a text": [{"role": "user", "content": place}],
        "a text part": [{"role": "user", "content": [{"type": "text", "text": place}]}],
        "no data": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{place}"}}]}],
    }


PLACE = str(Path(vila_lab.demo_images() / "g.png"))


@pytest.mark.parametrize("place", [PLACE, f"file://{PLACE}", "http://127.0.0.1:9/a.png"], ids=["path", "file", "http"])
@pytest.mark.parametrize("form", tables(""))
def test_no_table_of_a_client_opens_a_file_or_an_address(form, place, post, monkeypatch):
    opened: list[Any] = []
    for name in ("open_file", "fetch"):
        monkeypatch.setattr(f"vila_lab.picture.{name}", lambda source: opened.append(source) or io.BytesIO(PNG))
    assert_answered_or_refused(post({"messages": tables(place)[form], "max_tokens": MOST}))
    assert opened == []
