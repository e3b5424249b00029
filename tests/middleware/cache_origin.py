"""A scripted application below the cache, and a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.dates import http_date
from gateway.middleware.cache import CacheMiddleware
from tests.support.messages import Fields, Sent, call, http_scope

START = 1_700_000_000.0
HOST = (b"host", b"example.com")


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def date(self, offset_s: float = 0.0) -> bytes:
        return http_date(self.now + offset_s)


class Answer:
    """One answer: its head, its pieces; a gate before the head, before each later piece; an error at the end."""

    def __init__(
        self,
        status: int = 200,
        headers: Fields = (),
        pieces: Iterable[bytes] = (b"body",),
        *,
        gate: asyncio.Event | None = None,
        piece_gate: asyncio.Event | None = None,
        error: Exception | None = None,
        error_before_head: Exception | None = None,
        dated: bool = True,
        whole: bool = False,
    ) -> None:
        self.status = status
        self.headers = list(headers)
        self.pieces = list(pieces)
        self.gate = gate
        self.piece_gate = piece_gate
        self.error = error
        self.error_before_head = error_before_head
        self.dated = dated
        self.start: dict[str, Any] = {WHOLE_FOLLOWS: True} if whole else {}


class Origin:
    """Gives its answers in turn, the last one again and again; keeps the scopes it was called with."""

    def __init__(self, clock: Clock, *answers: Answer, choose: Callable[[Scope], Answer] | None = None) -> None:
        self.clock = clock
        self.answers = list(answers) or [Answer()]
        self.choose = choose
        self.scopes: list[Scope] = []
        self.called = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self.scopes)

    def asked(self, index: int = -1) -> dict[bytes, bytes]:
        """The fields of one of its requests."""
        return dict(self.scopes[index]["headers"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.called.set()
        if self.choose is not None:
            answer = self.choose(scope)
        else:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.gate is not None:
            await answer.gate.wait()
        if answer.error_before_head is not None:
            raise answer.error_before_head
        headers = list(answer.headers)
        if answer.dated and not any(name == b"date" for name, _ in headers):
            headers.append((b"date", self.clock.date()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers, **answer.start})
        for index, piece in enumerate(answer.pieces):
            if index and answer.piece_gate is not None:
                await answer.piece_gate.wait()
            more = index < len(answer.pieces) - 1 or answer.error is not None
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if answer.error is not None:
            raise answer.error


def cached(app: ASGIApp, clock: Clock, **settings: Any) -> CacheMiddleware:
    """The middleware with the clock that stands still."""
    return CacheMiddleware(app, clock=clock, **settings)


async def get(app: ASGIApp, target: bytes = b"/", *headers: tuple[bytes, bytes], **scope: Any) -> Sent:
    """One GET."""
    return await call(app, http_scope("GET", target, [HOST, *headers], **scope))


async def ask(app: ASGIApp, method: str, target: bytes = b"/", *headers: tuple[bytes, bytes], **scope: Any) -> Sent:
    """One request."""
    return await call(app, http_scope(method, target, [HOST, *headers], **scope))


def status_of(sent: Sent) -> bytes:
    """Cache-Status of an answer."""
    return sent.values(b"cache-status")[-1]


def is_hit(sent: Sent) -> bool:
    return status_of(sent).startswith(b"gateway; hit")


async def settle(turns: int = 20) -> None:
    """Let tasks that can run do so."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Client:
    """One request in a task, whose messages can be awaited and held back, and which can leave."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.sent = Sent()
        self.writable = asyncio.Event()
        self.writable.set()
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.writable.wait()
        await self.sent(message)
        self._arrived.set()

    def leave(self) -> None:
        self._left.set()

    async def until(self, done: Callable[[Sent], bool]) -> None:
        """Wait for something to have been sent."""
        while not done(self.sent):
            self._arrived.clear()
            await self._arrived.wait()
