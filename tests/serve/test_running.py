"""A server as a process: what it opens to whom, what it refuses to start with, and that it ends when it is told to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from vila_lab import resident
from vila_lab.cli import main
from vila_lab.errors import OptionError
from vila_lab.serve.doors import HEADERS, OPEN, OPEN_BELOW
from vila_lab.serve.settings import TOKEN, Settings, tell

OWN, ANA = "a-token-of-the-tests", "a-token-of-anas"
ASKED = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400, "temperature": 50, "n": 16}
SHORT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


# -- what it is told ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(f'[ana]\ntoken = "{ANA}"\nquestions_per_hour = 2\n[ben]\ntoken = "a-token-of-bens"\n')
    path.chmod(0o600)
    return path


@pytest.fixture
def said(monkeypatch, capsys) -> Callable[..., tuple[int, list[str]]]:
    """What a command says that must neither load nor listen."""

    def never(*given: Any, **options: Any) -> Any:
        raise AssertionError("this starts something")

    monkeypatch.setattr(resident, "load", never)
    monkeypatch.setattr(socket.socket, "bind", never)
    monkeypatch.setattr(socket.socket, "listen", never)
    monkeypatch.setenv(TOKEN, OWN)

    def command(*arguments: str) -> tuple[int, list[str]]:
        status = main(["serve", *arguments])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err.splitlines()

    return command


def test_a_check_says_what_is_open_to_whom_and_starts_nothing(said, tokens):
    status, lines = said("--check", "--tokens", str(tokens), "--time-limit", "12.5")
    text = "\n".join(lines)
    assert status == 0
    assert lines[0] == "http://127.0.0.1:8000: open to this machine alone, without TLS"
    for words in (
        f"no token is needed for: {', '.join(OPEN)}, {OPEN_BELOW}...", "token of owner (VILA_LAB_TOKEN): no quota",
        "token of ana: 2 questions an hour", "token of ben: no quota", "pictures of other servers: not fetched", "64 MiB", "a question: 12.5 s",
    ):  # fmt: skip
        assert words in text
    assert "warning" not in text
    assert not any(token in text for token in (OWN, ANA, "a-token-of-bens"))


def test_a_check_warns_of_what_is_open_to_many(said, tokens, monkeypatch):
    monkeypatch.delenv(TOKEN)
    tokens.chmod(0o644)
    _, lines = said("--check", "--host", "0.0.0.0", "--port", "0", "--allow-remote-images", "--tokens", str(tokens))
    text = "\n".join(lines)
    assert "http://0.0.0.0:0 (a free port): open to everybody on the network" in text
    assert "fetched from any public address" in text
    assert "token of owner (made at the start and printed once)" in text
    assert [line.split(":")[0] for line in lines if "warning" in line] == ["warning", "warning"]
    _, lines = said("--check", "--allow-remote-images", "--allowed-media-domains", "a.example, b.example")
    assert "pictures of other servers: fetched from a.example, b.example" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "--port 99999 is no port"), (["--port", "-1"], "--port -1"), (["--host", " "], "--host is empty"),
        (["--time-limit", "0"], "--time-limit 0"), (["--time-limit", "nan"], "--time-limit nan"), (["--time-limit", "inf"], "--time-limit inf"),
        (["--tokens", "/nowhere/t.toml"], "--tokens /nowhere/t.toml: it cannot be read"), (["--tls-cert", "a.pem"], "--tls-cert needs --tls-key"),
        (["--tls-key", "a.pem"], "--tls-key needs --tls-cert"), (["--tls-cert", "/nowhere/a.pem", "--tls-key", "b.pem"], "--tls-cert /nowhere/a.pem"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_what_makes_no_sense_is_one_line_before_anything_starts(said, arguments, words, check):
    status, lines = said(*arguments, *check)
    assert status == 2
    (line,) = [line for line in lines if line.startswith("vila-lab: ")]
    assert words in line


def test_a_token_of_the_environment_must_be_one(said, monkeypatch):
    for token in ("short", "with a blank in it", "ünïcödé-tökén"):
        monkeypatch.setenv(TOKEN, token)
        status, lines = said("--check")
        assert (status, lines) == (2, [f"vila-lab: {TOKEN} must have at least 8 characters, plain ones and no blanks"])


def test_a_token_of_the_file_must_not_be_the_owners(tokens, monkeypatch):
    monkeypatch.setenv(TOKEN, ANA)
    with pytest.raises(OptionError, match="ana has the same token as owner"):
        tell(Settings(tokens=tokens), pytest.fail)


@pytest.mark.parametrize(
    ("host", "address", "is_local"),
    [
        ("127.0.0.1", "http://127.0.0.1:1", True), ("127.1.2.3", "http://127.1.2.3:1", True), ("::1", "http://[::1]:1", True),
        ("localhost", "http://localhost:1", True), ("0.0.0.0", "http://0.0.0.0:1", False), ("::", "http://[::]:1", False),
        ("192.0.2.1", "http://192.0.2.1:1", False), ("localhost.example", "http://localhost.example:1", False),
    ],
)  # fmt: skip
def test_who_can_reach_an_address(host, address, is_local):
    settings = Settings(host=host, names=("lab.example",))
    assert (settings.address(1), settings.is_local) == (address, is_local)
    assert {host, "localhost", "lab.example"} <= set(settings.hosts)
    assert (socket.gethostname() in settings.hosts) == (host in ("0.0.0.0", "::"))


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    """Makes a certificate for this machine, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make certificates with")

    def make(*options: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("tls")
        cert, key = folder / "cert.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command += ["-keyout", str(key), "-out", str(cert), *(options or ("-nodes",))]
        subprocess.run(command, check=True, capture_output=True)
        return cert, key

    return make


def test_a_certificate_and_a_key_that_do_not_fit_are_told(pair, tmp_path):
    (cert, key), (_, other), (_, locked) = pair(), pair(), pair("-passout", "pass:secret")
    assert Settings(tls_cert=cert, tls_key=key).address(1) == "https://127.0.0.1:1"
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for certificate, private, words in (
        (cert, other, f"--tls-key {other} does not belong to --tls-cert {cert}"),
        (text, key, f"--tls-cert {text}: it holds no certificate"), (key, key, f"--tls-cert {key}: it holds no certificate"),
        (cert, text, f"--tls-key {text}: it holds no private key"), (cert, cert, f"--tls-key {cert}: it holds no private key"),
        (cert, locked, f"--tls-key {locked}: it holds no private key in PEM form without a password"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=re.escape(words)):
            Settings(tls_cert=certificate, tls_key=private)


# -- processes ---------------------------------------------------------------------------------------------------------


class Process:
    """A server on the embedded model, up to its end."""

    def __init__(self, *arguments: str, code: str = "") -> None:
        environment = {**os.environ, TOKEN: OWN, "OMP_NUM_THREADS": "1"}
        start = ["-c", f"import sys; sys.argv[0] = 'vila-lab'\n{code}\nfrom vila_lab.cli import main; sys.exit(main())"]
        command = [sys.executable, *(start if code else ["-m", "vila_lab.cli"]), "serve", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()))
        self._reader.start()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def address(self) -> str:
        """Where it is, once it answers there."""
        end = time.monotonic() + 60
        while not (found := re.search(r"^(https?://\S+) serves", self.log, re.MULTILINE)):
            assert time.monotonic() < end, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        return found[1]

    def end(self, seconds: float) -> int:
        """Wait for its end; its status."""
        status = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def family(self) -> list[int]:
        """Its children, and theirs."""
        found, left = list[int](), [self.process.pid]
        while left:
            done = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(left.pop())], capture_output=True, text=True, check=False
            )
            found += (new := [int(each) for each in done.stdout.split()])
            left += new
        return found


