"""Tokens, quotas and the doors that ask for them, before an app that says who came in."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI

from vila_lab.errors import FileAccessError, OptionError
from vila_lab.serve import doors
from vila_lab.serve.doors import HEADERS, Doors
from vila_lab.serve.failures import Busy
from vila_lab.serve.tokens import HOUR, Owner, Owners, Quotas, owners_of, read_owners

ANA, BEN = "a-token-of-anas", "a-token-of-bens"
ASKED = "/v1/chat/completions"
HOST = "localhost:8000"


# -- the file ----------------------------------------------------------------------------------------------------------


def written(folder: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "tokens.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_a_file_names_owners_and_quotas(tmp_path):
    said: list[str] = []
    path = written(tmp_path, f'\ufeff[ana]\ntoken = "{ANA}"\nquestions_per_hour = 200\n[" 李雷"]\ntoken = "{BEN}"\n')
    assert read_owners(path, said.append) == [Owner("ana", ANA, 200), Owner(" 李雷", BEN)]
    assert said == []
    assert ANA not in repr(read_owners(path, said.append))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_open_is_told(tmp_path, mode, monkeypatch):
    said: list[str] = []
    path = written(tmp_path, f'[ana]\ntoken = "{ANA}"\n', mode)
    assert len(read_owners(path, said.append)) == 1
    assert len(said) == 1
    assert str(path) in said[0]
    assert "chmod 600" in said[0]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert len(read_owners(path, pytest.fail)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f'[ana]\ntoken = "{ANA}', "no TOML"), (b"[ana]\ntoken = \xff", "no TOML"), ("", "names nobody"), ('ana = "x"', "ana is no table"),
        ("[ana]", "ana has no token"), ('[ana]\ntoken = "secret"', "token of ana must have at least 8"), ("[ana]\ntoken = 12345678", "token of ana"),
        ('[ana]\ntoken = "secret secret"', "token of ana"), ('[ana]\ntoken = "secretsecrét"', "token of ana"),
        ('[ana]\ntoken = "secret\\nsecret"', "token of ana"), (f'[ana]\ntoken = "{ANA}"\nquota = 3', "ana has quota"),
        (f'[ana]\ntoken = "{ANA}"\nquestions_per_hour = 0', "questions_per_hour of ana"),
        (f'[ana]\ntoken = "{ANA}"\nquestions_per_hour = true', "questions_per_hour of ana"),
        (f'[ana]\ntoken = "{ANA}"\nquestions_per_hour = 1.5', "questions_per_hour of ana"),
        (f'[ana]\ntoken = "{ANA}"\n[ben]\ntoken = "{ANA}"', "ben has the same token as ana"),
        (f'[owner]\ntoken = "{ANA}"', "choose another name"), (f'[""]\ntoken = "{ANA}"', "the name ''"),
        (f'["a\\nb"]\ntoken = "{ANA}"', "the name"), (f'["{"a" * 65}"]\ntoken = "{ANA}"', "the name"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_one_sentence_without_the_token(tmp_path, content, words):
    path = written(tmp_path, content)
    with pytest.raises(OptionError) as caught:
        read_owners(path, pytest.fail)
    message = str(caught.value)
    assert message.startswith(f"--tokens {path}: ")
    assert words in message
    assert "\n" not in message
    assert not any(token in f"{message}{caught.value.__cause__}" for token in (ANA, "secret", "12345678"))


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    for path in (tmp_path / "missing.toml", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(FileAccessError, match=f"--tokens {path}: it"):
            read_owners(path, pytest.fail)


# -- owners and quotas -------------------------------------------------------------------------------------------------


def test_tokens_are_told_apart():
    owners = owners_of({"ana": ANA, "ben": BEN})
    assert owners_of(owners) is owners
    assert owners.names() == ("ana", "ben")
    assert [owners.of(token) for token in (ANA, BEN)] == ["ana", "ben"]
    assert [owners.of(token) for token in ("", ANA[:-1], ANA + "x", ANA.upper(), "é", "\udcff")] == [None] * 6
    for owner, words in ((Owner("ana", "another-token"), "ana has a token"), (Owner("cy", BEN), "same token as ben")):
        with pytest.raises(OptionError, match=words):
            owners.add(owner)
    assert owners.names() == ("ana", "ben")


def test_owners_come_from_many_threads():
    owners, refused = Owners(), []

    def some(first: int) -> None:
        for number in range(first, first + 40):
            try:
                owners.add(Owner(f"name {number}", f"token-number-{number}"))
            except OptionError:
                refused.append(number)

    threads = [threading.Thread(target=some, args=(first,)) for first in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owners.names()) == sorted(f"name {number}" for number in range(100))
    assert len(refused) == 60
    assert all(owners.of(f"token-number-{number}") == f"name {number}" for number in range(100))


def test_a_quota_is_of_any_hour():
    now = [1000.0]
    quotas = Quotas(Owners([Owner("ana", ANA, 3), Owner("ben", BEN)]), lambda: now[0])
    for moment in (0.0, 10.0, 1800.0):
        now[0] = 1000 + moment
        quotas.take("ana")
    for moment, seconds in ((1800.0, 1800), (1800.5, 1800), (3599.9, 1)):
        now[0] = 1000 + moment
        with pytest.raises(Busy, match="ana has 3 questions an hour") as caught:
            quotas.take("ana")
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": str(seconds)})
    now[0] = 1000 + HOUR  # the first is an hour ago; what was refused did not count
    quotas.take("ana")
    with pytest.raises(Busy) as caught:
        quotas.take("ana")
    assert caught.value.headers == {"Retry-After": "10"}
    for _ in range(1000):
        quotas.take("ben")


def test_a_quota_holds_for_many_threads():
    quotas, taken = Quotas(Owners([Owner("ana", ANA, 50)])), []

    def some() -> None:
        for _ in range(30):
            try:
                quotas.take("ana")
                taken.append(1)
            except Busy:
                pass

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 50


# -- the doors ---------------------------------------------------------------------------------------------------------


class Reply:
    """What an app answered to one request of ASGI."""

    def __init__(self, app: Any, method: str, path: str, chunks: list[bytes | float] = [], **headers: str) -> None:  # noqa: B006
        self.status, self.data, self.headers = 0, b"", dict[str, str]()
        self._left = list(chunks) or [b""]
        sent = {
            "host": HOST,
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()], "asgi": {"version": "3.0"},
        }  # fmt: skip
        asyncio.run(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        """Bytes are sent, and seconds waited for."""
        while self._left and isinstance(self._left[0], float):
            await asyncio.sleep(self._left.pop(0))
        if not self._left:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": self._left.pop(0), "more_body": bool(self._left)}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            assert len({name for name, _ in message["headers"]}) == len(message["headers"])
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        self.data += message.get("body", b"")


def bearer(token: str) -> str:
    return f"Bearer {token}"


@pytest.fixture
def owners() -> Owners:
    return Owners([Owner("ana", ANA, 2), Owner("ben", BEN)])


@pytest.fixture
def behind() -> list[str]:
    """Who came in, by name."""
    return []


@pytest.fixture
def app(owners, behind) -> Doors:
    """Doors before an app that reads bodies as the service does."""
    inner = FastAPI()

    @inner.post(ASKED)
    async def asked(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        return body

    async def known(scope: Any, receive: Any, send: Any) -> None:
        behind.append(scope["vila_lab_client"])
        await inner(scope, receive, send)

    return Doors(known, owners, ("localhost",))


def test_who_has_no_token_stays_outside(app, behind):
    wrong = ("", "Bearer", "Bearer ", f"Basic {ANA}", bearer(ANA + "x"), bearer(ANA[:-1]), bearer(""), ANA, bearer("é"))
    for path in ("/v1/models", "/metrics", ASKED, "/docs/", "/page", "/nowhere", "//", "/readyz/", "/Readyz"):
        for token in wrong:
            found = Reply(app, "POST", path, authorization=token)
            assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(found.data)["error"]["type"] == "authentication_error"
    assert behind == []
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/page/page.js"):
        assert Reply(app, "GET", path).status in (200, 404)
    assert behind == [""] * 5
    assert Reply(app, "POST", ASKED, [b"{}"], authorization=f"bearer {BEN}").status == 200
    assert behind[-1] == "ben"


def test_who_comes_later_is_let_in(app, owners):
    headers = {"authorization": bearer("a-token-to-come")}
    assert Reply(app, "POST", ASKED, [b"{}"], **headers).status == 401
    owners.add(Owner("cy", "a-token-to-come", 1))
    assert [Reply(app, "POST", ASKED, [b"{}"], **headers).status for _ in range(2)] == [200, 429]


def test_a_quota_counts_questions_alone(app):
    mine = {"authorization": bearer(ANA)}
    for method, path in (("GET", "/v1/models"), ("GET", ASKED), ("POST", "/v1/answers"), ("DELETE", "/v1/answers/a")):
        assert {Reply(app, method, path, **mine).status for _ in range(3)} <= {404, 405}
    assert Reply(app, "POST", ASKED, authorization=bearer("a-guess-of-anas")).status == 401
    assert Reply(app, "POST", ASKED, content_length=str(10**10), **mine).status == 413
    assert (
        Reply(app, "POST", "/v1/answers/an-id/experiments/attribution", **mine).status == 404
    )  # counted, and not there
    assert Reply(app, "POST", ASKED, [b"{}"], **mine).status == 200
    found = Reply(app, "POST", ASKED, [b"{}"], **mine)
    assert found.status == 429
    assert 0 < int(found.headers["retry-after"]) <= HOUR
    assert json.loads(found.data)["error"]["type"] == "rate_limit_error"
    assert Reply(app, "GET", "/v1/models", **mine).status == 404
    assert Reply(app, "POST", ASKED, [b"{}"], authorization=bearer(BEN)).status == 200


def test_every_response_is_guarded_and_no_other_origin_let_in(app):
    theirs = {"origin": "https://evil.example", "access_control_request_method": "POST"}
    for method, path, headers in (
        ("OPTIONS", ASKED, theirs), ("OPTIONS", ASKED, {**theirs, "authorization": bearer(BEN)}), ("OPTIONS", "/readyz", theirs),
        ("GET", "/nowhere", {"authorization": bearer(BEN)}), ("GET", "/readyz", {"host": "evil.example"}),
        ("POST", ASKED, {**theirs, "authorization": bearer(BEN)}),
    ):  # fmt: skip
        found = Reply(app, method, path, [b"{}"], **headers)
        assert found.status in (200, 401, 404, 405, 421)
        assert (method == "OPTIONS") <= (found.status != 200)
        assert {name: found.headers.get(name) for name in HEADERS} == HEADERS
        assert not [name for name in found.headers if name.startswith("access-control-")]
    assert "default-src 'none'" in HEADERS["content-security-policy"]


def test_what_a_response_says_itself_stays(owners):
    own = {"Content-Security-Policy": "default-src 'self'", "cache-control": "max-age=60"}

    async def page(scope: Any, receive: Any, send: Any) -> None:
        listed = [(name.encode(), value.encode()) for name, value in own.items()]
        await send({"type": "http.response.start", "status": 200, "headers": listed})
        await send({"type": "http.response.body", "body": b"page"})

    found = Reply(Doors(page, owners, ("localhost",)), "GET", "/")
    said = {name.lower(): value for name, value in found.headers.items()}
    assert said == {**HEADERS, **{name.lower(): value for name, value in own.items()}}


@pytest.mark.parametrize("hosts", [("localhost",), ("localhost", "0.0.0.0"), ("::", "localhost")])
def test_only_its_own_names_and_where_it_is_everywhere_numbers(owners, hosts):
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = Doors(page, owners, hosts)
    numbers = ("10.1.2.3", "10.1.2.3:8000", "[fd00::1]:8000")
    names = ("evil.example", "localhost.evil.example", "10.1.2.3.evil.example", "10.1.2", "", "[::1", "0x7f.1", "::1")
    for host in names:
        assert Reply(app, "GET", "/readyz", host=host).status == 421, host
    for host in numbers:
        assert Reply(app, "GET", "/readyz", host=host).status == (200 if len(hosts) > 1 else 421), host
    assert Reply(app, "GET", "/readyz", host="LOCALHOST:1").status == 200


def test_a_body_is_bounded_in_bytes_and_time(app, monkeypatch):
    monkeypatch.setattr(doors, "LARGEST", 1000)
    monkeypatch.setattr(doors, "BODY_SECONDS", 0.3)
    mine = {"authorization": bearer(BEN)}
    for length in ("1001", "9" * 5000, "-1", "1e3", "²", ""):
        assert Reply(app, "POST", ASKED, [b"{}"], content_length=length, **mine).status == 413, length
    assert Reply(app, "POST", ASKED, [b" " * 600, b" " * 600], **mine).status == 413
    slow: list[bytes | float] = [b"{", 0.2, b" ", 0.2, b"}"]
    found = Reply(app, "POST", ASKED, slow, **mine)
    assert (found.status, json.loads(found.data)["detail"][:20]) == (408, "the request took mor")
    assert Reply(app, "POST", ASKED, [b"{", 0.05, b"}"], **mine).status == 200


def test_no_websocket_is_opened(app, behind):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "websocket", "path": "/readyz", "headers": []}, send, send))
    assert (sent, behind) == (["websocket.close"], [])
