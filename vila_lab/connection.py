"""Connection: requests to a service of vila_lab, and its refusals as the errors that they are. Knows HTTP, no answers."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from . import errors
from .errors import OptionError, ServiceError, VilaLabError

LOCAL = ("127.0.0.1", "localhost", "::1")
CONNECT = 10.0  # seconds to reach a server
READ = 660.0  # seconds that it may keep silent: its own limit of a question, and some in the queue
PATIENCE = 60.0  # seconds in which a busy server is asked again
PAUSE = 0.1  # seconds between two looks whether a server is ready
EVENTS = {"Accept": "text/event-stream"}


class AnswerGone(ServiceError):
    """The server does not keep this answer any more."""


class Connection:
    """One server.

    Parameters
    ----------
    url
        Such as "http://127.0.0.1:8000".
    token
        What the server asks for.

    Raises
    ------
    OptionError
        If the address is none, or the token cannot be sent.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url if isinstance(url, str) else "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{url!r} is no address of a server; write http://host:port")
        if token is not None and (not isinstance(token, str) or not token.isascii() or not token.isprintable()):
            raise OptionError("the token has characters that no token has")
        # Behind a proxy it may lie below a path; what OpenAI's clients are given is the same server.
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(READ, connect=CONNECT),
            trust_env=parts.hostname not in LOCAL,  # a proxy does not lead to this machine
        )

        self._end = weakref.finalize(self, self._client.close)

    def close(self) -> None:
        """Let go of what is open."""
        self._end()

    def wait(self, seconds: float) -> None:
        """Until the server can answer a question, so many seconds at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.get("/readyz")
                return
            except ServiceError:
                time.sleep(PAUSE)

    def get(self, path: str, **query: Any) -> bytes:
        """What is at a path."""
        return self._asked("GET", path, params=query)

    def delete(self, path: str) -> None:
        """Have the server let go of something."""
        self._asked("DELETE", path)

    def post(self, path: str, data: bytes | None = None, table: Any = None) -> bytes:
        """Send bytes or a table, and get the response."""
        kind = {"Content-Type": "application/json" if data is None else "application/octet-stream"}
        return self._asked("POST", path, content=_json(table) if data is None else data, headers=kind)

    @contextmanager
    def events(self, path: str, data: bytes | None = None, table: Any = None) -> Iterator[Iterator[dict[str, Any]]]:
        """Send bytes or a table, and get the events of the response as they come; leaving the block ends it.

        Raises
        ------
        VilaLabError
            As the server tells it, before the first event or in place of the next.
        """
        kind = {"Content-Type": "application/json" if data is None else "application/octet-stream"}
        content = _json(table) if data is None else data
        with self._translated():
            request = self._client.build_request("POST", path, content=content, headers={**kind, **EVENTS})
            response = self._sent(request, stream=True)
        try:
            yield self._events(response)
        finally:
            response.close()

    def _events(self, response: httpx2.Response) -> Iterator[dict[str, Any]]:
        with self._translated():
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise self._error(int(event["error"].get("code") or 500), event, None)
                yield event

    def _asked(self, method: str, path: str, **more: Any) -> bytes:
        with self._translated():
            return self._sent(self._client.build_request(method, path, **more)).content

    def _sent(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response:
        """The response; a server that is busy for a moment is asked again."""
        end = time.monotonic() + PATIENCE
        while True:
            response = self._client.send(request, stream=stream)
            if response.is_success:
                return response
            response.read()
            response.close()
            pause = _number(response.headers.get("retry-after"))
            if response.status_code != 429 or pause is None or time.monotonic() + pause > end:
                raise self._error(response.status_code, _table(response), pause)
            time.sleep(pause)

    def _error(self, status: int, told: Mapping[str, Any], pause: float | None) -> VilaLabError:
        """The error that a refusal is."""
        found = told.get("error")
        error = found if isinstance(found, Mapping) else {}
        message, kind = str(error.get("message") or f"status {status}"), error.get("vila_lab")
        known = getattr(errors, kind, None) if isinstance(kind, str) else None
        if isinstance(known, type) and issubclass(known, VilaLabError):
            return known(message)
        if kind == AnswerGone.__name__:
            return AnswerGone(message)
        if status == 401:
            return ServiceError(
                f"{self.url} does not know this token; give the one that it printed: connect(url, token=...)"
            )
        later = "" if pause is None else f"; it will be there again in {pause:g} s"
        return ServiceError(f"{self.url}: {message}{later}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What goes wrong on the way, as one sentence."""
        if self._client.is_closed:
            raise ServiceError(f"this session of {self.url} was closed; vila_lab.connect({self.url!r}) makes another")
        try:
            yield
        except httpx2.TimeoutException as error:
            raise ServiceError(f"{self.url} did not answer in time; is it still there?") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise ServiceError(
                f"{self.url} cannot be reached, or ended in the middle ({type(error).__name__}); is `vila-lab serve` running there?"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, VilaLabError):
                raise
            raise ServiceError(
                f"{self.url} answers in another way than vila_lab does ({error}); is it one of its servers?"
            ) from error


def _json(table: Any) -> bytes:
    return json.dumps({} if table is None else table, ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )


def _table(response: httpx2.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.1, float(text))
    except ValueError:
        return None