@pytest.fixture
def serve() -> Iterator[Callable[..., Process]]:
    """Starts servers, and leaves none behind."""
    started: list[Process] = []

    def start(*arguments: str, code: str = "") -> Process:
        started.append(Process(*arguments, code=code))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.end(10)


def client(address: str, token: str = OWN, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60, **options)


def ready(own: httpx.Client) -> bool:
    """Whether it answers; its socket listens a moment after its address is said."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return own.get("/readyz").status_code == 200
        except httpx.ConnectError:
            time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_class_is_served_and_what_was_killed_starts_again(serve, pair, tokens):
    cert, key = pair()
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--tokens", str(tokens))
    first = serve("--port", "0", *flags)
    address = first.address()
    assert address.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(cert))
    with client(address, ANA, verify=trusting) as ana, client(address, verify=trusting) as owner:
        assert ready(ana)
        answers = [ana.post(ASKED, json=SHORT) for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        assert 0 < int(answers[2].headers["Retry-After"]) <= 3600
        assert answers[2].json()["error"]["type"] == "rate_limit_error"
        assert owner.post(ASKED, json=SHORT).status_code == 200
        assert ana.get("/v1/models").status_code == 200
        assert ana.get("/v1/models", headers={"Authorization": "Bearer a-guess-of-mine"}).status_code == 401
        for found in (answers[0], ana.get("/readyz"), ana.options(ASKED, headers={"Origin": "https://evil.example"})):
            assert {name: found.headers[name] for name in HEADERS} == HEADERS
            assert not [name for name in found.headers if name.startswith("access-control-")]
    with pytest.raises(httpx.HTTPError):
        httpx.get(address.replace("https", "http") + "/readyz")
    first.process.kill()
    assert first.end(10) == -signal.SIGKILL
    port = address.rpartition(":")[2]
    second = serve("--port", port)
    address = second.address()
    assert address == f"http://127.0.0.1:{port}"
    with client(address) as owner:
        assert ready(owner)
        with ThreadPoolExecutor() as pool:
            long = [pool.submit(owner.post, ASKED, json={**LONG, "seed": seed}) for seed in range(6)]
            end = time.monotonic() + 10
            while "vila_lab_num_requests_waiting 5.0" not in (figures := owner.get("/metrics").text):
                assert time.monotonic() < end, figures
            family, start = second.family(), time.monotonic()
            second.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            late = httpx.post(f"{address}{ASKED}", json=SHORT, headers=owner.headers)
            assert (late.status_code, late.json()["error"]["message"]) == (503, "the server is shutting down")
            assert late.headers["Retry-After"]
            assert second.end(15) == -signal.SIGTERM
            assert time.monotonic() - start < 15
            ended = [each.exception() or each.result() for each in long]
    assert 503 in [each.status_code for each in ended if isinstance(each, httpx.Response)]
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    for each in (first, second):
        assert "Traceback" not in each.log
        assert OWN not in each.log
        assert ANA not in each.log


HANGING = """
from vila_lab.serve import running, worker
def hang(self, seconds):
    import time; time.sleep(1000)
worker.Worker.close = hang
running.LAST = float({last})
"""


@pytest.mark.slow
@pytest.mark.parametrize("second", [None, signal.SIGTERM, signal.SIGINT])
def test_what_hangs_ends_too_and_at_once_after_a_second_signal(serve, second):
    """The worker does not close, as if a kernel did not return."""
    server = serve("--port", "0", code=HANGING.format(last=2 if second is None else 1000))
    with client(server.address()) as own:
        assert ready(own)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert server.process.poll() is None
    start = time.monotonic()
    if second is not None:
        server.process.send_signal(second)
    assert server.end(15) == -(second or signal.SIGTERM)
    assert time.monotonic() - start < (1 if second else 5)
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_an_address_that_is_taken_is_told_before_a_model_is_loaded(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve("--port", str(port), code="from vila_lab import resident; resident.load = None")
        assert server.end(60) == 2
        assert f"127.0.0.1:{port} cannot be listened on" in server.log
        assert "Traceback" not in server.log
