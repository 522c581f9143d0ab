"""The service on Ray Serve: what its options are, and, where Ray starts, that a replica answers as the session does."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from vila_lab.errors import MissingExtra, OptionError
from vila_lab.serve import ray_app
from vila_lab.serve.settings import TOKEN

OWN = "a-token-of-the-tests"
SAID = "answers: "
PROGRAM = f"""
import json, os, sys
import httpx, ray
from ray import serve
from vila_lab.serve.ray_app import build
try:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={{"port": int(sys.argv[1])}})
except Exception as error:
    sys.exit(f"Ray does not start: {{error}}")
serve.run(build({{}}))
with httpx.Client(base_url=f"http://127.0.0.1:{{sys.argv[1]}}", timeout=60) as own:
    told = {{"ready": own.get("/readyz").status_code, "stranger": own.get("/v1/models").status_code}}
    own.headers["Authorization"] = "Bearer " + os.environ["{TOKEN}"]
    question = {{"messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 5}}
    told["text"] = own.post("/v1/chat/completions", json=question).json()["choices"][0]["message"]["content"]
print("{SAID}" + json.dumps(told), flush=True)
serve.shutdown()
ray.shutdown()
"""


def test_without_ray_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.serve", raising=False)
    with pytest.raises(MissingExtra, match=r'pip install "vila-lab\[serve\]" "ray\[serve\]"'):
        ray_app.build({})


class Serve(SimpleNamespace):
    """What of Ray Serve is called, noted."""

    def __init__(self) -> None:
        super().__init__(options={}, app=None, config=SimpleNamespace(RequestRouterConfig=dict))

    def ingress(self, app: Any) -> Any:
        self.app = app
        return lambda: "class"

    def deployment(self, **options: Any) -> Any:
        self.options = options
        return lambda kind: SimpleNamespace(bind=lambda: kind)


@pytest.fixture
def serve(monkeypatch) -> Serve:
    found = Serve()
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=found))
    monkeypatch.setitem(sys.modules, "ray.serve", found)
    monkeypatch.setenv(TOKEN, OWN)
    return found


def test_a_replica_gets_what_was_asked_for(serve, tmp_path, lab):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[ana]\ntoken = "a-token-of-anas"\nquestions_per_hour = 3\n')
    tokens.chmod(0o600)
    assert ray_app.build({"replicas": "3", "gpus": "0.5", "tokens": str(tokens), "hosts": "lab.example"}) == "class"
    assert serve.options["num_replicas"] == 3
    assert serve.options["ray_actor_options"] == {"num_gpus": 0.5}
    app = serve.app()  # as a replica does
    try:
        assert app.state.owners.names() == ("owner", "ana")
        assert app.state.owners.quota("ana") == 3
    finally:
        app.state.worker.close(5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": "red"}, "colour is not known"), ({"replicas": "many"}, "replicas=many is no number"), ({"gpus": "x"}, "gpus=x"),
        ({"replicas": "0"}, "replicas=0"), ({"replicas": "1.5"}, "replicas=1.5"), ({"gpus": "-1"}, "gpus=-1"), ({"time_limit": "0"}, "time-limit 0"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_told(serve, options, words):
    with pytest.raises(OptionError, match=words):
        ray_app.build(options)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("aiorwlock") is None, reason="Ray Serve is not installed")
def test_a_replica_answers_as_the_session(lab):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, TOKEN: OWN, "RAY_USAGE_STATS_ENABLED": "0", ray_app.HEADER_KEY: "authorization"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(port)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    if "Ray does not start" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith(SAID))[len(SAID) :])
    assert told == {"ready": 200, "stranger": 401, "text": lab.ask("Hello", max_new_tokens=5).text}
