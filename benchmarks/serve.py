"""What the service is beside the session in it: as fast, its answers the same to the bit, fair, and flat in memory.

    python benchmarks/serve.py                   # ten minutes on two cores
    python benchmarks/serve.py --rounds 1 --requests 40 --soak 100
    python benchmarks/serve.py --rounds 0 --soak 10000

`vila-lab serve` with the embedded model is a process of its own, and OpenAI's client asks it from threads of this one. The same
requests go to a session here, with as many threads of torch: side by side (`ask_many`) and one by one, which is what every answer
of the service is held against. Service and session take turns, the first round warms up, values are medians, ratios are medians
of the ratios of one round. Half of the requests are about pictures nobody saw before, half about a few that both know; all are
PNG files, and in base64, beforehand. "Rate" is in seconds of the clock, "CPU" in seconds of the processor, which others on the
machine change less; the CPU of the clients is no part of it.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import platform
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import torch
import transformers
from PIL import Image

import vila_lab
from benchmarks.reporting import table
from vila_lab.session import Session

RESULTS = Path(__file__).parent / "results" / "serve.json"
AIMS = {"ready s": 5.0, "service over ask_many": 0.9, "slowest over fastest wait": 2.0, "growth": 0.02}
TOKEN = "a-token-of-the-benchmark"
SIDE = 96  # pixels
LONGEST = 16  # tokens of an answer
ALTERNATIVES = 5
AT_ONCE = 100  # questions of one `ask_many`; a session that holds many more answers is slower by what it holds
CROWD, EACH = 30, 5  # clients at once, and questions of each
QUESTIONS = ("What is in image 1?", "Which picture is the darkest?", "Are all pictures the same?", "第一张图里是什么？")
CACHE = 8 * 2**20  # bytes; small, so that what is kept is full before memory is looked at
SERVE = ["-m", "vila_lab.cli", "serve"]
SMALL = [
    "-c",
    "import functools, sys; from vila_lab import cli, resident; "
    f"resident.load = functools.partial(resident.load, cache_bytes={CACHE}); sys.exit(cli.main(sys.argv[1:]))",
    "serve",
]
"""`vila-lab serve` with less room for what may be computed again."""

Row = dict[str, Any]


# ---- requests --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request as both sides take it."""

    pictures: tuple[bytes, ...]
    text: str
    messages: list[Any] = field(repr=False)

    @classmethod
    def of(cls, pictures: Sequence[bytes], text: str) -> Asked:
        urls = [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures]
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return cls(tuple(pictures), text, [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}])

    @property
    def parts(self) -> list[Any]:
        return [*self.pictures, self.text]


def drawn(generator: np.random.Generator, side: int = SIDE) -> bytes:
    """A picture nobody saw before, as a PNG file: coarse, so that it is no larger than a drawing."""
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST).save(written, "PNG")
    return written.getvalue()


def asked_often() -> list[Asked]:
    """What half of the requests are drawn from: one to four of six pictures, with three questions each."""
    generator = np.random.default_rng(0)
    pictures = [(vila_lab.demo_images() / f"{mark}.png").read_bytes() for mark in "gman"]
    pictures += [drawn(generator) for _ in range(2)]
    starts = itertools.product(range(1, 5), range(3))
    return [Asked.of((pictures * 2)[k : k + count], QUESTIONS[k]) for count, k in starts]


