"""Copies of requests to a second upstream, whose answers nobody sees."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.exchange import SCOPE_KEY, Exchange, exchange_of
from gateway.proxy.request_body import has_body

logger = logging.getLogger("gateway")

MAX_MIRRORED = 256
"""Copies under way at one time for one route; requests beyond are not copied."""


class MirrorCounts:
    """What became of the copies of one route."""

    __slots__ = ("answered", "failed", "skipped")

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        """No answer, or one with a status from 500 up."""
        self.skipped = 0
        """Not copied: the body was too large, or too many copies were under way."""


class MirrorHandler:
    """Runs ``app`` and sends a copy of some requests to ``shadow``.

    ``share`` is between 0 and 1. A request whose body exceeds ``max_body`` bytes is not copied, and a copy ends after
    ``timeout_s`` seconds. The copy starts when the body is complete and is never waited for; what becomes of it is
    seen in ``counts`` alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        shadow: ASGIApp,
        *,
        share: float = 1.0,
        max_body: int = 64 * 1024,
        timeout_s: float = 5.0,
        counts: MirrorCounts | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.app = app
        self.shadow = shadow
        self.share = share
        self.max_body = max_body
        self.timeout_s = timeout_s
        self.counts = counts if counts is not None else MirrorCounts()
        self._rng = rng or random.Random()
        self._copies: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._rng.random() >= self.share:
            await self.app(scope, receive, send)
            return
        carries_body, length = has_body(scope["headers"], scope["http_version"])
        if (length or 0) > self.max_body or len(self._copies) >= MAX_MIRRORED:
            self.counts.skipped += 1
            await self.app(scope, receive, send)
        elif not carries_body:
            self._copy(scope, b"")
            await self.app(scope, receive, send)
        else:
            await self.app(
                scope, _Tee(receive, self.max_body, lambda body: self._copy_whole(scope, body)).receive, send
            )

    async def aclose(self) -> None:
        """Cancel the copies under way."""
        for task in self._copies:
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    def _copy_whole(self, scope: Scope, body: bytes | None) -> None:
        if body is None:
            self.counts.skipped += 1
        else:
            self._copy(scope, body)

    def _copy(self, scope: Scope, body: bytes) -> None:
        original = exchange_of(scope)
        exchange = Exchange(scope["method"], scope["raw_path"])
        if original is not None:
            for name in ("client", "peer", "scheme", "host", "public_host", "request_id", "route", "params"):
                setattr(exchange, name, getattr(original, name))
        task = asyncio.create_task(self._run({**scope, SCOPE_KEY: exchange, "extensions": {}}, body))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _run(self, scope: Scope, body: bytes) -> None:
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        status = 0

        async def discard(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        try:
            async with asyncio.timeout(self.timeout_s):
                await self.shadow(scope, receive, discard)
        except (GatewayError, TimeoutError) as error:
            self.counts.failed += 1
            logger.debug("a mirrored request failed: %s", error)
        else:
            if status < 500:
                self.counts.answered += 1
            else:
                self.counts.failed += 1


class _Tee:
    """A ``receive`` that gathers the body on its way; ``complete`` gets it, or None when it is too large."""

    __slots__ = ("_complete", "_max_bytes", "_pieces", "_receive", "_size")

    def __init__(self, receive: Receive, max_bytes: int, complete: Callable[[bytes | None], None]) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._complete: Callable[[bytes | None], None] | None = complete
        self._pieces: list[bytes] = []
        self._size = 0

    async def receive(self) -> Message:
        message = await self._receive()
        complete = self._complete
        if complete is None:
            return message
        if message["type"] != "http.request":
            self._complete = None
            return message
        piece = message.get("body", b"")
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > self._max_bytes:
            self._complete = None
            self._pieces.clear()
            complete(None)
        elif not message.get("more_body", False):
            self._complete = None
            complete(b"".join(self._pieces))
        return message
