"""A server that is asked about new pictures again and again holds no more memory than at the beginning."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import vila_lab
from tests.serve.process import ASK, TOKEN, Process
from vila_lab.engine.answering import Answering
from vila_lab.serve.app import create_app

REQUESTS = int(os.environ.get("VILA_LAB_SOAK", "300"))
CACHE = 4 * 2**20  # bytes for what can be computed again; small, so that it is full when memory is first looked at
GROWTH = 0.02
ALLOWANCE = 4 * 2**20  # bytes; over 1,000 requests sizes were seen to lie within 3 MiB of each other
PROGRAM = (
    "import functools, sys; from vila_lab import cli, resident; "
    f"resident.load = functools.partial(resident.load, cache_bytes={CACHE}); sys.exit(cli.main(sys.argv[1:]))"
)


@pytest.fixture
def server(tmp_path) -> Iterator[Process]:
    found = Process(tmp_path, ("-c", PROGRAM, "serve"))
    found.start()
    yield found
    found.end()


def picture(number: int) -> str:
    """A picture nobody saw before."""
    drawn = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(drawn).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def asked(client: httpx.Client, number: int) -> int:
    shown = {"type": "image_url", "image_url": {"url": picture(number)}}
    content = [shown, {"type": "text", "text": "What is it?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    return client.post(ASK, json=body).status_code


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_new_pictures(server):
    sizes, statuses = [], set()
    with ThreadPoolExecutor(4) as pool, server.client() as client:
        for number in range(0, REQUESTS, 10):
            statuses |= set(pool.map(lambda k: asked(client, k), range(number, number + 10)))
            sizes.append(server.resident)
    assert statuses == {200}
    warm = sizes[len(sizes) // 5 :]
    few = max(1, len(warm) // 8)
    begin, end = statistics.median(warm[:few]), statistics.median(warm[-few:])
    assert end <= (1 + GROWTH) * begin + ALLOWANCE, [size // 2**20 for size in sizes]


def answerings() -> int:
    """How many answers under way are in memory; each holds the keys and values of its prompt."""
    return sum(type(each) is Answering for each in gc.get_objects())


def test_an_answered_question_is_let_go_of_at_once():
    """Not when Python next looks for garbage, which is hundreds of questions later."""
    app = create_app(vila_lab.load(), {"one": TOKEN})

    async def ask_all() -> None:
        transport, headers = httpx.ASGITransport(app=app), {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            for number in range(20):
                body = {"messages": [{"role": "user", "content": f"Hello {number}"}], "max_tokens": 1}
                found = await client.post(ASK, json={**body, "stream": number % 2 == 0})
                assert found.status_code == 200

    gc.collect()
    before = answerings()
    gc.disable()
    try:
        asyncio.run(ask_all())
        assert answerings() <= before + 1  # the last may still be held by the thread that answered it
    finally:
        gc.enable()
        app.state.worker.close(10)
