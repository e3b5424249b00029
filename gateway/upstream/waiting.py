"""Requests that wait for room at an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from gateway.errors import ConnectFailed, GatewayError, NoEndpoint, QueueFull, UpstreamTimeout
from gateway.exchange import Scope
from gateway.upstream.endpoint import Endpoint

Acquire = Callable[[Scope, Collection[Endpoint]], Endpoint | None]
"""Counts a request in flight at an endpoint; None while there is no room. Raises NoEndpoint or ConnectFailed."""


class WaitingLine:
    """Requests in the order of arrival; what they are given is counted in flight already. Times in seconds."""

    def __init__(self, upstream: str, release: Callable[[Endpoint], None]) -> None:
        self._upstream = upstream
        self._release = release
        self._waiters: dict[_Waiter, None] = {}
        self._is_serving = False

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(
        self, scope: Scope, tried: Collection[Endpoint], *, now: float, timeout_s: float, queue_timeout_s: float
    ) -> Endpoint:
        """An endpoint, once there is room. Raises QueueFull or UpstreamTimeout for whichever time passes first."""
        waiter = _Waiter(scope, tried, now, timeout_s, queue_timeout_s)
        self._waiters[waiter] = None
        try:
            return await waiter.future
        except BaseException:
            # A place may have been given in the very moment in which the request was cancelled.
            given = waiter.given()
            if given is not None:
                self._release(given)
            raise
        finally:
            self._waiters.pop(waiter, None)

    def give(self, endpoint: Endpoint) -> bool:
        """Give a place that became free to the first who wants it; False when nobody does."""
        for waiter in self._waiters:
            if not waiter.future.done() and endpoint not in waiter.tried:
                endpoint.in_flight += 1
                endpoint.requests += 1
                del self._waiters[waiter]
                waiter.future.set_result(endpoint)
                return True
        return False

    def serve(self, acquire: Acquire) -> None:
        """Let those go on who can, and send those away who have nothing left to wait for."""
        if self._is_serving:
            # Whoever gets a place changes what there is to have.
            return
        self._is_serving = True
        try:
            for waiter in list(self._waiters):
                if waiter.future.done():
                    continue
                try:
                    endpoint = acquire(waiter.scope, waiter.tried)
                except (NoEndpoint, ConnectFailed) as error:
                    waiter.fail(error)
                    continue
                if endpoint is not None:
                    del self._waiters[waiter]
                    waiter.future.set_result(endpoint)
        finally:
            self._is_serving = False

    def expire(self, now: float) -> None:
        """Send those away whose time has passed."""
        for waiter in list(self._waiters):
            waiter.expire(now, self._upstream)

    def close(self, error: GatewayError) -> None:
        """Send everybody away with ``error``."""
        for waiter in list(self._waiters):
            waiter.fail(error)


class _Waiter:
    """One of them."""

    __slots__ = ("_deadline", "_is_queue_timeout", "future", "scope", "tried")

    def __init__(
        self, scope: Scope, tried: Collection[Endpoint], now: float, timeout_s: float, queue_timeout_s: float
    ) -> None:
        self.scope = scope
        self.tried = tried
        self.future: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        self._is_queue_timeout = queue_timeout_s <= timeout_s
        self._deadline = now + min(timeout_s, queue_timeout_s)

    def expire(self, now: float, upstream: str) -> None:
        """Give up when the deadline has passed."""
        if now < self._deadline:
            return
        reason = f"upstream {upstream}: all endpoints stayed full"
        self.fail(QueueFull(reason) if self._is_queue_timeout else UpstreamTimeout(reason, request_sent=False))

    def fail(self, error: GatewayError) -> None:
        """End the waiting with ``error``."""
        if not self.future.done():
            self.future.set_exception(error)

    def given(self) -> Endpoint | None:
        """The endpoint that was given, whether or not the request has taken notice."""
        future = self.future
        if future.done() and not future.cancelled() and future.exception() is None:
            return future.result()
        return None
