"""Bounds how many requests run at one time.

app.add_middleware(ConcurrencyMiddleware, max_concurrent=100)
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Overloaded
from gateway.middleware.refusal import refuse


class ConcurrencyMiddleware:
    """Answers 503 with Retry-After to what exceeds ``max_concurrent`` requests in flight."""

    def __init__(self, app: ASGIApp, *, max_concurrent: int) -> None:
        if max_concurrent < 1:
            raise ValueError("max_concurrent must be at least 1")
        self.app = app
        self.max_concurrent = max_concurrent
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.in_flight >= self.max_concurrent:
            await refuse(Overloaded(f"{self.in_flight} requests are in flight"), scope, send)
            return
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1