def requests_of(number: int, count: int, often: Sequence[Asked]) -> list[Asked]:
    """The requests of a round, mixed."""
    generator = np.random.default_rng(1000 + number)
    found = []
    for k in range(count):
        if k % 2:
            found.append(often[int(generator.integers(len(often)))])
        else:
            found.append(Asked.of([drawn(generator) for _ in range(1 + k // 2 % 4)], QUESTIONS[k // 8 % 4]))
    return [found[k] for k in generator.permutation(count)]


# ---- the server ------------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    address: str
    ready: float  # seconds from its start until a question could be answered

    def client(self, token: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=token, max_retries=0, timeout=600)

    @property
    def resident(self) -> int:
        """Bytes of its resident set."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    @property
    def cpu(self) -> float:
        """Seconds of the processor until now."""
        said = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(command: Sequence[str], threads: int, names: Sequence[str] = ()) -> Iterator[Server]:
    """A server, from its start to its end; each name is also the token of a client."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        people = Path(folder) / "tokens.toml"
        people.write_text("".join(f'[{name}]\ntoken = "{name}"\n' for name in names), encoding="utf-8")
        people.chmod(0o600)
        given = ["--port", "0", *(["--tokens", str(people)] if names else [])]
        environment = {**os.environ, "VILA_LAB_TOKEN": TOKEN, "OMP_NUM_THREADS": str(threads)}
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, *command, *given], stderr=log, env=environment)
        try:
            address = _address(process, Path(folder) / "log")
            while httpx.get(f"{address}/readyz", timeout=60).status_code != 200:
                time.sleep(0.01)
            yield Server(process, address, time.monotonic() - start)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server listens; it says so when it is about to."""
    while True:
        for line in log.read_text(encoding="utf-8").splitlines():
            if " serves " in line:
                return _listening(line.split()[0])
        if process.poll() is not None:
            raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.01)


def _listening(address: str) -> str:
    while True:
        try:
            httpx.get(f"{address}/healthz", timeout=60)
        except httpx.TransportError:
            time.sleep(0.01)
        else:
            return address


# ---- what is told ----------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """An answer as it was told, and when; the texts alone where there was an error."""

    text: str = ""
    logprobs: tuple[tuple[float, ...], ...] = ()
    seconds: float = 0.0
    first: float | None = None
    error: str = ""


def ask(client: openai.OpenAI, asked: Asked, stream: bool, **options: Any) -> Told:
    """Ask the service; an error is told as one."""
    start = time.monotonic()
    try:
        found = (_streamed if stream else _whole)(client, asked, start, **options)
    except openai.OpenAIError as error:
        found = Told(error=str(error))
    found.seconds = time.monotonic() - start
    return found


def _whole(client: openai.OpenAI, asked: Asked, start: float, **options: Any) -> Told:
    told = client.chat.completions.create(model="embedded", messages=asked.messages, **options)
    scores = told.choices[0].logprobs
    return Told(told.choices[0].message.content or "", _scores(scores.content if scores else None))


def _streamed(client: openai.OpenAI, asked: Asked, start: float, **options: Any) -> Told:
    found, said = Told(), []
    for chunk in client.chat.completions.create(model="embedded", messages=asked.messages, stream=True, **options):
        for choice in chunk.choices:
            content = choice.logprobs.content if choice.logprobs else None
            if found.first is None and (content or choice.delta.content):
                found.first = time.monotonic() - start
            said.append(choice.delta.content or "")
            found.logprobs += _scores(content)
    found.text = "".join(said)
    return found


def _scores(tokens: Any) -> tuple[tuple[float, ...], ...]:
    """Of every token its logprob, and those of the most probable ones."""
    return tuple((each.logprob, *(other.logprob for other in each.top_logprobs)) for each in tokens or ())


def at_once(work: Callable[[int], Any], clients: int) -> list[Any]:
    """What every client's work gives."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(work, range(clients)))


def in_turns(server: Server, clients: int, count: int, work: Callable[[openai.OpenAI, int], None]) -> None:
    """Clients who each take the next number as soon as they are done with the one before."""
    numbers = queue.SimpleQueue[int]()
    for number in range(count):
        numbers.put(number)

    def client_works(_: int) -> None:
        client = server.client()
        with suppress(queue.Empty):
            while True:
                work(client, numbers.get_nowait())

    at_once(client_works, clients)


def asked_by(server: Server, requests: Sequence[Asked], clients: int) -> list[Told]:
    """What the service answers to clients who take the next request as soon as they have an answer; every other one streams."""
    told: list[Told] = [Told()] * len(requests)
    options = {"max_tokens": LONGEST, "logprobs": True, "top_logprobs": ALTERNATIVES}

    def work(client: openai.OpenAI, number: int) -> None:
        told[number] = ask(client, requests[number], number % 2 == 1, **options)

    in_turns(server, clients, len(requests), work)
    return told


# ---- rate and answers ------------------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """What a variant took."""

    seconds: float
    cpu: float
    answers: list[Any]


def from_service(server: Server, requests: Sequence[Asked], clients: int) -> Spent:
    start, cpu = time.monotonic(), server.cpu
    told = asked_by(server, requests, clients)
    return Spent(time.monotonic() - start, server.cpu - cpu, told)


def from_session(lab: Session, requests: Sequence[Asked], often: Sequence[Asked], *, many: bool) -> Spent:
    """What a session answers that has been asked often, as the service has."""
    options: dict[str, Any] = {"max_new_tokens": LONGEST, "logprobs": ALTERNATIVES}
    lab.forget()
    for each in often:
        lab.ask(each.parts, **options)
    start, cpu, told = time.monotonic(), time.process_time(), []
    for begin in range(0, len(requests), AT_ONCE if many else 1):
        prompts = [each.parts for each in requests[begin : begin + (AT_ONCE if many else 1)]]
        answers = lab.ask_many(prompts, **options) if many else [lab.ask(*prompts, **options)]
        told += [Told(answer.text, tuple(map(_scored, answer.tokens))) for answer in answers]
    return Spent(time.monotonic() - start, time.process_time() - cpu, told)


def _scored(token: Any) -> tuple[float, ...]:
    return (token.logprob, *(logprob for _, _, logprob in token.alternatives))


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def compared(told: Sequence[Told], expected: Sequence[Told]) -> Row:
    """How many answers are those of the session, in words and to the bit."""
    pairs = list(zip(told, expected, strict=True))
    off = [
        abs(a - b)
        for one, other in pairs
        for x, y in zip(one.logprobs, other.logprobs, strict=False)
        for a, b in zip(x, y, strict=False)
    ]
    return {
        "errors": sum(bool(each.error) for each in told),
        "texts equal": sum(a.text == b.text and not a.error for a, b in pairs),
        "equal to the bit": sum(a.logprobs == b.logprobs and not a.error for a, b in pairs),
        "largest difference of a logprob": max(off, default=0.0),
    }


def rates(
    servers: Mapping[str, Server], lab: Session, rounds: int, count: int, clients: int
) -> tuple[list[Row], list[Row], list[Row]]:
    """Services, by how they answer, beside the session: rates, waits, and answers."""
    often, runs, same = asked_often(), [], []
    told: dict[str, list[Told]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        requests = requests_of(number, count if number else min(count, 40), often)
        turns: dict[str, Callable[[], Spent]] = {
            **{
                name: lambda asked=requests, server=server: from_service(server, asked, clients)
                for name, server in servers.items()
            },
            "ask_many": lambda asked=requests: from_session(lab, asked, often, many=True),
            "one by one": lambda asked=requests: from_session(lab, asked, often, many=False),
        }
        spent = {name: turns[name]() for name in (turns if number % 2 else reversed(turns))}
        if number:
            runs.append(spent)
            for name in servers:
                told[name] += spent[name].answers
                row = compared(spent[name].answers, spent["one by one"].answers)
                same.append({"service": name, "requests": count, **row})
    return (
        [_rate(runs, name, count, clients) for name in servers],
        [{"service": name, **_waits(told[name])} for name in servers],
        same,
    )


def _rate(runs: Sequence[dict[str, Spent]], service: str, count: int, clients: int) -> Row:
    def over(name: str, what: str) -> float:
        return statistics.median(getattr(run[name], what) / getattr(run[service], what) for run in runs)

    def rate(name: str) -> float:
        return statistics.median(count / run[name].seconds for run in runs)

    return {
        "service": service, "clients": clients, "requests": count, "service, 1/s": rate(service),
        "ask_many, 1/s": rate("ask_many"), "one by one, 1/s": rate("one by one"),
        "service over ask_many": over("ask_many", "seconds"), "service over one by one": over("one by one", "seconds"),
        "CPU: ask_many over service": over("ask_many", "cpu"), "CPU: one by one over service": over("one by one", "cpu"),
    }  # fmt: skip


def _waits(told: Sequence[Told]) -> Row:
    seconds = [each.seconds for each in told if not each.error]
    first = [each.first for each in told if each.first is not None]
    return {
        "p50 s": percentile(seconds, 0.5), "p95 s": percentile(seconds, 0.95), "first token p50 s": percentile(first, 0.5),
        "first token p95 s": percentile(first, 0.95),
    }  # fmt: skip


# ---- fairness --------------------------------------------------------------------------------------------------------------


def crowd(server: Server, names: Sequence[str]) -> Row:
    """Clients who all come at once: the mean wait of the slowest over that of the fastest."""
    generator = np.random.default_rng(7)
    requests = [[Asked.of([drawn(generator)], QUESTIONS[k % 4]) for k in range(EACH)] for _ in names]
    together = threading.Barrier(len(names))

    def work(number: int) -> list[Told]:
        client = server.client(names[number])
        together.wait()
        return [ask(client, each, False, max_tokens=LONGEST) for each in requests[number]]

    told = at_once(work, len(names))
    waits = [statistics.mean(each.seconds for each in mine) for mine in told]
    return {
        "clients": len(names), "questions each": EACH, "errors": sum(bool(each.error) for mine in told for each in mine),
        "fastest mean wait s": min(waits), "slowest mean wait s": max(waits),
        "slowest over fastest wait": max(waits) / min(waits),
    }  # fmt: skip


# ---- memory ----------------------------------------------------------------------------------------------------------------


def soak(server: Server, count: int, clients: int = 4) -> Row:
    """The server's memory over short requests, each with a new picture."""
    sizes: list[int] = []
    errors: list[str] = []

    def work(client: openai.OpenAI, number: int) -> None:
        if number % max(1, count // 100) == 0:
            sizes.append(server.resident)
        picture = drawn(np.random.default_rng(10**6 + number), 32)
        found = ask(client, Asked.of([picture], QUESTIONS[0]), False, max_tokens=1)
        if found.error:
            errors.append(found.error)

    in_turns(server, clients, count, work)
    warm = sizes[len(sizes) // 5 :]
    tenth = max(1, len(warm) // 8)
    begin, end = statistics.median(warm[:tenth]), statistics.median(warm[-tenth:])
    return {
        "requests": count, "errors": len(errors), "after a fifth MB": begin / 1e6, "at the end MB": end / 1e6,
        "growth": end / begin - 1, "largest": max(warm) / begin - 1,
    }  # fmt: skip


# ---- the table -------------------------------------------------------------------------------------------------------------


class Report:
    """What was measured, printed and written as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: Row = {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "load": os.getloadavg()[0], "aims": AIMS,
        }  # fmt: skip

    def add(self, name: str, rows: list[Row]) -> None:
        self._found[name] = rows
        print(f"\n{name}\n\n{table(rows)}", flush=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves all but the memory out")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--soak", type=int, default=1000, help="requests while memory is looked at; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on both sides")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report(options.json)
    names = [f"client-{number:02}" for number in range(CROWD)]
    if options.rounds:
        lab = vila_lab.load()
        with (
            serving(SERVE, options.threads, names) as server,
            serving([*SERVE, "--batch", str(options.clients)], options.threads, names) as batched,
        ):
            report.add("start", [{"ready s": server.ready}])
            servers = {"alone": server, f"--batch {options.clients}": batched}
            rate, waits, same = rates(servers, lab, options.rounds, options.requests, options.clients)
            report.add("rate", rate)
            report.add("waits", waits)
            report.add("answers", same)
            report.add("at once", [{"service": name, **crowd(each, names)} for name, each in servers.items()])
    if options.soak:
        with serving(SMALL, options.threads) as server:
            report.add("memory", [soak(server, options.soak)])


if __name__ == "__main__":
    main()
