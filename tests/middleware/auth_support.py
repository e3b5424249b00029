"""What tests of authentication share: an app that shows what reached it, and a fetch that answers from a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.exchange import SCOPE_KEY, Exchange
from tests.support.messages import http_scope

Fields = list[tuple[bytes, bytes]]


class Reached:
    """An application that answers 200 and keeps the request's fields."""

    def __init__(self) -> None:
        self.requests: list[Fields] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append(list(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    def values(self, name: bytes) -> list[bytes]:
        """Of a field in the last request."""
        return [value for key, value in self.requests[-1] if key == name]


class Answer(NamedTuple):
    """What a fetch brings."""

    status: int = 200
    fields: Fields = []  # noqa: RUF012
    body: bytes = b""


class ScriptedFetch:
    """Answers every fetch with ``answer``, an error or the result of a function, and keeps what was asked."""

    def __init__(self, answer: Answer | GatewayError | Callable[[], Answer]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Fields]] = []

    async def __call__(self, url: str, fields: Sequence[tuple[bytes, bytes]]) -> Answer:
        self.asked.append((url, list(fields)))
        if isinstance(self.answer, GatewayError):
            raise self.answer
        return self.answer if isinstance(self.answer, Answer) else self.answer()

    def values(self, name: bytes) -> list[bytes]:
        """Of a field in the last question."""
        return [value for key, value in self.asked[-1][1] if key == name]


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def request(*fields: tuple[bytes, bytes], target: bytes = b"/", method: str = "GET") -> Scope:
    return http_scope(method, target, [(b"host", b"shop.example"), *fields])


def inside(scope: Scope, client: str = "192.0.2.7") -> Exchange:
    """Give a scope the exchange that it would have in the gateway."""
    exchange = scope[SCOPE_KEY] = Exchange(scope.get("method", "GET"), b"/")
    exchange.client = client
    return exchange
