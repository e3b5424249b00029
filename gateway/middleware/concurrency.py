"""Bounds how many requests run at one time.

app.add_middleware(ConcurrencyMiddleware, max_concurrent=100)
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Overloaded
from gateway.middleware.refusal import refuse


class InFlight:
    """Requests that run now."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ConcurrencyMiddleware:
    """Answers 503 with Retry-After to what exceeds ``max_concurrent`` requests in flight.

    A WebSocket is in flight while it is open. ``in_flight`` is a count shared with other instances, such as the one
    that a reload replaces.
    """

    def __init__(self, app: ASGIApp, *, max_concurrent: int, in_flight: InFlight | None = None) -> None:
        if max_concurrent < 1:
            raise ValueError("max_concurrent must be at least 1")
        self.app = app
        self.max_concurrent = max_concurrent
        self.in_flight = in_flight or InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        in_flight = self.in_flight
        if not self.has_room:
            await refuse(Overloaded(f"{in_flight.count} requests are in flight on the route"), scope, send)
            return
        in_flight.count += 1
        try:
            await self.app(scope, receive, send)
        finally:
            in_flight.count -= 1

    @property
    def has_room(self) -> bool:
        """Whether one more request may begin."""
        return self.in_flight.count < self.max_concurrent
