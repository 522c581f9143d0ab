"""Figures of the service for Prometheus, named after vLLM's. Knows times and counts, no question."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .worker import Worker

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Figures:
    """What is counted, each server with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "vila_lab"}
        self._running = Gauge("num_requests_running", "Questions being answered", **own)
        self._waiting = Gauge("num_requests_waiting", "Questions in the queue", **own)
        self._answers = Gauge("answers_kept_bytes", "Answers that are kept for their owners", **own)
        self._kept = Gauge("prefix_cache_bytes", "Keys and values of prompts that are kept", **own)
        self.ended = Counter("request_success", "Questions that ended, by how", ["finished_reason"], **own)
        self.tokens = Counter("generation_tokens", "Tokens that were said", **own)
        self.read = Counter("prompt_tokens", "Positions of prompts", **own)
        self.asked = Counter("prefix_cache_queries", "Positions of prompts that might be known", **own)
        self.known = Counter("prefix_cache_hits", "Positions of prompts that were not computed again", **own)
        times = {**own, "buckets": SECONDS}
        self.queued = Histogram("request_queue_time_seconds", "From a request to its begin", **times)
        self.first = Histogram("time_to_first_token_seconds", "From a request to its first token", **times)
        self.between = Histogram("inter_token_latency_seconds", "From a token to the next", **times)
        self.whole = Histogram("e2e_request_latency_seconds", "From a request to its end", **times)

    def look(self, worker: Worker, lab: Any, answers: int) -> None:
        """Read what is true now.

        Parameters
        ----------
        worker, lab
        answers
            Bytes of answers that are kept.
        """
        self._answers.set(answers)
        self._running.set(worker.running)
        self._waiting.set(worker.waiting)
        self._kept.set(lab.memory().prefix)

    def timer(self) -> Timer:
        """The times of one request, from now on."""
        return Timer(self)


class Timer:
    """The times of one request."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._start = time.monotonic()
        self._last: float | None = None

    def begins(self) -> None:
        self._figures.queued.observe(time.monotonic() - self._start)

    def token(self) -> None:
        now = time.monotonic()
        if self._last is None:
            self._figures.first.observe(now - self._start)
        else:
            self._figures.between.observe(now - self._last)
        self._last = now
        self._figures.tokens.inc()

    def read(self, positions: int, reused: int) -> None:
        self._figures.read.inc(positions)
        self._figures.asked.inc(positions)
        self._figures.known.inc(reused)

    def ends(self, how: str) -> None:
        self._figures.whole.observe(time.monotonic() - self._start)
        self._figures.ended.labels(how).inc()
