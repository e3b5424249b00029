"""Sheds requests while the process has more to do than it can: those that run are finished in time instead.

app.add_middleware(OverloadMiddleware, max_in_flight=1000)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Overloaded
from gateway.middleware.concurrency import InFlight
from gateway.middleware.refusal import refuse


class OverloadMiddleware:
    """Answers 503 with Retry-After beyond ``max_in_flight`` requests, or ``max_loop_lag_s`` of event-loop lag; 0 = off.

    ``in_flight`` is a count that somebody else keeps, in which the request at hand is included; without one the
    middleware counts what passes it. ``loop_lag`` tells how many seconds late the event loop is. An open WebSocket is
    in flight. Raises ValueError for a bound on a lag that nobody measures.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_in_flight: int = 0,
        max_loop_lag_s: float = 0.0,
        in_flight: InFlight | None = None,
        loop_lag: Callable[[], float] | None = None,
    ) -> None:
        if max_loop_lag_s and loop_lag is None:
            raise ValueError("max_loop_lag_s needs loop_lag")
        self.app = app
        self.max_in_flight = max_in_flight
        self.max_loop_lag_s = max_loop_lag_s
        self.in_flight = in_flight or InFlight()
        self._counts = in_flight is None
        self._loop_lag = loop_lag if max_loop_lag_s else None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        return self._count(scope, receive, send) if self._counts else self._pass(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight.count += 1
        try:
            await self._pass(scope, receive, send)
        finally:
            self.in_flight.count -= 1

    # A plain function that returns the next one's awaitable: a coroutine of its own would cost 0.5 us.
    def _pass(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        reason = self.overload()
        return refuse(Overloaded(reason), scope, send) if reason else self.app(scope, receive, send)

    def overload(self, *, arriving: int = 0) -> str:
        """Why a request must be shed that is counted already, or else is ``arriving``; empty when it need not."""
        in_flight = self.in_flight.count + arriving
        if self.max_in_flight and in_flight > self.max_in_flight:
            return f"{in_flight - 1} requests are in flight in the process"
        if self._loop_lag is not None and (lag_s := self._loop_lag()) > self.max_loop_lag_s:
            return f"the event loop is {lag_s * 1000:.0f} ms late"
        return ""
